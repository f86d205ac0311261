"""Intervals that can be checked: against the binomial distribution, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cnnbench.stats import (
    MIN_PAIRS,
    VERDICTS,
    Pair,
    compare,
    judge,
    median_interval,
    noise_floor,
    ratio_interval,
    relative_half_width,
)

VALUES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


@given(values=VALUES)
def test_the_interval_lies_around_the_median_and_within_the_values(values: list[float]) -> None:
    low, high = median_interval(values)
    assert min(values) <= low <= np.median(values) <= high <= max(values)


@given(values=VALUES)
def test_the_same_values_give_the_same_interval(values: list[float]) -> None:
    assert median_interval(values) == median_interval(tuple(values))


def test_one_value_has_no_width() -> None:
    assert median_interval([0.2]) == (0.2, 0.2)
    assert relative_half_width([0.2]) == 0


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no interval"):
        median_interval([])


def test_the_interval_agrees_with_the_order_statistics() -> None:
    values = np.sort(np.random.RandomState(1).lognormal(sigma=0.2, size=41))
    low, high = median_interval(list(values))
    # The classical interval: the median lies between these order statistics with 95 %.
    below, above = scipy_stats.binom.interval(0.95, len(values), 0.5)
    slack = 2
    assert values[int(below) - slack] <= low <= values[int(below) + slack]
    assert values[int(above) - 1 - slack] <= high <= values[int(above) - 1 + slack]


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    draws = np.random.RandomState(2).exponential(size=(400, 25))
    intervals = [median_interval(list(sample)) for sample in draws]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.99


def test_more_confidence_is_wider_and_more_values_are_narrower() -> None:
    values = list(np.random.RandomState(3).normal(10, 1, size=200))
    wide, narrow = (median_interval(values, confidence=share) for share in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert relative_half_width(values) < relative_half_width(values[:20])


def test_the_half_width_is_relative_to_the_median() -> None:
    values = [0.9, 1.0, 1.1, 1.2, 1.3]
    low, high = median_interval(values)
    assert relative_half_width(values) == pytest.approx((high - low) / 2 / 1.1)
    assert relative_half_width([7 * v for v in values]) == pytest.approx(
        relative_half_width(values)
    )


def processes(
    rng: np.random.Generator, *, num_pairs: int, slowdown: float = 0.0, between: float = 0.005
) -> list[Pair]:
    """Return pairs of processes whose own luck is worth `between`, and whose windows vary by 1 %."""
    pairs: list[Pair] = []
    for _ in range(num_pairs):
        luck = rng.normal(0, between, size=2)
        baseline, candidate = (0.02 * np.exp(each + rng.normal(0, 0.01, size=8)) for each in luck)
        pairs.append((list(baseline), list(candidate * (1 + slowdown))))
    return pairs


def test_the_ratio_is_that_of_the_rates_and_above_1_where_the_candidate_is_faster() -> None:
    pairs: list[Pair] = [([0.2, 0.2, 0.2], [0.1, 0.1, 0.1])] * 5
    assert ratio_interval(pairs) == pytest.approx((2, 2, 2))
    found = compare(pairs)
    assert (found.verdict, found.num_pairs, found.reason) == ("improved", 5, "")
    assert compare([(b, a) for a, b in pairs]).verdict == "regressed"


def test_drift_that_both_of_a_pair_share_is_no_difference() -> None:
    rng = np.random.default_rng(3)
    speeds = np.linspace(1, 4, 8)  # the machine grows four times slower meanwhile
    pairs = [
        ([speed * t for t in baseline], [speed * t for t in candidate])
        for speed, (baseline, candidate) in zip(speeds, processes(rng, num_pairs=8), strict=True)
    ]
    assert compare(pairs).verdict == "same"


def test_swapping_the_arms_turns_the_verdict_round() -> None:
    pairs = processes(np.random.default_rng(5), num_pairs=8, slowdown=0.05)
    found, swapped = compare(pairs), compare([(b, a) for a, b in pairs])
    assert (found.verdict, swapped.verdict) == ("regressed", "improved")
    assert found.ratio is not None
    assert swapped.ratio == pytest.approx(1 / found.ratio)


def test_the_interval_of_few_processes_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    for num_pairs in (4, 8):
        covered = 0
        for _ in range(40):
            _, low, high = ratio_interval(processes(rng, num_pairs=num_pairs, between=0.02))
            covered += low <= 1 <= high
        # 95 % of 40 is 38; the binomial chance of fewer than 34 is 1 in 100.
        assert covered >= 34, (num_pairs, covered)


def test_windows_taken_as_independent_would_cry_wolf_where_the_hierarchy_does_not() -> None:
    """Steps of one process share its luck: a t-test over them all calls identical settings different."""
    rng = np.random.default_rng(11)
    false_alarms = {"t-test": 0, "hierarchy": 0}
    for _ in range(40):
        pairs = processes(rng, num_pairs=MIN_PAIRS, between=0.03)
        baseline, candidate = ([t for pair in pairs for t in pair[arm]] for arm in range(2))
        p_value = scipy_stats.ttest_ind(baseline, candidate).pvalue
        false_alarms["t-test"] += bool(p_value < 0.05)
        false_alarms["hierarchy"] += compare(pairs).verdict in {"improved", "regressed"}
    assert false_alarms["t-test"] > 15
    assert false_alarms["hierarchy"] == 0


def test_a_planted_slowdown_is_found_and_never_called_the_same() -> None:
    rng = np.random.default_rng(13)
    verdicts = [compare(processes(rng, num_pairs=8, slowdown=0.05)).verdict for _ in range(20)]
    assert verdicts == ["regressed"] * 20
    noisy = [
        compare(processes(rng, num_pairs=8, slowdown=0.05, between=0.05)).verdict for _ in range(20)
    ]
    assert set(noisy) <= {"regressed", "inconclusive"}


def test_too_few_pairs_decide_nothing() -> None:
    pairs: list[Pair] = [([0.2] * 3, [0.1] * 3)] * (MIN_PAIRS - 1)
    found = compare(pairs)
    assert (found.verdict, found.reason) == ("inconclusive", "3 of at least 4 pairs")
    assert compare([]).verdict == "invalid"
    with pytest.raises(ValueError, match="no pairs"):
        ratio_interval([])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.99, 1.01, "same"),
        (0.9805, 1.0199, "same"),
        (1.021, 1.2, "improved"),
        (0.8, 0.979, "regressed"),
        (0.97, 1.0, "inconclusive"),
        (1.01, 1.05, "inconclusive"),
        (0.5, 2.0, "inconclusive"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(low: float, high: float, verdict: str) -> None:
    assert judge(low, high, delta=0.02) == verdict
    assert verdict in VERDICTS


def test_the_noise_floor_is_the_least_delta_that_calls_identical_settings_the_same() -> None:
    pairs = processes(np.random.default_rng(17), num_pairs=6, between=0.03)
    floor = noise_floor(pairs)
    assert compare(pairs, delta=floor * 1.0001).verdict == "same"
    assert compare(pairs, delta=floor * 0.999).verdict != "same"
