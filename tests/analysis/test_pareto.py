"""A frontier holds what nothing else beats, and nothing more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cnnbench.analysis.pareto import frontier

POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)))


def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@given(POINTS)
def test_a_point_is_kept_if_and_only_if_no_other_beats_it(points: list[tuple[int, int]]) -> None:
    kept = frontier(points, cost=lambda p: p[0], gain=lambda p: p[1])
    assert set(kept) == {p for p in points if not any(beats(q, p) for q in points)}
    assert kept == sorted(set(kept))
