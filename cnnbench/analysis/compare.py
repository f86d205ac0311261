"""Two sweeps, cell by cell: what changed from one to the other, how surely, and along which axis."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnnbench.analysis.settings import setting_key
from cnnbench.analysis.unpaired import NUM_RESAMPLES, Ratio, judge_ratio, rate_of, ratio_of
from cnnbench.stats import CONFIDENCE, MIN_DELTA, expanded_tail, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from cnnbench.cell import Cell
    from cnnbench.record import Record

    Floats: TypeAlias = NDArray[np.float32]
    Grouped: TypeAlias = dict[tuple[Any, ...], list[Record]]

# How many numbers one step of a bootstrap over cells may hold.
MAX_DRAWN = 1_000_000
AXES = ("architecture", "precision", "batch_size", "checkpointing", "memory_format", "compile")
NO_ENVIRONMENT = {"peaks", "command", "profile"}
LOST = ("out_of_memory", "diverged", "timeout", "failed")


@dataclass(frozen=True, kw_only=True)
class CellEffect:
    """What became of one setting from the base to the candidate.

    `verdict` is that on images per second, or on what became of a cell that did not complete.
    `ratio` is the candidate's images per second over the base's, `low` and `high` bound it with 95 %
    confidence; `memory_ratio` is that of the peaks (of what `settings.memory_of` would not count: the
    tensors' peak, which explains), with its own verdict, and `accuracy_change` the difference of the best
    validation accuracies, a fraction. All are `None` where there is nothing to compare.
    """

    cell: Cell
    verdict: str
    reason: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    num_processes: int = 0
    memory_ratio: float | None = None
    memory_verdict: str | None = None
    accuracy_change: float | None = None


@dataclass(frozen=True, kw_only=True)
class GroupEffect:
    """What the cells that share one value of an axis changed by, on the geometric mean."""

    axis: str
    value: str
    num_cells: int
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    memory_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that the two environments do not share."""

    name: str
    base: str
    candidate: str


@dataclass(frozen=True, kw_only=True)
class SweepComparison:
    """Two sweeps held against each other; `overall` is over all cells that both measured."""

    delta: float
    environment: tuple[Difference, ...]
    cells: tuple[CellEffect, ...]
    overall: GroupEffect
    axes: tuple[GroupEffect, ...]
    only_base: tuple[Cell, ...]
    only_candidate: tuple[Cell, ...]

    @property
    def num_regressed(self) -> int:
        """Return how many cells lost speed, took more memory, or no longer complete."""
        return sum("regressed" in {cell.verdict, cell.memory_verdict} for cell in self.cells)

    @property
    def exit_code(self) -> int:
        """Return 1 after a regression, 3 where the whole is inconclusive or invalid, else 0."""
        if self.num_regressed or self.overall.verdict == "regressed":
            return 1
        return 3 if self.overall.verdict in {"inconclusive", "invalid"} else 0


def compare_sweeps(
    base: Iterable[Record],
    candidate: Iterable[Record],
    *,
    environments: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] = ((), ()),
    delta: float = MIN_DELTA,
) -> SweepComparison:
    """Hold two sweeps against each other, in time proportional to their cells.

    Cells match that differ in seed, timing and the training's length at most; seeds of one setting are
    its processes. Of several environments on one side, the one in which the setting ran last counts.

    Args:
        base: records of what is known.
        candidate: records of what is new.
        environments: of each side, as `environment.json` holds them.
        delta: the relative difference that does not matter.
    """
    ours, theirs = _by_setting(base), _by_setting(candidate)
    rng = np.random.default_rng(0)
    cells: list[CellEffect] = []
    draws: list[Floats] = []
    for key in ours:
        if key in theirs:
            cell, drawn = _cell_effect(ours[key], theirs[key], delta, rng)
            cells.append(cell)
            draws.append(drawn)
    drawn_by_cell = np.stack(draws) if draws else np.empty((0, NUM_RESAMPLES), np.float32)
    return SweepComparison(
        delta=delta,
        environment=tuple(environment_differences(*environments)),
        cells=tuple(cells),
        overall=_group("all", "", range(len(cells)), cells, drawn_by_cell, delta),
        axes=tuple(_axis_effects(cells, drawn_by_cell, delta)),
        only_base=tuple(group[0].cell for key, group in ours.items() if key not in theirs),
        only_candidate=tuple(group[0].cell for key, group in theirs.items() if key not in ours),
    )


def environment_differences(
    base: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    """Return what the environments of the two sides do not share, the device and the libraries first.

    What was measured in a session (peaks), and the command, are no part of an environment; and what one
    side does not speak of at all is not compared.
    """
    if not base or not candidate:
        return []
    shared = set.intersection(*(set(one) for one in (*base, *candidate))) - NO_ENVIRONMENT
    ours, theirs = (
        [_flat({name: one[name] for name in one if name in shared}) for one in side]
        for side in (base, candidate)
    )
    names = dict.fromkeys(name for one in (*ours, *theirs) for name in one)
    found = []
    for name in names:
        left, right = (
            " / ".join(dict.fromkeys(one.get(name, "-") for one in side)) for side in (ours, theirs)
        )
        if left != right:
            found.append(Difference(name=name, base=left, candidate=right))
    return found


def _flat(environment: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the environment as one level of texts, named like `libraries.numpy`."""
    found: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        elif value is not None:
            found[f"{prefix}{name}"] = str(value)
    return found


def _by_setting(records: Iterable[Record]) -> Grouped:
    groups: Grouped = {}
    for record in records:
        groups.setdefault(setting_key(record.cell), []).append(record)
    for key, group in groups.items():
        latest = max(group, key=lambda record: record.finished_at)
        place = (latest.environment_hash, latest.device)
        groups[key] = [r for r in group if (r.environment_hash, r.device) == place]
    return groups


def _cell_effect(
    base: list[Record], candidate: list[Record], delta: float, rng: np.random.Generator
) -> tuple[CellEffect, Floats]:
    """Return the effect, and the logarithms of ratios that resampling could have given, or NaN."""
    nothing = np.full(NUM_RESAMPLES, np.nan, np.float32)
    cell = base[0].cell
    verdict, reason = _incomparable(base, candidate)
    if verdict:
        return CellEffect(cell=cell, verdict=verdict, reason=reason), nothing
    memory = _ratio_of_peaks(base, candidate)
    plain: dict[str, Any] = {
        "cell": cell,
        "memory_ratio": memory,
        # A peak repeats to the byte: it is its own interval. Less memory is an improvement.
        "memory_verdict": None if memory is None else judge(1 / memory, 1 / memory, delta=delta),
        "accuracy_change": _accuracy_change(base, candidate),
    }
    ours, theirs = rate_of(base, rng), rate_of(candidate, rng)
    if ours is None or theirs is None:
        return CellEffect(verdict="invalid", reason="it was not timed", **plain), nothing
    ratio = ratio_of(ours, theirs)
    effect = CellEffect(
        verdict=judge_ratio(ratio, delta=delta),
        reason=_doubts(base, candidate),
        ratio=ratio.value,
        low=ratio.low,
        high=ratio.high,
        num_processes=ratio.num_processes,
        **plain,
    )
    # Centred on the estimate, so that a group's interval lies around its own.
    drawn = theirs.draws - ours.draws
    return effect, (drawn - drawn.mean() + math.log(ratio.value)).astype(np.float32)


def _incomparable(base: list[Record], candidate: list[Record]) -> tuple[str, str]:
    """Return the verdict on a cell that cannot be compared by its speed, and why; else nothing."""
    ours, theirs = _status(base), _status(candidate)
    if ours == theirs == "completed":
        for record in (*base, *candidate):
            if record.validity == "invalid":
                return "invalid", "; ".join(record.validity_reasons) or "invalid"
        return "", ""
    words = [status.replace("_", " ") for status in (ours, theirs)]
    if ours == theirs:
        return "same", f"{words[0]} on both sides"
    text = f"{words[0]} before, {words[1]} now"
    if ours == "completed" and theirs in LOST:
        return "regressed", text
    return ("improved" if theirs == "completed" and ours in LOST else "invalid"), text


def _status(records: list[Record]) -> str:
    """Return what the processes of one setting ended as: the first that did not complete decides."""
    return next((r.status for r in records if r.status != "completed"), "completed")


def _doubts(base: list[Record], candidate: list[Record]) -> str:
    sides = (("base", base), ("candidate", candidate))
    return "; ".join(
        f"{name} suspect: {reason}"
        for name, side in sides
        for reason in dict.fromkeys(text for record in side for text in record.validity_reasons)
    )


def _ratio_of_peaks(base: list[Record], candidate: list[Record]) -> float | None:
    peaks = []
    for side in (base, candidate):
        known = [m.peak_allocated_bytes for r in side if (m := r.memory) and m.peak_allocated_bytes]
        peaks.append(statistics.median(known) if known else 0)
    return peaks[1] / peaks[0] if all(peaks) else None


def _accuracy_change(base: list[Record], candidate: list[Record]) -> float | None:
    """Return the difference of the medians over seeds, where both sides trained equally long."""
    lengths = {record.cell.recipe.epochs for record in (*base, *candidate)}
    if len(lengths) > 1 or any(r.fit is None or r.fit.accuracy_note for r in (*base, *candidate)):
        return None
    ours, theirs = (
        statistics.median(r.fit.best.val_accuracy for r in side if r.fit and r.fit.best)
        for side in (base, candidate)
    )
    return theirs - ours


def _axis_effects(
    cells: Sequence[CellEffect], draws: Floats, delta: float
) -> Iterable[GroupEffect]:
    for axis in AXES:
        groups: dict[Any, list[int]] = {}
        for number, effect in enumerate(cells):
            groups.setdefault(getattr(effect.cell, axis), []).append(number)
        if len(groups) > 1:
            for value, numbers in groups.items():
                yield _group(axis, str(value), numbers, cells, draws, delta)


def _group(
    axis: str,
    value: str,
    numbers: Sequence[int],
    cells: Sequence[CellEffect],
    draws: Floats,
    delta: float,
) -> GroupEffect:
    """Return the geometric mean of the cells' ratios: cells are resampled first, their windows second."""
    timed = [number for number in numbers if cells[number].ratio is not None]
    peaks = [m for number in numbers if (m := cells[number].memory_ratio) is not None]
    plain: dict[str, Any] = {
        "axis": axis,
        "value": value,
        "num_cells": len(timed),
        "memory_ratio": statistics.geometric_mean(peaks) if peaks else None,
    }
    if not timed:
        return GroupEffect(verdict="invalid", **plain)
    if len(timed) == 1:
        only = cells[timed[0]]
        return GroupEffect(
            verdict=only.verdict, ratio=only.ratio, low=only.low, high=only.high, **plain
        )
    estimate = statistics.fmean(math.log(cells[number].ratio or 1.0) for number in timed)
    means = _resampled_means(draws[timed])
    tail = expanded_tail(len(timed), CONFIDENCE)
    low, high = np.quantile(means, [tail, 1 - tail])
    ratio = Ratio(
        value=math.exp(estimate),
        low=math.exp(float(low)),
        high=math.exp(float(high)),
        num_processes=len(timed),
    )
    verdict = judge_ratio(ratio, delta=delta)
    return GroupEffect(verdict=verdict, ratio=ratio.value, low=ratio.low, high=ratio.high, **plain)


def _resampled_means(draws: Floats) -> NDArray[np.float64]:
    """Return means over cells drawn with replacement, of each drawn cell one draw; a part at a time."""
    number = len(draws)
    rng = np.random.default_rng(0)
    means = []
    at_once = max(1, MAX_DRAWN // number)
    for start in range(0, NUM_RESAMPLES, at_once):
        shape = (min(at_once, NUM_RESAMPLES - start), number)
        chosen = rng.integers(number, size=shape)
        drawn = draws[chosen, rng.integers(NUM_RESAMPLES, size=shape)]
        means.append(drawn.mean(axis=1, dtype=np.float64))
    return np.concatenate(means)
