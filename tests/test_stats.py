"""Intervals that can be checked: against the binomial distribution, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cnnbench.stats import median_interval, relative_half_width

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
