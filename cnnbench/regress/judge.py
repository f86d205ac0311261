"""Verdicts on a candidate against its base: presence, status, precision, speed, memory, accuracy."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy import stats as distributions

from cnnbench.analysis.paired import MIN_WINDOWS
from cnnbench.errors import EXIT_FAILED, EXIT_INCONCLUSIVE
from cnnbench.regress.completion import MIN_LOST, judge_completion
from cnnbench.regress.suite import ACCURACY
from cnnbench.stats import MIN_DELTA, MIN_PAIRS, compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnnbench.regress.results import Measured, Results, Run
    from cnnbench.stats import Comparison, Pair

MIB = 2**20
# A peak moves by less than this for reasons that are nobody's: alignment, a library's workspace.
MEMORY_FRACTION = 0.01
MEMORY_BYTES = 16 * MIB
# Five processes each, all of one side above all of the other, have 0.004; eight with a stray one 0.005.
MEMORY_SIGNIFICANCE = 0.01
# Of the validation images, in absolute terms.
ACCURACY_DELTA = 0.01
MIN_SEEDS = 5
# Before so many pairs of processes nothing is decided.
MIN_RUNS = 5
# By then nearly every comparison is, on a machine with some peace; a test that has regressed in one measure
# gets no more to decide the others.
ENOUGH_RUNS = 24
CONFIDENCE = 0.95
# Attributes of `Run`, and what they are called.
MEMORIES = {
    "peak_allocated_bytes": "allocated memory",
    "peak_reserved_bytes": "reserved memory",
    "process_bytes": "process memory",
}
# The gravest first: a test is worth its worst finding.
SEVERITY = ("regressed", "invalid", "inconclusive", "improved", "same")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One verdict on one measure of one test, with what it was made from.

    `ratio` is the candidate's over the base's, and of accuracies it is the difference; `low` and
    `high` bound it with 95 % confidence where several processes tell how it varies.

    - `same`: no worse, by more than does not matter; it may be better.
    - `regressed`, `improved`: it differs, and by more than that.
    - `inconclusive`: the numbers do not say; more of them, or a quieter machine, would.
    - `invalid`: there is nothing that may be compared.
    """

    test: str
    measure: str
    verdict: str
    base: float | str | None = None
    candidate: float | str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    num_pairs: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All findings of one call, and the tests that the base does not have."""

    findings: tuple[Finding, ...]
    new_tests: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Return the gravest of the verdicts; without any finding there is nothing to trust."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in SEVERITY if verdict in found), "invalid")

    @property
    def exit_code(self) -> int:
        """Return 1 for a regression, 3 where something stays open, else 0."""
        if self.verdict == "regressed":
            return EXIT_FAILED
        return EXIT_INCONCLUSIVE if self.verdict in {"invalid", "inconclusive"} else 0


def judge(base: Results, candidate: Results, *, delta: float = MIN_DELTA) -> Judgement:
    """Judge every test of either side.

    Args:
        base: what is compared with.
        candidate: what is judged.
        delta: the relative difference in speed that does not matter.
    """
    findings: list[Finding] = []
    for name, before in base.tests.items():
        after = candidate.tests.get(name)
        if after is None:
            reason = "the test is no longer there"
            findings.append(
                Finding(test=name, measure="presence", verdict="regressed", reason=reason)
            )
        elif after.refused or not before.refused:
            findings.extend(judge_test(before, after, delta=delta))
    new = tuple(name for name in candidate.tests if _is_new(name, base, candidate))
    return Judgement(findings=tuple(findings), new_tests=new)


def _is_new(name: str, base: Results, candidate: Results) -> bool:
    """Say whether the base has no such test, or cannot even begin with it."""
    before = base.tests.get(name)
    return before is None or (bool(before.refused) and not candidate.tests[name].refused)


def judge_test(base: Measured, candidate: Measured, *, delta: float) -> list[Finding]:
    """Judge one test by everything that both sides have measured of it."""
    unfit = [*_setting(base, candidate), *_refusal(base, candidate)]
    if unfit:
        return unfit
    found = [*_status(base, candidate)]
    if not (base.completed and candidate.completed):
        return found
    precision = [*_precision(base, candidate)]
    if not any(finding.verdict != "same" for finding in precision):
        precision += [*_validity(base, candidate)] or [*_throughput(base, candidate, delta)]
    return [*found, *precision, *_memories(base, candidate), *_accuracy(base, candidate)]


def is_decided(base: Measured, candidate: Measured, *, delta: float) -> bool:
    """Say whether more processes would change nothing."""
    found = judge_test(base, candidate, delta=delta)
    verdicts = {one.measure: one.verdict for one in found}
    if verdicts.get("status") == "regressed":
        return True
    number = min(len(base.runs), len(candidate.runs))
    if not (base.completed and candidate.completed):
        return number >= MIN_LOST and verdicts.get("status") != "inconclusive"
    if base.kind != ACCURACY and verdicts.get("precision", "same") != "same":
        return True
    if number < MIN_RUNS:
        return False
    if number >= ENOUGH_RUNS and "regressed" in verdicts.values():
        return True
    return all(one.verdict != "inconclusive" for one in found)


def _setting(base: Measured, candidate: Measured) -> Iterator[Finding]:
    """Yield a finding where two results have their name in common and not what was measured."""
    if base.setting and candidate.setting and base.setting != candidate.setting:
        reason = "the base's result is of another setting of the same name"
        yield Finding(test=base.name, measure="setting", verdict="invalid", reason=reason)


def _refusal(base: Measured, candidate: Measured) -> Iterator[Finding]:
    """Yield a finding where the candidate cannot even begin."""
    if candidate.refused:
        verdict = "invalid" if base.refused else "regressed"
        yield Finding(test=base.name, measure="status", verdict=verdict, reason=candidate.refused)


def _status(base: Measured, candidate: Measured) -> Iterator[Finding]:
    """Yield a verdict where not every process completed: those that did are compared all the same."""
    found = judge_completion(base, candidate)
    if found is not None:
        verdict, reason = found
        yield Finding(
            test=base.name,
            measure="status",
            verdict=verdict,
            base=", ".join(_statuses(base)),
            candidate=", ".join(_statuses(candidate)),
            num_pairs=len(candidate.runs),
            reason=reason,
        )


def _statuses(test: Measured) -> list[str]:
    return sorted({run.status for run in test.runs}) or ["not measured"]


def _precision(base: Measured, candidate: Measured) -> Iterator[Finding]:
    before, after = _precisions(base), _precisions(candidate)
    if not before:
        return
    verdict, reason = "same", ""
    if not after:
        verdict, reason = "invalid", "the candidate does not say in which precision it computes"
    elif before != after:
        verdict = "regressed"
        reason = "it computes in another precision, so speeds cannot be compared"
    yield Finding(
        test=base.name,
        measure="precision",
        verdict=verdict,
        base=", ".join(before),
        candidate=", ".join(after),
        reason=reason,
    )


def _precisions(test: Measured) -> list[str]:
    return sorted({run.effective_precision for run in test.runs if run.effective_precision})


def _validity(base: Measured, candidate: Measured) -> Iterator[Finding]:
    for side, test in (("base", base), ("candidate", candidate)):
        for run in test.runs:
            if run.validity == "invalid":
                reason = f"{side}: {'; '.join(run.validity_reasons)}"
                yield Finding(test=base.name, measure="validity", verdict="invalid", reason=reason)
                return


def _throughput(base: Measured, candidate: Measured, delta: float) -> Iterator[Finding]:
    if base.kind == ACCURACY:
        return
    both = [*_complete_pairs(base, candidate)]
    pairs = [*_quiet_pairs(both)]
    num_lost = len(both) - len(pairs)
    found = compare(pairs, delta=delta)
    verdict, reasons = found.verdict, [found.reason]
    if num_lost:
        reasons.insert(0, f"others used the machine in {num_lost} pairs")
    if not pairs and num_lost:
        verdict = "inconclusive"
    if verdict == "regressed" and not _is_confirmed(pairs, delta):
        verdict = "inconclusive"
        reasons.append("slower, and more pairs must confirm it: not each half of them says so")
    # What is at worst a little slower, and at best faster, is no regression.
    if verdict == "inconclusive" and len(pairs) >= MIN_PAIRS and _is_no_slower(found, delta):
        verdict, reasons = "same", reasons[:-1]
    yield Finding(
        test=base.name,
        measure="throughput",
        verdict=verdict,
        base=base.images_per_second,
        candidate=candidate.images_per_second,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        num_pairs=len(pairs),
        reason="; ".join(filter(None, reasons)),
    )


def _is_confirmed(pairs: Sequence[Pair], delta: float) -> bool:
    """Say whether the earlier half of the pairs and the later one both show a regression by themselves.

    A test is judged anew after each pair, and beside many others: of twenty tests whose pairs vary by 5 %
    one would now and then be called slower by chance, but hardly twice by pairs that are not the same.
    """
    middle = len(pairs) // 2
    halves = pairs[:middle], pairs[middle:]
    return all(compare(half, delta=delta).verdict == "regressed" for half in halves)


def _is_no_slower(found: Comparison, delta: float) -> bool:
    return found.low is not None and math.log(found.low) >= -math.log1p(delta)


def _complete_pairs(base: Measured, candidate: Measured) -> Iterator[tuple[Run, Run]]:
    for before, after in zip(base.runs, candidate.runs, strict=False):
        if before.status == after.status == "completed":
            yield before, after


def _quiet_pairs(both: Iterable[tuple[Run, Run]]) -> Iterator[Pair]:
    """Yield the step times of windows that nobody disturbed, of the pairs that have enough."""
    for before, after in both:
        quiet = [
            (ours.step_seconds, theirs.step_seconds)
            for ours, theirs in zip(before.windows, after.windows, strict=False)
            if not (ours.is_disturbed or theirs.is_disturbed)
        ]
        if len(quiet) >= MIN_WINDOWS:
            yield [ours for ours, _ in quiet], [theirs for _, theirs in quiet]


def _memories(base: Measured, candidate: Measured) -> Iterator[Finding]:
    if base.kind == ACCURACY:
        return
    for name, measure in MEMORIES.items():
        before, after = ([*_values(test.completed, name)] for test in (base, candidate))
        if before and after:
            yield _memory(base.name, measure, before, after)
        elif before:
            reason = "it is no longer measured"
            yield Finding(test=base.name, measure=measure, verdict="invalid", reason=reason)


def _values(runs: Iterable[Run], name: str) -> Iterator[float]:
    return (value for run in runs if (value := getattr(run, name)) is not None)


def _memory(test: str, measure: str, before: list[float], after: list[float]) -> Finding:
    """Compare medians; where the processes of the two sides overlap too much, nothing is certain.

    What the system says a process holds varies from one to the next, and of few processes all of one side
    lie above all of the other by chance: of one each, every second time. The allocator's counts do not vary.
    """
    base, candidate = statistics.median(before), statistics.median(after)
    threshold = max(MEMORY_FRACTION * base, MEMORY_BYTES)
    verdict, reason = "same", ""
    varies = measure == MEMORIES["process_bytes"]
    if candidate - base > threshold:
        verdict = "regressed" if _is_above(after, before, varies=varies) else "inconclusive"
        reason = f"{(candidate - base) / MIB:+.0f} MiB, above {threshold / MIB:.0f} MiB"
    elif base - candidate > threshold and _is_above(before, after, varies=varies):
        verdict, reason = "improved", f"{(candidate - base) / MIB:+.0f} MiB"
    return Finding(
        test=test,
        measure=measure,
        verdict=verdict,
        base=base,
        candidate=candidate,
        ratio=candidate / base if base else None,
        num_pairs=min(len(before), len(after)),
        reason=reason,
    )


def _is_above(high: list[float], low: list[float], *, varies: bool) -> bool:
    """Say whether `high` lies above `low` for sure: all of it, or by ranks (Mann and Whitney 1947)."""
    if min(len(high), len(low)) < MIN_RUNS:
        return not varies and min(high) > max(low)
    found = distributions.mannwhitneyu(high, low, alternative="greater")
    return bool(found.pvalue < MEMORY_SIGNIFICANCE)


def _accuracy(base: Measured, candidate: Measured) -> Iterator[Finding]:
    """Compare what the same seeds reached: their difference has a Student's t interval."""
    if base.kind != ACCURACY:
        return
    before, after = _by_seed(base.completed), _by_seed(candidate.completed)
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        reason = "no seed has an accuracy on both sides"
        yield Finding(test=base.name, measure=ACCURACY, verdict="invalid", reason=reason)
        return
    differences = [after[seed] - before[seed] for seed in seeds]
    mean = statistics.mean(differences)
    low, high = _interval(differences)
    if len(seeds) < MIN_SEEDS:
        verdict, reason = "inconclusive", f"{len(seeds)} of at least {MIN_SEEDS} seeds"
    elif high < -ACCURACY_DELTA:
        verdict, reason = "regressed", f"{100 * mean:+.1f} points over {len(seeds)} seeds"
    elif low > ACCURACY_DELTA:
        verdict, reason = "improved", f"{100 * mean:+.1f} points over {len(seeds)} seeds"
    elif low >= -ACCURACY_DELTA:
        verdict, reason = "same", ""
    else:
        verdict, reason = "inconclusive", "more seeds would tell"
    yield Finding(
        test=base.name,
        measure=ACCURACY,
        verdict=verdict,
        base=statistics.mean(before[seed] for seed in seeds),
        candidate=statistics.mean(after[seed] for seed in seeds),
        ratio=mean,
        low=low,
        high=high,
        num_pairs=len(seeds),
        reason=reason,
    )


def _by_seed(runs: Iterable[Run]) -> dict[int, float]:
    return {run.seed: run.accuracy for run in runs if run.accuracy is not None}


def _interval(differences: list[float]) -> tuple[float, float]:
    mean, number = statistics.mean(differences), len(differences)
    if number == 1:
        return mean, mean
    spread = statistics.stdev(differences) / math.sqrt(number)
    factor = float(distributions.t.ppf((1 + CONFIDENCE) / 2, number - 1))
    return mean - factor * spread, mean + factor * spread
