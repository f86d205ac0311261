"""Claims judged by hand-made records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.analysis.judge import judge, value_of
from cnnbench.study import VERDICT_COLUMNS, Claim
from sample_records import sample_dataset
from sample_study import arm_record, fit, sample_study

if TYPE_CHECKING:
    from cnnbench.record import Record
    from cnnbench.study import Study, Verdict

ACCURACY = Claim(
    metric="best_val_accuracy", direction="up", size=1.0, variants=("wide",), baseline="narrow"
)
SPEED = replace(ACCURACY, metric="images_per_second", size=0.1)
MEMORY = replace(ACCURACY, metric="peak_allocated_mib", direction="down", size=0.2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return sample_study(tmp_path_factory.mktemp("study"))


def judged(study: Study, claim: Claim, pairs: list[tuple[Record, Record]]) -> Verdict:
    return judge(study, claim, "wide", pairs, device="Intel Xeon", dataset=sample_dataset())


def trained(study: Study, gains: list[float], **changes: Any) -> list[tuple[Record, Record]]:
    """Return a pair a seed whose variant is better by so much."""
    return [
        (
            arm_record(study, "narrow", seed, accuracy=0.8),
            arm_record(study, "wide", seed, accuracy=0.8 + gain, **changes),
        )
        for seed, gain in enumerate(gains)
    ]


def profiled(study: Study, factors: list[float], **changes: Any) -> list[tuple[Record, Record]]:
    """Return a pair a seed whose variant is that many times as fast and takes half the memory."""
    return [
        (
            arm_record(study, "narrow", seed, kind="profile", seconds=0.02),
            arm_record(
                study, "wide", seed, kind="profile", seconds=0.02 / factor, peak_mib=30, **changes
            ),
        )
        for seed, factor in enumerate(factors)
    ]


def test_a_clear_gain_is_confirmed_with_its_effect_in_points(study: Study) -> None:
    verdict = judged(study, ACCURACY, trained(study, [0.10, 0.101, 0.099]))
    assert verdict.outcome == "confirmed"
    assert verdict.effect == pytest.approx(10.0)
    low, effect, high = verdict.low or 0.0, verdict.effect or 0.0, verdict.high or 0.0
    assert verdict.threshold == 1.0 <= low < effect < high
    assert (verdict.unit, verdict.num_seeds) == ("points", 3)
    assert verdict.seeds == pytest.approx((10.0, 10.1, 9.9))
    assert list(verdict.row()) == list(VERDICT_COLUMNS)


def test_a_gain_too_small_to_matter_is_refuted(study: Study) -> None:
    verdict = judged(study, replace(ACCURACY, size=20.0), trained(study, [0.002, 0.001, 0.003]))
    assert verdict.outcome == "refuted"


def test_flipping_the_arms_flips_the_verdict(study: Study) -> None:
    pairs = trained(study, [0.10, 0.101, 0.099])
    flipped = [(changed, base) for base, changed in pairs]
    assert judged(study, ACCURACY, pairs).outcome == "confirmed"
    verdict = judged(study, ACCURACY, flipped)
    assert verdict.outcome == "refuted"
    assert "other way" in verdict.reason


def test_scattered_seeds_are_inconclusive_and_say_how_many_would_decide(study: Study) -> None:
    verdict = judged(study, ACCURACY, trained(study, [0.10, -0.05, 0.02]))
    assert verdict.outcome == "inconclusive"
    assert verdict.is_open
    assert "seeds would decide it" in verdict.reason
    last = judged(study, ACCURACY, trained(study, [0.10, -0.05, 0.02, 0.08, -0.03]))
    assert last.outcome == "inconclusive"
    assert not last.is_open


def test_equal_accuracies_are_the_same_within_what_was_claimed(study: Study) -> None:
    same = replace(ACCURACY, direction="same", size=5.0)
    assert judged(study, same, trained(study, [0.0, 0.0, 0.0])).outcome == "confirmed"
    assert judged(study, same, trained(study, [0.15, 0.15, 0.15])).outcome == "refuted"


def test_speed_is_a_ratio_of_rates(study: Study) -> None:
    verdict = judged(study, SPEED, profiled(study, [1.5, 1.51, 1.49]))
    assert verdict.outcome == "confirmed"
    assert verdict.effect == pytest.approx(1.5, rel=1e-3)
    assert verdict.unit == "x"
    assert verdict.threshold == pytest.approx(1.1)


@pytest.mark.parametrize("validity", ["suspect", "invalid"])
def test_speed_claims_nothing_from_cells_that_are_not_valid(study: Study, validity: str) -> None:
    pairs = profiled(
        study, [1.5, 1.51, 1.49], validity=validity, validity_reasons=("others were at work",)
    )
    verdict = judged(study, SPEED, pairs)
    assert verdict.outcome == "not_measured"
    assert verdict.is_open
    assert f"is {validity} (others were at work)" in verdict.reason


def test_memory_counts_from_suspect_cells_and_not_from_invalid_ones(study: Study) -> None:
    pairs = profiled(study, [1.0, 1.0, 1.0], validity="suspect")
    verdict = judged(study, MEMORY, pairs)
    assert verdict.outcome == "confirmed"
    assert verdict.effect == pytest.approx(0.5)
    invalid = profiled(study, [1.0, 1.0, 1.0], validity="invalid")
    assert judged(study, MEMORY, invalid).outcome == "not_measured"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("failed", "failed: it broke"),
        ("timeout", "ran out of time"),
        ("unsupported", "is not supported here"),
        ("out_of_memory", "ran out of memory"),
    ],
)
@pytest.mark.parametrize("broken", [0, 1])
def test_an_arm_that_was_lost_leaves_the_claim_unmeasured(
    study: Study, status: str, said: str, broken: int
) -> None:
    pairs = [list(pair) for pair in trained(study, [0.1, 0.1, 0.1])]
    pairs[1][broken] = replace(pairs[1][broken], status=status, error="it broke", fit=None)
    verdict = judged(study, ACCURACY, [(base, changed) for base, changed in pairs])
    assert verdict.outcome == "not_measured"
    assert not verdict.is_open
    assert said in verdict.reason
    assert verdict.effect is None


def test_running_out_of_memory_answers_whether_it_fits(study: Study) -> None:
    fits = replace(ACCURACY, metric="fits", size=1.0)
    pairs = [
        (replace(base, status="out_of_memory", profile=None), changed)
        for base, changed in profiled(study, [1.0, 1.0, 1.0])
    ]
    assert judged(study, fits, pairs).outcome == "confirmed"
    assert judged(study, fits, [(b, a) for a, b in pairs]).outcome == "refuted"
    assert judged(study, MEMORY, pairs).outcome == "not_measured"


def test_a_training_that_diverged_counts_as_guessing(study: Study) -> None:
    worse = replace(ACCURACY, direction="down", size=5.0)
    verdict = judged(study, worse, trained(study, [0.0, 0.0, 0.0], status="diverged"))
    assert verdict.outcome == "confirmed"
    assert verdict.effect == pytest.approx(-70.0)
    assert "3 trainings diverged and count as guessing" in verdict.reason


def test_too_few_seeds_are_no_verdict(study: Study) -> None:
    verdict = judged(study, ACCURACY, trained(study, [0.1, 0.1]))
    assert (verdict.outcome, verdict.num_seeds) == ("not_measured", 0)
    assert verdict.reason == "2 of at least 3 seeds were run"
    assert judged(study, ACCURACY, []).is_open


def test_missing_weights_say_why_nothing_was_trained(study: Study) -> None:
    pairs = trained(study, [0.1, 0.1, 0.1])
    pairs[0] = (pairs[0][0], replace(pairs[0][1], fit=None, notes=("random weights",)))
    assert "was not trained: random weights" in judged(study, ACCURACY, pairs).reason


def test_values_are_read_from_the_records(study: Study) -> None:
    record = arm_record(study, "narrow", 0, accuracy=0.8)
    assert value_of("best_val_accuracy", record) == pytest.approx(80.0)
    assert value_of("generalization_gap", record) == pytest.approx(0.0)
    assert value_of("epochs_run", record) == 2
    assert value_of("epochs_to_accuracy", record) == 2
    assert value_of("epochs_to_accuracy", replace(record, fit=fit(0.3))) == 3
    timed = arm_record(study, "narrow", 0, kind="profile", peak_mib=64)
    assert value_of("peak_mib_per_image", timed) == pytest.approx(1.0)
    assert value_of("best_val_accuracy", timed) is None
    assert value_of("num_trainable_parameters", timed) == 175_258
