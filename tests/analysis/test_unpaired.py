"""Settings that did not take turns: intervals hold the truth, and few processes claim little."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cnnbench.analysis.unpaired import Ratio, interval_of, judge_ratio, rate_of, ratio_of
from cnnbench.measurement import Window
from sample_records import sample_profile, sample_record

if TYPE_CHECKING:
    from cnnbench.record import Record


def process(seed: int, *, step_seconds: float = 0.02, spread: float = 0.0) -> Record:
    """Return a process that is slower or faster than others by about `spread`, windows by 1 %."""
    rng = random.Random(seed)  # noqa: S311 - plausible noise, no secret
    own = step_seconds * rng.lognormvariate(0, spread)
    windows = tuple(
        Window(seconds=10 * own * rng.lognormvariate(0, 0.01), num_steps=10) for _ in range(12)
    )
    return sample_record(profile=sample_profile(windows=windows))


def ratio(ours: list[Record], theirs: list[Record]) -> Ratio:
    rng = np.random.default_rng(0)
    baseline, candidate = rate_of(ours, rng), rate_of(theirs, rng)
    assert baseline is not None
    assert candidate is not None
    return ratio_of(baseline, candidate)


def test_the_rate_of_one_process_is_about_its_median_and_inside_its_interval() -> None:
    record = process(1)
    found = rate_of([record], np.random.default_rng(0))
    assert found is not None
    low, high = interval_of(found)
    assert low < np.exp(found.estimate) < high
    assert np.exp(found.estimate) == pytest.approx(record.metrics()["images_per_second"], rel=0.01)


def test_processes_that_differ_widen_the_interval() -> None:
    alike = ratio([process(n) for n in range(4)], [process(n) for n in range(4, 8)])
    unlike = ratio(
        [process(n, spread=0.05) for n in range(4)], [process(n, spread=0.05) for n in range(4, 8)]
    )
    assert unlike.high / unlike.low > 3 * alike.high / alike.low - 2


def test_a_true_difference_lies_in_the_interval() -> None:
    found = ratio(
        [process(n, spread=0.01) for n in range(5)],
        [process(n, spread=0.01, step_seconds=0.016) for n in range(5, 10)],
    )
    assert found.low < 1.25 < found.high
    assert judge_ratio(found, delta=0.02) == "improved"


@pytest.mark.parametrize(
    ("low", "high", "number", "verdict"),
    [
        (0.99, 1.01, 1, "same"),
        (1.025, 1.035, 1, "inconclusive"),
        (1.025, 1.035, 4, "improved"),
        (1.05, 1.06, 1, "improved"),
        (0.94, 0.95, 1, "regressed"),
        (0.97, 0.975, 3, "inconclusive"),
        (0.9, 1.1, 9, "inconclusive"),
    ],
)
def test_few_processes_claim_a_difference_only_beyond_twice_delta(
    low: float, high: float, number: int, verdict: str
) -> None:
    found = Ratio(value=(low + high) / 2, low=low, high=high, num_processes=number)
    assert judge_ratio(found, delta=0.02) == verdict


def test_disturbed_windows_do_not_count() -> None:
    record = process(1)
    assert record.profile is not None
    busy = Window(seconds=9.0, num_steps=10, foreign_fraction=0.5)
    disturbed = replace(
        record, profile=replace(record.profile, windows=(*record.profile.windows, busy, busy))
    )
    clean, other = (rate_of([one], np.random.default_rng(0)) for one in (record, disturbed))
    assert clean is not None
    assert other is not None
    assert clean.estimate == other.estimate


def test_what_was_not_timed_has_no_rate() -> None:
    assert rate_of([sample_record(profile=None)], np.random.default_rng(0)) is None
