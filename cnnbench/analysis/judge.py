"""Claims judged by records: pairs of cells that differ in one factor, seed by seed, become a verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cnnbench.analysis.sequential import Decision, decide
from cnnbench.study import METRICS, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.environment import DatasetInfo
    from cnnbench.record import Fit, Record
    from cnnbench.study import Claim, Study

    # The baseline's record and the variant's, of one seed.
    SeedPair: TypeAlias = tuple[Record, Record]

_LOST = {
    "failed": "failed",
    "timeout": "ran out of time",
    "unsupported": "is not supported here",
    "out_of_memory": "ran out of memory",
}
_POINTS = {"train_accuracy", "val_accuracy", "best_val_accuracy", "test_accuracy"}
_EPOCHS = {"epochs_run", "epochs_to_accuracy"}


def judge(
    study: Study,
    claim: Claim,
    variant: str,
    pairs: Sequence[SeedPair],
    *,
    device: str,
    dataset: DatasetInfo,
) -> Verdict:
    """Return the verdict on `claim` for `variant`.

    An arm that failed, ran out of time or memory, or is unsupported makes it `not_measured`, never refuted;
    of the metric `fits`, running out of memory is the answer. Cells that computed in another precision than
    was asked for do not count, nor, where speed is claimed, those that are suspect.

    Args:
        study: what is asked.
        claim: one of its claims.
        variant: one of the claim's variants.
        pairs: the records of the first seeds, in order; a seed that has not run in both arms ends them.
        device: what they ran on.
        dataset: what they were trained on.
    """
    blank = _blank(study, claim, variant, device, dataset)
    lost = _why_lost(claim, pairs)
    if lost:
        return replace(blank, reason=lost)
    if len(pairs) < study.looks[0]:
        reason = f"{len(pairs)} of at least {study.looks[0]} seeds were run"
        return replace(blank, reason=reason, is_open=True)
    effects = [_effect(claim, pair) for pair in pairs]
    decision = decide(
        effects,
        direction=claim.direction,
        margin=claim.margin,
        looks=study.looks,
        num_tests=study.num_tests,
        rounding=_rounding(claim, pairs, dataset),
    )
    is_open = len(pairs) < study.max_seeds
    if decision is None:
        why = _why_not_counted(claim, pairs)
        return replace(blank, reason=why, is_open=is_open)
    return _verdict(blank, claim, decision, pairs, effects, is_open=is_open)


def value_of(metric: str, record: Record) -> float | None:
    """Return what `record` says of `metric`; `None` where it says nothing.

    Accuracies are in points of 100. A training that diverged has learnt nothing: it counts as guessing.
    A target accuracy that was not reached counts as one epoch more than were run, which is too few.
    """
    if metric == "fits":
        return 1.0 if record.status == "completed" else 0.0
    if METRICS[metric].kind == "fit":
        return _training_value(metric, record)
    if metric == "num_trainable_parameters":
        return _number(record.num_trainable_parameters)
    measured = record.metrics()
    if metric == "peak_mib_per_image":
        peak = _number(measured.get("peak_allocated_mib"))
        return None if peak is None else peak / record.cell.batch_size
    return _number(measured.get(metric))


def _training_value(metric: str, record: Record) -> float | None:
    fit = record.fit
    if fit is None:
        return None
    if metric in _EPOCHS:
        return _epochs(metric, fit, record.cell.recipe.target_accuracy)
    if record.status == "diverged":
        num_classes = record.cell.recipe.num_classes
        return 100 / num_classes if metric in _POINTS and num_classes else None
    measured = record.metrics()
    if metric == "generalization_gap":
        train, val = _number(measured.get("train_accuracy")), _number(measured.get("val_accuracy"))
        return None if train is None or val is None else 100 * (train - val)
    value = _number(measured.get(metric))
    return 100 * value if value is not None and metric in _POINTS else value


def _epochs(metric: str, fit: Fit, target: float | None) -> float | None:
    number = len(fit.epochs)
    if metric == "epochs_run":
        return float(number) or None
    if target is None:
        return None
    reached = (n for n, epoch in enumerate(fit.epochs, 1) if epoch.val_accuracy >= target)
    return float(next(reached, number + 1))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _blank(study: Study, claim: Claim, variant: str, device: str, dataset: DatasetInfo) -> Verdict:
    return Verdict(
        study=study.name,
        claim=claim.text,
        variant=variant,
        baseline=claim.baseline,
        device=device,
        dataset=dataset.name,
        outcome="not_measured",
        unit=METRICS[claim.metric].unit,
        threshold=claim.threshold,
        direction=claim.direction,
    )


def _why_lost(claim: Claim, pairs: Sequence[SeedPair]) -> str:
    """Say which arm could not be measured, if one could not."""
    for pair in pairs:
        for record in pair:
            answers = claim.metric == "fits" and record.status == "out_of_memory"
            if record.status in _LOST and not answers:
                error = f": {record.error}" if record.error else ""
                return f"{record.cell.name} {_LOST[record.status]}{error}"
            if METRICS[claim.metric].kind == "fit" and record.fit is None and not answers:
                return f"{record.cell.name} was not trained: {'; '.join(record.notes)}"
    return ""


def _counts(claim: Claim, record: Record) -> bool:
    if record.validity == "invalid":
        return False
    return record.validity == "valid" or not METRICS[claim.metric].timed


def _effect(claim: Claim, pair: SeedPair) -> float | None:
    """Return one seed's effect, of a ratio its logarithm; `None` where it cannot be judged."""
    if not all(_counts(claim, record) for record in pair):
        return None
    before, after = (value_of(claim.metric, record) for record in pair)
    if before is None or after is None:
        return None
    if not METRICS[claim.metric].is_ratio:
        return after - before
    return math.log(after / before) if before > 0 and after > 0 else None


def _why_not_counted(claim: Claim, pairs: Sequence[SeedPair]) -> str:
    """Say why too few of the seeds that were run can be judged."""
    bad = [pair for pair in pairs if _effect(claim, pair) is None]
    said = f"{len(bad)} of {len(pairs)} seeds do not count"
    for record in bad[0]:
        if not _counts(claim, record):
            return f"{said}: {record.cell.name} is {record.validity} ({'; '.join(record.validity_reasons)})"
        if value_of(claim.metric, record) is None:
            why = record.unknowns.get(claim.metric, "it says nothing of it")
            return f"{said}: {record.cell.name} has no {METRICS[claim.metric].text} ({why})"
    return f"{said}: a ratio needs values above 0"


def _rounding(claim: Claim, pairs: Sequence[SeedPair], dataset: DatasetInfo) -> float:
    """Return the standard deviation that one effect has because its values are counted in steps."""
    metric = claim.metric
    if metric in _POINTS or metric == "generalization_gap":
        number = {
            "train_accuracy": pairs[0][0].cell.recipe.train_subset or dataset.num_train,
            "test_accuracy": dataset.num_test,
        }.get(metric, dataset.num_val)
        return 100 / number / math.sqrt(6)
    if metric in _EPOCHS:
        values = [[value_of(metric, record) or 1.0 for record in pair] for pair in pairs]
        before, after = np.mean(values, axis=0)
        return math.hypot(1 / before, 1 / after) / math.sqrt(12)
    return 0.0


def _verdict(
    blank: Verdict,
    claim: Claim,
    decision: Decision,
    pairs: Sequence[SeedPair],
    effects: Sequence[float | None],
    *,
    is_open: bool,
) -> Verdict:
    shown = math.exp if METRICS[claim.metric].is_ratio else float
    judged = [
        (pair, effect) for pair, effect in zip(pairs, effects, strict=True) if effect is not None
    ]
    judged = judged[: decision.num_seeds]
    open_now = is_open and decision.outcome == "inconclusive"
    return replace(
        blank,
        outcome=decision.outcome,
        num_seeds=decision.num_seeds,
        effect=shown(decision.effect),
        low=shown(decision.low),
        high=shown(decision.high),
        reason="; ".join(filter(None, (_reason(claim, decision), _remarks(claim, pairs)))),
        is_open=open_now,
        seeds=tuple(shown(effect) for _, effect in judged),
        cells=tuple((base.cell_hash, changed.cell_hash) for (base, changed), _ in judged),
    )


def _reason(claim: Claim, decision: Decision) -> str:
    margin = claim.margin
    how = f"{decision.method} at {100 * decision.confidence:.4g} %"
    if decision.outcome == "inconclusive":
        needed = f"about {decision.num_needed}" if decision.num_needed else "more than a thousand"
        return f"{needed} seeds would decide it; {how}"
    if decision.outcome == "refuted" and claim.direction != "same":
        sign = -1.0 if claim.direction == "down" else 1.0
        worst = max(sign * decision.low, sign * decision.high)
        if worst < -margin:
            return f"it goes the other way; {how}"
        return f"{'the other way, if at all' if worst <= 0 else 'less than what matters'}; {how}"
    return how


def _remarks(claim: Claim, pairs: Sequence[SeedPair]) -> str:
    """Say what the reader must know of how values came about."""
    remarks = []
    records = [record for pair in pairs for record in pair]
    diverged = sum(record.status == "diverged" for record in records)
    if diverged and claim.metric in _POINTS:
        remarks.append(f"{diverged} trainings diverged and count as guessing")
    if claim.metric == "epochs_to_accuracy":
        missed = sum(
            record.fit is not None and value_of(claim.metric, record) == len(record.fit.epochs) + 1
            for record in records
        )
        if missed:
            remarks.append(f"{missed} trainings missed the target: counted as one epoch more")
    return "; ".join(remarks)
