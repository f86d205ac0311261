"""What two settings differ by, from records of cells that ran in pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from cnnbench.stats import MIN_DELTA, MIN_PAIRS, Comparison, compare, noise_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cnnbench.measurement import Window
    from cnnbench.record import Record
    from cnnbench.stats import Pair

# Baseline and candidate, which took turns, each in a process of its own.
RecordPair: TypeAlias = "tuple[Record, Record]"

# Of an undisturbed process: fewer say nothing of how its windows vary.
MIN_WINDOWS = 2


def compare_pairs(pairs: Sequence[RecordPair], *, delta: float = MIN_DELTA) -> Comparison:
    """Judge a candidate against its baseline, by the windows in which nobody else was at work.

    Windows that others disturbed are left out with those that were timed beside them, and a pair of
    processes where too few are left: which of the two a neighbour hits is chance, and would pass for a
    difference. Where too few pairs are left
    the verdict is `inconclusive`, whatever they say. A cell that did not complete, or is invalid,
    makes it `invalid`.
    """
    for record in (record for pair in pairs for record in pair):
        reason = _why_incomparable(record)
        if reason:
            return Comparison(
                verdict="invalid", delta=delta, num_pairs=0, reason=f"{record.cell.name}: {reason}"
            )
    kept = undisturbed(pairs)
    num_lost = len(pairs) - len(kept)
    if num_lost == 0:
        return compare(kept, delta=delta)
    lost = f"others used the machine in {num_lost} of {len(pairs)} pairs"
    if not kept:
        return Comparison(verdict="inconclusive", delta=delta, num_pairs=0, reason=lost)
    found = compare(kept, delta=delta)
    return replace(found, reason="; ".join(filter(None, (lost, found.reason))))


def compare_until_decided(
    runs: Iterable[RecordPair],
    *,
    delta: float = MIN_DELTA,
    min_pairs: int = MIN_PAIRS + 1,
    on_pair: Callable[[Comparison], None] = lambda _: None,
) -> Comparison:
    """Take pairs from `runs` until the verdict is no longer `inconclusive`, or they end.

    Looking again after each pair would raise the false alarms of a test against "no difference"; here
    a whole interval has to leave, or enter, a zone of `delta` around it.

    Args:
        runs: yields pairs as they are measured; no more are taken than needed.
        delta: the relative difference that does not matter.
        min_pairs: before so many pairs nothing is decided.
        on_pair: told what is known after each pair.
    """
    pairs: list[RecordPair] = []
    found = compare_pairs(pairs, delta=delta)
    for pair in runs:
        pairs.append(pair)
        found = compare_pairs(pairs, delta=delta)
        on_pair(found)
        if found.verdict == "invalid":
            break
        if found.verdict != "inconclusive" and found.num_pairs >= min_pairs:
            break
    return found


def measure_noise_floor(pairs: Sequence[RecordPair]) -> float | None:
    """Return the difference that identical settings show; `None` with too few undisturbed pairs."""
    kept = undisturbed(pairs)
    return noise_floor(kept) if len(kept) >= MIN_PAIRS else None


def undisturbed(pairs: Sequence[RecordPair]) -> Sequence[Pair]:
    """Return the step seconds of undisturbed windows, of the pairs that have enough of them."""
    found = []
    for baseline, candidate in pairs:
        quiet = [
            (ours.step_seconds, theirs.step_seconds)
            for ours, theirs in zip(_windows(baseline), _windows(candidate), strict=False)
            if not (ours.is_disturbed or theirs.is_disturbed)
        ]
        if len(quiet) >= MIN_WINDOWS:
            found.append(([ours for ours, _ in quiet], [theirs for _, theirs in quiet]))
    return found


def _windows(record: Record) -> tuple[Window, ...]:
    return record.profile.windows if record.profile else ()


def _why_incomparable(record: Record) -> str:
    if record.status != "completed":
        return f"{record.status.replace('_', ' ')}: {record.error}"
    if record.validity == "invalid":
        return "; ".join(record.validity_reasons)
    return "" if record.profile else "it was not timed"
