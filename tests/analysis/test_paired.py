"""Pairs of records become one verdict, and what may not be compared is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cnnbench.analysis.paired import (
    compare_pairs,
    compare_until_decided,
    measure_noise_floor,
)
from cnnbench.measurement import GpuReading, Profile, Window
from cnnbench.stats import MIN_PAIRS
from sample_records import sample_profile, sample_record

if TYPE_CHECKING:
    from cnnbench.record import Record
    from cnnbench.stats import Comparison

RNG = np.random.default_rng(0)


def record(step_seconds: float, **window: object) -> Record:
    """Return a cell of ten windows that vary by half a percent."""
    factors = np.exp(RNG.normal(0, 0.005, size=10))
    windows = tuple(
        replace(Window(seconds=10 * step_seconds * f, num_steps=10), **window)  # type: ignore[arg-type]
        for f in factors
    )
    return sample_record(profile=sample_profile(windows=windows))


def pairs(number: int, *, slowdown: float = 0.0) -> list[tuple[Record, Record]]:
    return [(record(0.02), record(0.02 * (1 + slowdown))) for _ in range(number)]


def test_equal_settings_are_the_same_and_a_slower_one_regressed() -> None:
    assert compare_pairs(pairs(5)).verdict == "same"
    found = compare_pairs(pairs(5, slowdown=0.06))
    assert found.verdict == "regressed"
    assert found.ratio == pytest.approx(1 / 1.06, rel=0.01)


def test_a_pair_with_a_neighbour_is_left_out_and_counted() -> None:
    disturbed = (record(0.02), record(0.04, foreign_fraction=0.4))
    found = compare_pairs([*pairs(5), disturbed])
    assert (found.verdict, found.num_pairs) == ("same", 5)
    assert found.reason == "others used the machine in 1 of 6 pairs"


def test_a_single_disturbed_window_costs_no_pair() -> None:
    baseline, candidate = pairs(1)[0]
    assert isinstance(baseline.profile, Profile)
    first, *rest = baseline.profile.windows
    spoilt = replace(first, seconds=first.seconds * 50, foreign_fraction=0.5)
    windows = (spoilt, *rest)
    one = replace(baseline, profile=replace(baseline.profile, windows=windows)), candidate
    found = compare_pairs([one, *pairs(4)])
    assert (found.verdict, found.num_pairs, found.reason) == ("same", 5, "")


@pytest.mark.parametrize(
    "window", [{"foreign_fraction": 0.9}, {"gpu": GpuReading(num_foreign_processes=1)}]
)
def test_where_every_pair_was_disturbed_nothing_is_decided(window: dict[str, object]) -> None:
    disturbed = [(record(0.02, **window), record(0.03, **window)) for _ in range(6)]
    found = compare_pairs(disturbed)
    assert (found.verdict, found.num_pairs) == ("inconclusive", 0)
    assert "others used the machine in 6 of 6 pairs" in found.reason
    assert measure_noise_floor(disturbed) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"validity": "invalid", "validity_reasons": ("asked for fp32, computed in tf32",)},
            "asked for fp32, computed in tf32",
        ),
        ({"status": "failed", "error": "KeyError: 3", "profile": None}, "failed: KeyError: 3"),
        ({"profile": None}, "it was not timed"),
    ],
)
def test_what_may_not_be_compared_makes_the_comparison_invalid(
    changes: dict[str, object], reason: str
) -> None:
    baseline, candidate = pairs(1)[0]
    found = compare_pairs([*pairs(5), (baseline, replace(candidate, **changes))])  # type: ignore[arg-type]
    assert found.verdict == "invalid"
    assert found.ratio is None
    assert found.reason == f"{candidate.cell.name}: {reason}"


def test_the_noise_floor_needs_enough_pairs() -> None:
    floor = measure_noise_floor(pairs(MIN_PAIRS))
    assert floor is not None
    assert 0 < floor < 0.05
    assert measure_noise_floor(pairs(MIN_PAIRS - 1)) is None


def test_no_more_pairs_are_run_than_the_verdict_needs() -> None:
    seen: list[Comparison] = []
    found = compare_until_decided(iter(pairs(30)), on_pair=seen.append)
    assert found.verdict == "same"
    assert len(seen) == found.num_pairs == MIN_PAIRS + 1
    late = compare_until_decided(iter(pairs(30)), min_pairs=9)
    assert (late.verdict, late.num_pairs) == ("same", 9)


def test_pairs_are_added_until_they_decide_or_end() -> None:
    rng = np.random.default_rng(1)
    noisy = [(record(0.02 * luck), record(0.02)) for luck in np.exp(rng.normal(0, 0.03, size=60))]
    found = compare_until_decided(iter(noisy))
    assert found.num_pairs > MIN_PAIRS + 1
    short = compare_until_decided(iter(noisy[:5]))
    assert (short.verdict, short.num_pairs) == ("inconclusive", 5)
    assert compare_until_decided(iter([])).verdict == "invalid"


def test_a_cell_that_failed_ends_the_comparison_at_once() -> None:
    baseline, candidate = pairs(1)[0]
    failed = replace(candidate, status="failed", error="KeyError: 3", profile=None)
    runs = iter([(baseline, failed), *pairs(9)])
    assert compare_until_decided(runs).verdict == "invalid"
    assert len(list(runs)) == 9
