"""How often the judge is wrong, and how many seeds it needs: told by effects whose truth is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cnnbench.analysis.sequential import MANY_SEEDS, Decision, decide, interval

LOOKS = (3, 5, 8, 12)
NUM_STUDIES = 600


def outcomes(
    true_effect: float,
    *,
    direction: str = "up",
    num_tests: int = 1,
    spread: float = 1.0,
    seed: int = 0,
    number: int = NUM_STUDIES,
    skewed: bool = False,
) -> Counter[str]:
    """Judge simulated studies whose seeds are added until they are decided; the margin is 0.5."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((number, LOOKS[-1]))
    if skewed:
        noise = rng.exponential(size=noise.shape) - 1
    found: Counter[str] = Counter()
    for row in true_effect + spread * noise:
        decision = decide(
            list(row), direction=direction, margin=0.5, looks=LOOKS, num_tests=num_tests
        )
        assert decision is not None
        found[decision.outcome] += 1
    return found


def test_no_effect_is_hardly_ever_confirmed_however_often_it_is_looked_at() -> None:
    assert outcomes(0.0)["confirmed"] <= 0.05 * NUM_STUDIES
    assert outcomes(0.0, spread=5.0)["confirmed"] <= 0.05 * NUM_STUDIES


def test_an_effect_on_the_very_threshold_is_confirmed_in_at_most_5_percent() -> None:
    assert outcomes(0.5)["confirmed"] <= 0.05 * NUM_STUDIES
    assert outcomes(-0.5, direction="down")["confirmed"] <= 0.05 * NUM_STUDIES
    assert outcomes(0.5, direction="same")["confirmed"] <= 0.05 * NUM_STUDIES


def test_an_effect_that_is_there_is_hardly_ever_refuted() -> None:
    assert outcomes(0.6)["refuted"] <= 0.05 * NUM_STUDIES
    assert outcomes(0.0, direction="same")["refuted"] <= 0.05 * NUM_STUDIES


def test_skewed_effects_keep_the_error_within_bounds() -> None:
    assert outcomes(0.5, skewed=True)["confirmed"] <= 0.05 * NUM_STUDIES


def test_several_claims_share_the_error_of_their_study() -> None:
    number, num_tests = 250, 6
    rng = np.random.default_rng(1)
    wrong = 0
    for study in 0.5 + rng.standard_normal((number, num_tests, LOOKS[-1])):
        found = [
            decide(list(row), direction="up", margin=0.5, looks=LOOKS, num_tests=num_tests)
            for row in study
        ]
        wrong += any(one is not None and one.outcome == "confirmed" for one in found)
    assert wrong <= 0.05 * number


def test_power_grows_with_the_effect() -> None:
    """A spread of 1: an effect 1.5 beyond the threshold is nearly always found within 12 seeds."""
    power = [outcomes(0.5 + beyond, number=300)["confirmed"] / 300 for beyond in (0.5, 1.0, 1.5)]
    assert power == sorted(power)
    assert power[-1] > 0.9
    assert power[0] < 0.5


def test_power_grows_with_the_number_of_seeds() -> None:
    rng = np.random.default_rng(2)
    effects = 1.5 + rng.standard_normal((300, 20))
    power = []
    for looks in ((3,), (3, 5), (3, 5, 8), (3, 5, 8, 12), (3, 5, 8, 12, 20)):
        found = [
            decide(list(row[: looks[-1]]), direction="up", margin=0.5, looks=looks)
            for row in effects
        ]
        power.append(sum(one is not None and one.outcome == "confirmed" for one in found))
    assert power == sorted(power)
    assert power[0] < 100
    assert power[-1] > 250


def test_the_percentile_bootstrap_of_three_seeds_would_be_wrong_far_more_often() -> None:
    """Why few seeds take Student's t."""
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((300, 3))
    resampled = rng.integers(3, size=(300, 2000, 3))
    means = np.take_along_axis(samples[:, None, :], resampled, axis=2).mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    missed = np.mean((low > 0) | (high < 0))
    kept = [interval(list(sample), 0.05) for sample in samples]
    assert missed > 0.15
    assert np.mean([low > 0 or high < 0 for low, high, _ in kept]) <= 0.08


def test_many_seeds_are_resampled_and_few_take_students_t() -> None:
    rng = np.random.default_rng(4)
    values = list(rng.standard_normal(MANY_SEEDS))
    assert interval(values[:-1], 0.05)[2] == "Student's t"
    low, high, method = interval(values, 0.05)
    assert method == "bootstrap"
    assert low < np.mean(values) < high
    assert interval(values, 0.05) == (low, high, method)


def judged(
    effects: list[float | None], *, direction: str = "up", rounding: float = 0.0
) -> Decision | None:
    return decide(effects, direction=direction, margin=0.5, looks=LOOKS, rounding=rounding)


def test_what_comes_after_a_decision_cannot_change_it() -> None:
    first = judged([2.0, 2.0, 2.0])
    assert first is not None
    assert first.outcome == "confirmed"
    assert judged([2.0, 2.0, 2.0, -9.0, -9.0]) == first


def test_seeds_between_two_looks_are_not_looked_at() -> None:
    effects: list[float | None] = [0.1, 2.0, 1.2]
    assert judged([*effects, 50.0]) == judged(effects)


def test_too_few_seeds_that_count_are_no_verdict() -> None:
    assert judged([1.0, 1.0]) is None
    assert judged([1.0, None, 1.0]) is None
    found = judged([1.0, None, 1.01, 1.02, 1.0])
    assert found is not None
    assert found.num_seeds == 4


def test_equal_values_counted_in_steps_are_no_proof_that_there_is_no_spread() -> None:
    exact, counted = judged([0.6, 0.6, 0.6]), judged([0.6, 0.6, 0.6], rounding=0.3)
    assert exact is not None
    assert exact.outcome == "confirmed"
    assert counted is not None
    assert counted.outcome == "inconclusive"


def test_an_open_verdict_says_how_many_seeds_would_decide_it() -> None:
    rng = np.random.default_rng(5)
    effects = list(0.9 + rng.standard_normal(LOOKS[-1]))
    found = judged([float(one) for one in effects])
    assert found is not None
    assert found.outcome == "inconclusive"
    assert found.num_needed is not None
    assert found.num_needed > LOOKS[-1]
    decided = judged([2.0, 2.0, 2.0])
    assert decided is not None
    assert decided.num_needed is None


@pytest.mark.parametrize(("up", "down"), [("confirmed", "refuted"), ("refuted", "refuted")])
def test_turning_the_effect_round_turns_the_verdict(up: str, down: str) -> None:
    size = 2.0 if up == "confirmed" else 0.2
    effects: list[float | None] = [size, size + 0.01, size - 0.01]
    turned = [None if one is None else -one for one in effects]
    found, other = judged(effects), judged(turned)
    assert found is not None
    assert other is not None
    assert (found.outcome, other.outcome) == (up, down)
    downwards = judged(turned, direction="down")
    assert downwards is not None
    assert downwards.outcome == up
    assert downwards.effect == pytest.approx(-found.effect)
    assert downwards.low <= downwards.effect <= downwards.high
