"""Every kind of regression gets its own verdict, and what chance does gets none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.measurement import Window
from cnnbench.regress.judge import ENOUGH_RUNS, MIN_RUNS, is_decided, judge
from sample_regress import (
    MIB,
    STEP_SECONDS,
    TRAINED,
    TRAINING,
    sample_results,
    sample_test,
    sample_training,
)

if TYPE_CHECKING:
    from cnnbench.regress.judge import Finding
    from cnnbench.regress.results import Measured

DELTA = 0.02
FAR = 100


def found(base: Measured, candidate: Measured) -> dict[str, Finding]:
    judgement = judge(sample_results(base), sample_results(candidate), delta=DELTA)
    return {finding.measure: finding for finding in judgement.findings}


def verdict(base: Measured, candidate: Measured) -> str:
    return judge(sample_results(base), sample_results(candidate), delta=DELTA).verdict


def test_what_differs_by_chance_alone_is_the_same_in_every_measure() -> None:
    findings = found(sample_test(), sample_test(offset=FAR))
    assert set(findings) == {"precision", "throughput", "allocated memory", "process memory"}
    assert {finding.verdict for finding in findings.values()} == {"same"}


def test_a_step_slower_by_five_percent_regressed() -> None:
    slower = sample_test(1.05 * STEP_SECONDS, offset=FAR, number=8)
    finding = found(sample_test(number=8), slower)["throughput"]
    assert finding.verdict == "regressed"
    assert finding.ratio == pytest.approx(1 / 1.05, rel=0.01)
    assert finding.num_pairs == 8


def test_a_slower_step_is_confirmed_by_both_halves_of_the_pairs() -> None:
    slower = sample_test(1.05 * STEP_SECONDS, offset=FAR, number=7)
    few = found(sample_test(number=7), slower)["throughput"]
    assert few.high is not None
    assert few.high < 1 - DELTA
    assert (few.verdict, "must confirm" in few.reason) == ("inconclusive", True)
    # Slower while the first half ran, and no longer in the second.
    slow, same = sample_test(1.2 * STEP_SECONDS, offset=FAR), sample_test(offset=2 * FAR)
    passing = replace(slow, runs=(*slow.runs, *same.runs))
    assert found(sample_test(number=16), passing)["throughput"].verdict == "inconclusive"


def test_a_faster_step_improved_and_passes() -> None:
    judgement = judge(sample_results(), sample_results(sample_test(0.9 * STEP_SECONDS)))
    assert judgement.verdict == "improved"
    assert judgement.exit_code == 0


def test_what_may_be_faster_but_is_no_slower_is_no_regression() -> None:
    base = sample_test()
    factors = 4 * (0.95, 1.0)
    runs = tuple(
        replace(run, windows=tuple(replace(w, seconds=w.seconds * f) for w in run.windows))
        for run, f in zip(sample_test(offset=FAR).runs, factors, strict=True)
    )
    finding = found(base, replace(base, runs=runs))["throughput"]
    assert finding.high is not None
    assert finding.high > 1 + DELTA
    assert finding.verdict == "same"


def test_too_few_processes_decide_nothing_about_speed() -> None:
    one = sample_test(2 * STEP_SECONDS, number=1)
    assert found(sample_test(number=1), one)["throughput"].verdict == "inconclusive"


def test_beside_neighbours_nothing_is_decided_about_speed() -> None:
    loaded = sample_test(1.5 * STEP_SECONDS)
    runs = tuple(
        replace(run, windows=tuple(replace(w, foreign_fraction=0.5) for w in run.windows))
        for run in loaded.runs
    )
    finding = found(sample_test(), replace(loaded, runs=runs))["throughput"]
    assert finding.verdict == "inconclusive"
    assert "others used the machine in 8 pairs" in finding.reason


@pytest.mark.parametrize("name", ["peak_allocated_bytes", "peak_reserved_bytes", "process_bytes"])
def test_a_leak_of_32_mib_regressed_and_nothing_else_did(name: str) -> None:
    base, leaking = (
        sample_test(**{name: 200 * MIB + more}, offset=offset)
        for more, offset in ((0, 0), (32 * MIB, FAR))
    )
    regressed = [f.measure for f in found(base, leaking).values() if f.verdict == "regressed"]
    assert regressed == [f"{name.split('_')[-2]} memory".replace("peak ", "")]


def test_a_large_peak_may_move_by_a_percent_of_it() -> None:
    base = sample_test(peak_allocated_bytes=8000 * MIB)
    assert verdict(base, sample_test(peak_allocated_bytes=8070 * MIB)) == "same"
    assert verdict(base, sample_test(peak_allocated_bytes=8090 * MIB)) == "regressed"


@pytest.mark.parametrize(
    ("number", "verdict"), [(1, "inconclusive"), (4, "inconclusive"), (5, "regressed")]
)
def test_few_processes_condemn_nobody_for_what_the_system_says_they_hold(
    number: int, verdict: str
) -> None:
    held: dict[str, Any] = {"process_bytes": 2**33}
    findings = found(sample_test(number=number), sample_test(number=number, **held))
    assert findings["process memory"].verdict == verdict


def test_memory_that_overlaps_from_process_to_process_is_inconclusive() -> None:
    base = sample_test()
    high = tuple(replace(run, process_bytes=400 * MIB) for run in base.runs[:2])
    noisy = replace(base, runs=(*high, *base.runs[2:]))
    late = sample_test(process_bytes=340 * MIB, offset=FAR)
    assert found(noisy, late)["process memory"].verdict == "inconclusive"


def test_a_stray_process_of_the_base_hides_no_leak() -> None:
    base = sample_test(number=8)
    high = replace(base.runs[0], process_bytes=400 * MIB)
    noisy = replace(base, runs=(high, *base.runs[1:]))
    late = sample_test(process_bytes=340 * MIB, offset=FAR, number=8)
    assert found(noisy, late)["process memory"].verdict == "regressed"


@pytest.mark.parametrize("name", ["peak_allocated_bytes", "process_bytes", "effective_precision"])
def test_what_is_no_longer_measured_cannot_be_compared(name: str) -> None:
    missing: dict[str, Any] = {name: None}
    judgement = judge(sample_results(), sample_results(sample_test(**missing, offset=FAR)))
    assert [f.verdict for f in judgement.findings if f.verdict != "same"] == ["invalid"]
    assert judgement.exit_code == 3


def test_a_result_of_another_setting_with_the_same_name_cannot_be_compared() -> None:
    one, other = (replace(sample_test(), setting=setting) for setting in ("a", "b"))
    assert [f.measure for f in judge(sample_results(one), sample_results(other)).findings] == [
        "setting"
    ]
    assert verdict(one, replace(other, setting="")) == "same"


def test_another_precision_is_a_regression_and_leaves_speeds_alone() -> None:
    findings = found(
        sample_test(),
        sample_test(0.5 * STEP_SECONDS, effective_precision="bf16", validity="invalid"),
    )
    assert findings["precision"].verdict == "regressed"
    assert (findings["precision"].base, findings["precision"].candidate) == ("fp32", "bf16")
    assert "throughput" not in findings


def test_what_is_invalid_on_one_side_cannot_be_compared() -> None:
    spoilt = sample_test(validity="invalid", validity_reasons=("another setting",))
    judgement = judge(sample_results(), sample_results(spoilt))
    assert judgement.exit_code == 3
    assert [f.reason for f in judgement.findings if f.verdict == "invalid"] == [
        "candidate: another setting"
    ]


@pytest.mark.parametrize("status", ["out_of_memory", "failed", "timeout", "diverged"])
def test_what_no_longer_completes_regressed(status: str) -> None:
    lost = sample_test(status=status, windows=(), error="it broke", peak_allocated_bytes=None)
    findings = found(sample_test(), lost)
    assert findings.keys() == {"status"}
    assert findings["status"].verdict == "regressed"
    assert findings["status"].reason == "it broke"


def test_a_vanished_test_regressed_and_a_new_one_is_named() -> None:
    one, other = sample_test(), replace(sample_test(), name="training/other")
    gone = judge(sample_results(one, other), sample_results(one))
    assert [(f.test, f.measure) for f in gone.findings if f.verdict == "regressed"] == [
        ("training/other", "presence")
    ]
    assert gone.exit_code == 1
    come = judge(sample_results(one), sample_results(one, other))
    assert come.new_tests == ("training/other",)
    assert come.exit_code == 0


def test_a_lower_accuracy_by_seeds_regressed() -> None:
    before = [0.90, 0.91, 0.92, 0.90, 0.91]
    finding = found(sample_training(before), sample_training([a - 0.05 for a in before]))[
        "accuracy"
    ]
    assert (finding.test, finding.verdict) == (TRAINED, "regressed")
    assert finding.ratio == pytest.approx(-0.05)


def test_the_same_accuracies_are_the_same_and_scattered_ones_ask_for_more_seeds() -> None:
    before = [0.90, 0.91, 0.92, 0.90, 0.91]
    same = [0.901, 0.909, 0.921, 0.899, 0.910]
    assert verdict(sample_training(before), sample_training(same)) == "same"
    scattered = [0.85, 0.95, 0.86, 0.94, 0.88]
    assert verdict(sample_training(before), sample_training(scattered)) == "inconclusive"


def test_only_the_same_seeds_are_compared() -> None:
    before, after = sample_training([0.9] * 5), sample_training([0.9] * 5)
    shifted = replace(after, runs=tuple(replace(run, seed=run.seed + 9) for run in after.runs))
    assert found(before, shifted)["accuracy"].verdict == "invalid"


def test_measuring_goes_on_until_the_least_number_of_pairs_then_until_decided() -> None:
    few, enough = MIN_RUNS - 1, MIN_RUNS
    assert not is_decided(sample_test(number=few), sample_test(number=few), delta=DELTA)
    assert is_decided(sample_test(number=enough), sample_test(number=enough), delta=DELTA)
    base, candidate = sample_test(number=enough), sample_test(number=enough, offset=FAR)
    assert not is_decided(base, candidate, delta=1e-6)


def test_what_has_regressed_is_measured_no_longer_than_most_to_decide_the_rest() -> None:
    more_memory: dict[str, Any] = {"peak_allocated_bytes": 2**30}
    for number, is_over in ((ENOUGH_RUNS - 1, False), (ENOUGH_RUNS, True)):
        base = sample_test(number=number)
        same = sample_test(number=number, offset=FAR)
        hungrier = sample_test(number=number, offset=FAR, **more_memory)
        assert not is_decided(base, same, delta=1e-6)
        assert is_decided(base, hungrier, delta=1e-6) is is_over


def test_another_precision_needs_no_second_pair_and_a_lost_cell_one_more() -> None:
    other = sample_test(number=1, effective_precision="bf16", validity="invalid")
    assert is_decided(sample_test(number=1), other, delta=DELTA)
    lost: dict[str, Any] = {"status": "out_of_memory", "windows": ()}
    assert is_decided(sample_test(number=2), sample_test(number=2, **lost), delta=DELTA)


def test_nothing_found_is_nothing_to_trust() -> None:
    assert judge(sample_results(tests={}), sample_results(tests={})).exit_code == 3


def test_windows_are_paired_by_their_position() -> None:
    slow_start = (Window(seconds=4.0, num_steps=10, foreign_fraction=0.9),)
    base = sample_test()
    runs = tuple(replace(run, windows=slow_start + run.windows[1:]) for run in base.runs)
    assert found(base, replace(base, runs=runs))["throughput"].verdict == "same"
    assert found(base, base)["throughput"].test == TRAINING
