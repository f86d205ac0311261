"""Finds the largest batch that fits, exactly, in few tries: each try says whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A model whose memory does not grow with its batch fits at any.
MAX_BATCH_SIZE = 2**20


@dataclass(frozen=True, kw_only=True)
class Try:
    """What came of one batch size: whether it fits, and its peak where that is known."""

    batch_size: int
    fits: bool
    peak_bytes: int | None = None


def largest_batch(
    attempt: Callable[[int], Try],
    *,
    start: int,
    budget_bytes: int | None = None,
    most: int = MAX_BATCH_SIZE,
) -> int:
    """Return the largest batch size that fits, 0 if not even one image does.

    It ends with a batch that was seen to fit and the next larger one that was seen not to; that what is
    smaller than a fitting one fits as well is taken for granted. `most` is the largest that is tried.

    Args:
        attempt: tries one batch size.
        start: the first to try; the nearer it is, the fewer tries.
        budget_bytes: what the peaks are held against; with it the next try is where the line through
            the known peaks meets it, else the distance doubles until the answer lies between two.
        most: no larger batch is tried.
    """
    fitting, failing = 0, most + 1
    tries: list[Try] = []
    batch_size, step = min(max(1, start), most), 1
    while failing - fitting > 1:
        one = attempt(batch_size)
        tries.append(one)
        if one.fits:
            fitting = batch_size
        else:
            failing = batch_size
        step *= 2
        aim = _aim(tries, budget_bytes)
        if aim is None:
            aim = _gallop(fitting, failing, step, most)
        # A line that leads on and on to one side would take many tries: halve what is left instead.
        if len(tries) % 4 == 0 and fitting > 0 and failing <= most:
            aim = (fitting + failing) // 2
        batch_size = min(max(aim, fitting + 1), failing - 1)
    return fitting


def _aim(tries: list[Try], budget_bytes: int | None) -> int | None:
    """Return where the line through the two last known peaks meets the budget; the origin is the first."""
    known = [one for one in tries if one.peak_bytes is not None]
    if budget_bytes is None or not known or known[-1] is not tries[-1]:
        return None
    last = known[-1]
    before = known[-2] if len(known) > 1 else Try(batch_size=0, fits=True, peak_bytes=0)
    rise = (last.peak_bytes or 0) - (before.peak_bytes or 0)
    run = last.batch_size - before.batch_size
    if rise * run <= 0:
        return None
    aim = last.batch_size + (budget_bytes - (last.peak_bytes or 0)) * run // rise
    # As far off as that, a line says little.
    return min(aim, 2 * last.batch_size + 1) if last.fits else max(aim, last.batch_size // 2)


def _gallop(fitting: int, failing: int, step: int, most: int) -> int:
    """Return the next batch size when nothing but what fits is known."""
    if failing > most:
        return fitting + step
    if fitting == 0:
        return failing - step
    return (fitting + failing) // 2
