"""The search for the largest batch: exact, in few tries, none of them twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.search import MAX_BATCH_SIZE, Try, largest_batch

LARGEST = st.integers(min_value=0, max_value=5000)
STARTS = st.integers(min_value=1, max_value=10_000)


class Device:
    """Fits batches up to one size; notes what was tried, and tells peaks if `tells`."""

    def __init__(self, largest: int, *, tells: bool, base: int = 1000, slope: int = 7) -> None:
        self.largest = largest
        self.budget_bytes = base + slope * largest + slope // 2
        self.tried: list[int] = []
        self._tells = tells
        self._base, self._slope = base, slope

    def attempt(self, batch_size: int) -> Try:
        self.tried.append(batch_size)
        peak = self._base + self._slope * batch_size
        return Try(
            batch_size=batch_size,
            fits=batch_size <= self.largest,
            peak_bytes=peak if self._tells else None,
        )


@given(largest=LARGEST, start=STARTS)
def test_without_peaks_it_is_exact_and_takes_few_tries(largest: int, start: int) -> None:
    device = Device(largest, tells=False)
    assert largest_batch(device.attempt, start=start) == largest
    assert len(set(device.tried)) == len(device.tried)
    assert {largest, largest + 1} - {0} <= set(device.tried)
    assert len(device.tried) <= 2 * math.log2(abs(largest - start) + 2) + 4


@given(largest=LARGEST, start=STARTS, base=st.integers(0, 10**6), slope=st.integers(2, 10**5))
def test_with_peaks_a_line_leads_to_it(largest: int, start: int, base: int, slope: int) -> None:
    device = Device(largest, tells=True, base=base, slope=slope)
    found = largest_batch(device.attempt, start=start, budget_bytes=device.budget_bytes)
    assert found == largest
    assert len(set(device.tried)) == len(device.tried)
    assert len(device.tried) <= 2 * math.log2(abs(largest - start) + 2) + 4


def test_a_good_forecast_costs_two_tries() -> None:
    device = Device(437, tells=True)
    assert largest_batch(device.attempt, start=437, budget_bytes=device.budget_bytes) == 437
    assert sorted(device.tried) == [437, 438]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=300), STARTS)
def test_a_crooked_memory_is_searched_as_exactly(steps: list[int], start: int) -> None:
    peaks = [sum(steps[: number + 1]) for number in range(len(steps))]
    budget = peaks[len(peaks) // 2]
    tried: list[int] = []

    def attempt(batch_size: int) -> Try:
        tried.append(batch_size)
        peak = peaks[batch_size - 1] if batch_size <= len(peaks) else 10**12
        return Try(batch_size=batch_size, fits=peak <= budget, peak_bytes=peak)

    largest = max((n for n, peak in enumerate(peaks, 1) if peak <= budget), default=0)
    assert largest_batch(attempt, start=start, budget_bytes=budget) == largest
    assert len(set(tried)) == len(tried) <= 60


@pytest.mark.parametrize("tells", [True, False])
def test_memory_that_never_ends_ends_the_search(tells: bool) -> None:  # noqa: FBT001
    def attempt(batch_size: int) -> Try:
        return Try(batch_size=batch_size, fits=True, peak_bytes=5 if tells else None)

    assert largest_batch(attempt, start=32, budget_bytes=10) == MAX_BATCH_SIZE
