"""Frontiers: what nothing else beats in both of two respects."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


def frontier(
    items: Iterable[T], *, cost: Callable[[T], float], gain: Callable[[T], float]
) -> list[T]:
    """Return the items that no other has more `gain` than for the same `cost` or less, cheapest first.

    Of equals in both the first stays. Takes the time of a sort.

    >>> frontier([(1, 5), (2, 4), (3, 9)], cost=lambda p: p[0], gain=lambda p: p[1])
    [(1, 5), (3, 9)]
    """
    kept: list[T] = []
    for item in sorted(items, key=lambda item: (cost(item), -gain(item))):
        if not kept or gain(item) > gain(kept[-1]):
            kept.append(item)
    return kept
