"""Which setting to train with: the best that was measured, how sure that is, and what it gains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cnnbench.analysis.pareto import frontier
from cnnbench.analysis.settings import Setting, place_key, setting_key, settings_of
from cnnbench.analysis.suggest import suggestions
from cnnbench.analysis.unpaired import NUM_RESAMPLES, interval_of, rate_of, ratio_of
from cnnbench.errors import StoreError
from cnnbench.stats import MIN_DELTA, MIN_PAIRS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.analysis.settings import Objective
    from cnnbench.analysis.suggest import Suggestion
    from cnnbench.cell import Cell
    from cnnbench.record import Record

# The document's own way to train, section 4: fp32, batches of 64, nothing recomputed.
DOCUMENT_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How many times better the recommended setting is than the document's default.

    `low` and `high` bound it with 95 % confidence; `None` where single runs have no interval.
    """

    default: Setting
    ratio: float
    low: float | None = None
    high: float | None = None
    memory_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The best measured setting of one architecture, and what is known beside it.

    `low` and `high` bound its value with 95 % confidence. `confidence` is the share of resamples in which
    it stays the best (of several windows; `None` where single runs cannot be resampled), and `level` says
    in a word what that and the number of processes are worth. `equals` are as good within 2 % and need
    less memory. `frontier` is of all sound settings: none is better for the same memory or less.
    `num_over_budget` settings were left out for want of memory, `num_doubtful` because they are suspect.
    """

    architecture: str
    objective: Objective
    budget_mib: float | None
    best: Setting
    low: float | None
    high: float | None
    gain: Gain | None
    confidence: float | None
    level: str
    reasons: tuple[str, ...]
    equals: tuple[Setting, ...]
    frontier: tuple[Setting, ...]
    num_considered: int
    num_over_budget: int
    num_doubtful: int
    suggestions: tuple[Suggestion, ...]


def recommend(
    records: Sequence[Record],
    architecture: str,
    objective: Objective,
    *,
    budget_mib: float | None = None,
) -> Recommendation:
    """Return the best valid setting of `architecture` among `records`.

    Where the records are of several devices, data sets or recipes, those measured last count.

    Args:
        records: of one sweep or several.
        architecture: as the cells name it.
        objective: what counts.
        budget_mib: what the setting may take at most, as `settings.memory_of` counts it.

    Raises:
        StoreError: saying what was not measured.
    """
    here = _latest_place(records, architecture)
    measured = settings_of(here, objective)
    if not measured:
        msg = (
            f"no {objective.column} was measured of {architecture}: "
            f"{_why_unmeasured(objective)}, then ask again."
        )
        raise StoreError(msg)
    fitting = [one for one in measured if fits(one, budget_mib)]
    if not fitting:
        least = min((one.memory_mib for one in measured if one.memory_mib), default=None)
        need = (
            "what they need is not known" if least is None else f"the least needs {least:,.0f} MiB"
        )
        msg = f"no measured setting of {architecture} fits into {budget_mib:,.0f} MiB: {need}."
        raise StoreError(msg)
    sound = [one for one in fitting if one.is_valid] or fitting
    ranked = sorted(sound, key=lambda one: _order(one, objective))
    return _judged(ranked, measured, fitting, here, architecture, objective, budget_mib)


def _judged(
    ranked: list[Setting],
    measured: list[Setting],
    fitting: list[Setting],
    here: list[Record],
    architecture: str,
    objective: Objective,
    budget_mib: float | None,
) -> Recommendation:
    best = ranked[0]
    interval, confidence = _certainty(ranked, objective)
    level, reasons = _level(best, confidence)
    default = _default(measured, best)
    return Recommendation(
        architecture=architecture,
        objective=objective,
        budget_mib=budget_mib,
        best=best,
        low=interval[0],
        high=interval[1],
        gain=_gain(best, default, objective),
        confidence=confidence,
        level=level,
        reasons=reasons,
        equals=tuple(_equals(ranked, objective)),
        frontier=tuple(_frontier([one for one in measured if one.is_valid] or measured, objective)),
        num_considered=len(ranked),
        num_over_budget=len(measured) - len(fitting),
        num_doubtful=len(fitting) - len(ranked),
        suggestions=tuple(
            suggestions(
                best,
                measured,
                here,
                objective,
                budget_mib=budget_mib,
                default=_wanted(best, default),
            )
        ),
    )


def fits(setting: Setting, budget_mib: float | None) -> bool:
    """Say whether the setting is known to need no more than the budget; without one, all fit."""
    if budget_mib is None:
        return True
    return setting.memory_mib is not None and setting.memory_mib <= budget_mib


def _latest_place(records: Sequence[Record], architecture: str) -> list[Record]:
    ours = [record for record in records if record.cell.architecture == architecture]
    if not ours:
        known = ", ".join(dict.fromkeys(record.cell.architecture for record in records))
        msg = f"{architecture!r} was not measured. There are: {known or 'no records'}."
        raise StoreError(msg)
    latest = place_key(max(ours, key=lambda record: record.finished_at))
    return [record for record in ours if place_key(record) == latest]


def _why_unmeasured(objective: Objective) -> str:
    return {
        "throughput": "run cells that are timed",
        "time-to-accuracy": "train with --epochs and a --target-accuracy that is reached",
        "energy": "it takes a GPU with an energy counter",
    }[objective.name]


def _order(setting: Setting, objective: Objective) -> tuple[float, float, int, str]:
    sign = -1 if objective.is_more_better else 1
    memory = setting.memory_mib or 0.0
    return sign * setting.value, memory, setting.cell.batch_size, setting.cell.name


def _certainty(
    ranked: list[Setting], objective: Objective
) -> tuple[tuple[float | None, float | None], float | None]:
    """Return the interval of the first one's value, and in how many resamples it stays the first."""
    if objective.name != "throughput":
        return (None, None), None
    rng = np.random.default_rng(0)
    rates = [rate_of(setting.records, rng) for setting in ranked]
    first = rates[0]
    if first is None:
        return (None, None), None
    ahead = np.ones(NUM_RESAMPLES, dtype=bool)
    for other in rates[1:]:
        if other is not None:
            ahead &= first.draws >= other.draws
    return interval_of(first), float(ahead.mean())


def _level(best: Setting, confidence: float | None) -> tuple[str, tuple[str, ...]]:
    """Return in a word how far the choice can be trusted, and why not further."""
    number = len(best.records)
    reasons = []
    if not best.is_valid:
        doubts = dict.fromkeys(text for r in best.records for text in r.validity_reasons)
        reasons.append(f"every setting that fits is suspect; this one: {'; '.join(doubts)}")
    if number < MIN_PAIRS:
        ran = "one process" if number == 1 else f"{number} processes"
        reasons.append(f"{ran} of it ran: what processes differ by is not known")
    if confidence is None:
        reasons.append("each setting was trained or metered as often as it has seeds: no interval")
        return "low", tuple(reasons)
    if not best.is_valid or confidence < 0.5:  # noqa: PLR2004 - more often beaten than not
        return "low", tuple(reasons)
    is_high = confidence >= 0.95 and number >= MIN_PAIRS  # noqa: PLR2004 - as in all intervals
    return "high" if is_high else "medium", tuple(reasons)


def _equals(ranked: list[Setting], objective: Objective) -> list[Setting]:
    """Return what is as good within 2 % and needs less memory, the least first."""
    best, *others = ranked
    if best.memory_mib is None:
        return []
    close = [
        one
        for one in others
        if one.memory_mib is not None
        and one.memory_mib < best.memory_mib
        and objective.gain(best.value, one.value) <= 1 + MIN_DELTA
    ]
    return sorted(close, key=lambda one: one.memory_mib or 0.0)


def _frontier(settings: list[Setting], objective: Objective) -> list[Setting]:
    sign = 1 if objective.is_more_better else -1
    return frontier(
        [one for one in settings if one.memory_mib is not None],
        cost=lambda one: one.memory_mib or 0.0,
        gain=lambda one: sign * one.value,
    )


def document_default(cell: Cell) -> Cell:
    """Return the cell as the document trains it: fp32, batch 64, nothing recomputed or compiled."""
    return replace(
        cell,
        precision="fp32",
        batch_size=DOCUMENT_BATCH_SIZE,
        checkpointing="none",
        memory_format="nchw",
        compile="off",
        loader="device",
    )


def _default(measured: list[Setting], best: Setting) -> Setting | None:
    """Return the document's default: in its layout, else in the recommended one's."""
    plain = document_default(best.cell)
    by_key = {setting_key(one.cell): one for one in measured}
    for layout in (plain.memory_format, best.cell.memory_format):
        found = by_key.get(setting_key(replace(plain, memory_format=layout)))
        if found is not None:
            return found
    return None


def _wanted(best: Setting, default: Setting | None) -> Cell | None:
    """Return the default that was not measured."""
    return document_default(best.cell) if default is None else None


def _gain(best: Setting, default: Setting | None, objective: Objective) -> Gain | None:
    if default is None:
        return None
    memory = None
    if best.memory_mib and default.memory_mib:
        memory = best.memory_mib / default.memory_mib
    plain = Gain(
        default=default, ratio=objective.gain(best.value, default.value), memory_ratio=memory
    )
    if objective.name != "throughput" or default is best:
        return plain
    rng = np.random.default_rng(0)
    theirs, ours = rate_of(default.records, rng), rate_of(best.records, rng)
    if theirs is None or ours is None:
        return plain
    found = ratio_of(theirs, ours)
    return replace(plain, low=found.low, high=found.high)
