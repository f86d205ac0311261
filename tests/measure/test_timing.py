"""Windows of steps: how long, how many, which do not count, and when there are enough."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench.cell import Timing
from cnnbench.measure.timing import (
    MIN_WINDOWS_AT_LIMIT,
    MIN_WINDOWS_AT_NOISE_FLOOR,
    CudaStopwatch,
    Measured,
    Stopwatch,
    measure,
    stopwatch,
    warm_up,
)
from cnnbench.measure.witness import Witness
from cnnbench.measurement import MAX_FOREIGN_FRACTION, Window
from cnnbench.stats import relative_half_width
from neighbours import busy_neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMING = Timing(
    window_seconds=0.02,
    min_windows=4,
    max_windows=8,
    half_width=0.5,
    limit_seconds=60.0,
    warmup_steps=4,
)


class Blind(Witness):
    """Sees nobody, whoever uses the machine."""

    def after(self, window: Window) -> Window:
        return window


class Scripted(Stopwatch):
    """A clock that tells prepared times: `seconds(number of steps)` for each run; nothing runs."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.runs: list[int] = []

    def run(self, step: object, num_steps: int) -> float:  # noqa: ARG002 (nothing runs)
        self.runs.append(num_steps)
        return self.seconds(num_steps)


def scripted(per_step: Iterator[float]) -> Scripted:
    return Scripted(lambda num_steps: num_steps * next(per_step))


def no_step() -> None:
    """Take the place of a step under a scripted clock."""


def short_step() -> None:
    time.sleep(0.002)


def unknown() -> None:
    """Know nothing of waiting for data."""


def timed(timing: Timing, witness: Witness) -> Measured:
    return measure(short_step, Stopwatch(), timing, 0.002, unknown, witness)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_stopwatch_runs_each_step_and_no_other(num_steps: int) -> None:
    calls: list[None] = []
    seconds = Stopwatch().run(lambda: calls.append(None), num_steps)
    assert len(calls) == num_steps
    assert seconds > 0


def test_a_stopwatch_measures_at_least_what_was_slept() -> None:
    assert Stopwatch().run(short_step, 5) >= 5 * 0.002


@pytest.mark.parametrize("step_seconds", [0.0003, 0.004, 0.007, 0.02, 0.9])
def test_a_window_has_the_fewest_steps_that_last_long_enough(step_seconds: float) -> None:
    watch = Scripted(lambda num_steps: num_steps * step_seconds)
    measured = measure(no_step, watch, TIMING, step_seconds, unknown, Blind())
    lengths = {window.num_steps for window in measured.windows}
    assert lengths == {math.ceil(0.02 / step_seconds)}
    assert set(watch.runs) == lengths
    for window in measured.windows:
        assert window.seconds >= TIMING.window_seconds
        assert (window.num_steps - 1) * step_seconds < TIMING.window_seconds
        assert window.step_seconds == pytest.approx(step_seconds)


def test_every_window_is_kept_in_the_order_measured() -> None:
    times = [0.01, 0.03, 0.02, 0.05, 0.04, 0.07, 0.06, 0.08]
    timing = replace(TIMING, half_width=1e-6)
    measured = measure(no_step, scripted(iter(times)), timing, 0.02, unknown, Blind())
    assert [window.seconds for window in measured.windows] == times
    assert measured.rejected_windows == ()


def test_each_window_has_its_own_wait_for_data_and_not_the_warm_ups() -> None:
    waits = iter([9.0, 0.001, 0.002, 0.003, 0.004])
    watch = Scripted(lambda num_steps: num_steps * 0.01)
    measured = measure(no_step, watch, TIMING, 0.01, lambda: next(waits), Blind())
    assert [window.data_seconds for window in measured.windows] == [0.001, 0.002, 0.003, 0.004]


def test_timing_stops_as_soon_as_the_median_is_known_well_enough() -> None:
    times = [1.0, 1.2, 0.9, 1.1, *[1.0] * 20]
    timing = replace(TIMING, half_width=0.03, max_windows=20)
    measured = measure(no_step, scripted(iter(times)), timing, 1.0, unknown, Blind())
    number = len(measured.windows)
    assert measured.stop_reason == "half_width"
    assert relative_half_width(times[:number]) <= 0.03
    assert all(relative_half_width(times[:n]) > 0.03 for n in range(4, number))


def test_timing_stops_for_each_of_its_reasons() -> None:
    witness = Blind()
    assert timed(TIMING, witness).stop_reason == "half_width"
    most = timed(replace(TIMING, half_width=1e-9), witness)
    assert (most.stop_reason, len(most.windows)) == ("max_windows", TIMING.max_windows)
    late = timed(replace(TIMING, half_width=1e-9, max_windows=10**6, limit_seconds=0.3), witness)
    assert late.stop_reason == "limit_seconds"
    assert len(late.windows) >= MIN_WINDOWS_AT_LIMIT


def test_the_limit_waits_for_as_many_windows_as_an_interval_needs() -> None:
    timing = replace(TIMING, limit_seconds=1.0)
    measured = measure(no_step, scripted(iter([5.0] * 9)), timing, 5.0, unknown, Blind())
    assert (measured.stop_reason, len(measured.windows)) == ("limit_seconds", MIN_WINDOWS_AT_LIMIT)


def test_a_window_beside_a_busy_neighbour_is_measured_again_but_not_for_ever() -> None:
    timing = replace(TIMING, window_seconds=0.1, half_width=1e-9, limit_seconds=1.0)
    with busy_neighbours():
        measured = timed(timing, Witness())
    assert measured.rejected_windows
    for window in measured.rejected_windows:
        assert window.foreign_fraction is not None
        assert window.foreign_fraction > MAX_FOREIGN_FRACTION
    # The neighbours stay, so in the end their windows are taken, and show it.
    assert measured.stop_reason
    shares = [window.foreign_fraction for window in measured.windows]
    assert any(share is not None and share > MAX_FOREIGN_FRACTION for share in shares)


def test_an_unknown_load_rejects_nothing() -> None:
    watch = Scripted(lambda num_steps: num_steps * 0.01)
    measured = measure(no_step, watch, TIMING, 0.01, unknown, Blind())
    assert {window.foreign_fraction for window in measured.windows} == {None}
    assert measured.rejected_windows == ()


def test_a_warm_up_takes_its_steps_even_where_they_are_steady_at_once() -> None:
    watch = scripted(iter([1.0] * 9))
    warm = warm_up(no_step, watch, TIMING)
    assert (warm.num_steps, warm.step_seconds) == (4, 1.0)


def test_a_warm_up_lasts_until_its_last_halves_agree() -> None:
    times = [9.0, 8.0, 6.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.02, 1.0]
    warm = warm_up(no_step, scripted(iter(times)), TIMING)
    # Of the last four steps, 2.0 and 1.0 against 1.0 and 1.0 still differ by half.
    assert warm.num_steps == 9
    assert warm.step_seconds == pytest.approx(1.01)


def test_a_warm_up_that_never_settles_ends_and_says_so() -> None:
    slower_and_slower = (1.5**number for number in count())
    warm = warm_up(no_step, scripted(slower_and_slower), TIMING)
    assert (warm.num_steps, warm.is_steady) == (20, False)


class Upheaved(Scripted):
    """A clock of even steps, of which the first ones bring new memory or code."""

    def __init__(self, num_upheavals: int) -> None:
        super().__init__(lambda num_steps: num_steps * 1.0)
        self.num_upheavals = num_upheavals

    def upheavals(self) -> tuple[int, ...]:
        return (min(len(self.runs), self.num_upheavals),)


def test_a_warm_up_lasts_until_nothing_is_compiled_and_no_memory_newly_reserved() -> None:
    warm = warm_up(no_step, Upheaved(3), TIMING)
    # Four steps without anything new follow the three.
    assert (warm.num_steps, warm.is_steady) == (7, True)
    assert warm_up(no_step, Upheaved(10**6), TIMING).is_steady is False


def test_windows_in_which_something_was_compiled_are_not_steady() -> None:
    quiet = measure(no_step, Upheaved(0), TIMING, 1.0, unknown, Blind())
    upheaved = measure(no_step, Upheaved(3), TIMING, 1.0, unknown, Blind())
    assert (quiet.is_steady, upheaved.is_steady) == (True, False)


def test_a_compilation_is_an_upheaval() -> None:
    torch._dynamo.reset()  # noqa: SLF001 (its documented way to forget what was compiled)
    before = stopwatch(torch.device("cpu")).upheavals()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    after = stopwatch(torch.device("cpu")).upheavals()
    assert after[0] == before[0] + 1


def test_timing_ends_when_more_windows_do_not_know_the_median_better() -> None:
    # Two speeds, the machine keeping each for long: no number of windows tells which is the truth.
    times = [1.0 if number % 2 else 1.5 for number in range(200)]
    timing = replace(TIMING, half_width=0.001, max_windows=200, limit_seconds=1e9)
    measured = measure(no_step, scripted(iter(times)), timing, 1.0, unknown, Blind())
    assert measured.stop_reason == "noise_floor"
    assert len(measured.windows) >= MIN_WINDOWS_AT_NOISE_FLOOR


def test_a_warm_up_ends_at_the_time_limit() -> None:
    calls = count(1)

    def ever_slower() -> None:
        time.sleep(0.002 * next(calls))

    timing = replace(TIMING, limit_seconds=0.001)
    # One pair of halves, then no more; a window's worth of steps follows.
    assert warm_up(ever_slower, Stopwatch(), timing).num_steps <= 4 + 10


def test_steps_in_a_row_that_overlap_make_longer_windows() -> None:
    alone, in_a_row = 0.004, 0.001
    watch = Scripted(lambda num_steps: alone if num_steps == 1 else num_steps * in_a_row)
    warm = warm_up(no_step, watch, TIMING)
    assert warm.step_seconds == pytest.approx(in_a_row)
    assert warm.num_steps == sum(watch.runs)
    measured = measure(no_step, watch, TIMING, warm.step_seconds, unknown, Blind())
    assert all(window.seconds >= TIMING.window_seconds for window in measured.windows)


def test_the_stopwatch_suits_the_device() -> None:
    watch = stopwatch(torch.device("cpu"))
    assert type(watch) is Stopwatch
    assert watch.upheavals() == Stopwatch().upheavals()


@pytest.mark.gpu
def test_cudas_stopwatch_sees_the_devices_time_within_the_wall_clocks() -> None:
    watch = stopwatch(torch.device("cuda"))
    assert type(watch) is CudaStopwatch
    square = torch.randn(2048, 2048, device="cuda")

    def multiply() -> None:
        torch.mm(square, square)

    watch.run(multiply, 3)
    start = time.perf_counter()
    seconds = watch.run(multiply, 20)
    wall_seconds = time.perf_counter() - start
    assert 0 < seconds < wall_seconds
    # Events are read after the loop: the work was over when the stopwatch returned.
    assert watch.run(multiply, 200) > seconds


@pytest.mark.gpu
def test_on_cuda_a_window_lasts_as_long_as_asked() -> None:
    watch = stopwatch(torch.device("cuda"))
    square = torch.randn(1024, 1024, device="cuda")

    def step() -> None:
        torch.mm(square, square)

    timing = replace(TIMING, max_windows=4, window_seconds=0.05)
    warm = warm_up(step, watch, timing)
    measured = measure(step, watch, timing, warm.step_seconds, unknown, Blind())
    assert all(w.num_steps * warm.step_seconds >= 0.05 for w in measured.windows)
    assert {window.foreign_fraction for window in measured.windows} == {None}
