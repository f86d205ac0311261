"""Windows of consecutive training steps, synchronised only at their two ends, until they are enough."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from cnnbench.measure.machine import foreign_fraction, read_load
from cnnbench.measurement import Window
from cnnbench.stats import relative_half_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.cell import Timing
    from cnnbench.measure.machine import Load

MAX_FOREIGN_FRACTION = 0.05
MAX_WARMUP_SHIFT = 0.05
# Below this there is no interval to speak of, so the time limit waits for it.
MIN_WINDOWS_AT_LIMIT = 3
MAX_WARMUP_FACTOR = 10


class Step(Protocol):
    """One training step: fetches its batch, computes, updates. Must not synchronise."""

    def __call__(self) -> None:
        """Run the step."""


class Stopwatch:
    """Reads the processor's clock: right wherever a step has finished when its call returns."""

    def synchronize(self) -> None:
        """Wait until everything that was started has finished."""

    def run(self, step: Step, num_steps: int) -> float:
        """Return the seconds that `num_steps` steps take, nothing in between."""
        start = time.perf_counter()
        for _ in itertools.repeat(None, num_steps):
            step()
        return time.perf_counter() - start

    def load(self) -> Load | None:
        """Return the load of what the steps run on, to tell how much of it others took."""
        return read_load()


class CudaStopwatch(Stopwatch):
    """Reads CUDA events, recorded in the stream and read after the loop."""

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def run(self, step: Step, num_steps: int) -> float:
        """Return the seconds between two events around `num_steps` steps."""
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in itertools.repeat(None, num_steps):
            step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def load(self) -> Load | None:
        """Return nothing: who else uses the processors says little about the device."""
        return None


def stopwatch(device: torch.device) -> Stopwatch:
    """Return the stopwatch that is right for `device`."""
    return CudaStopwatch() if device.type == "cuda" else Stopwatch()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The windows of one cell, and why there are no more."""

    windows: tuple[Window, ...]
    rejected_windows: tuple[Window, ...]
    stop_reason: str


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How many steps the warm-up took, and what one takes that follows another."""

    num_steps: int
    step_seconds: float


def warm_up(step: Step, watch: Stopwatch, timing: Timing) -> WarmUp:
    """Run steps, at least `timing.warmup_steps`, until two halves of the last ones agree within 5 %."""
    half = max(1, (timing.warmup_steps + 1) // 2)
    seconds: list[float] = []
    deadline = time.monotonic() + timing.limit_seconds
    while True:
        seconds.append(watch.run(step, 1))
        if len(seconds) < 2 * half:
            continue
        earlier = statistics.median(seconds[-2 * half : -half])
        later = statistics.median(seconds[-half:])
        settled = abs(later - earlier) <= MAX_WARMUP_SHIFT * earlier
        if settled or len(seconds) >= MAX_WARMUP_FACTOR * half or time.monotonic() > deadline:
            return _in_a_row(
                step, watch, timing, WarmUp(num_steps=len(seconds), step_seconds=later)
            )


def _in_a_row(step: Step, watch: Stopwatch, timing: Timing, alone: WarmUp) -> WarmUp:
    """Time a window's worth of steps: without a wait after each they may take less."""
    num_steps = math.ceil(timing.window_seconds / alone.step_seconds)
    if num_steps == 1:
        return alone
    step_seconds = min(alone.step_seconds, watch.run(step, num_steps) / num_steps)
    return WarmUp(num_steps=alone.num_steps + num_steps, step_seconds=step_seconds)


def measure(
    step: Step,
    watch: Stopwatch,
    timing: Timing,
    step_seconds: float,
    data_seconds: Callable[[], float | None],
) -> Measured:
    """Time windows until the median is known as well as `timing` asks.

    Args:
        step: the training step, warm.
        watch: the device's stopwatch.
        timing: how long a window lasts, and when to stop.
        step_seconds: about what one step takes; decides how many make a window.
        data_seconds: returns the time spent waiting for batches since it was last asked.
    """
    num_steps = math.ceil(timing.window_seconds / step_seconds)
    data_seconds()  # forgets the warm-up's
    kept: list[Window] = []
    rejected: list[Window] = []
    reason = ""
    for window in _windows(step, watch, num_steps, data_seconds):
        # A neighbour that stays would keep us for ever: measuring anew may take as long again.
        if _is_disturbed(window) and _seconds(rejected) < timing.limit_seconds:
            rejected.append(window)
            continue
        kept.append(window)
        is_late = _seconds(kept) > timing.limit_seconds
        reason = _stop_reason(kept, timing, is_late=is_late)
        if reason:
            break
    return Measured(windows=tuple(kept), rejected_windows=tuple(rejected), stop_reason=reason)


def _is_disturbed(window: Window) -> bool:
    return (window.foreign_fraction or 0.0) > MAX_FOREIGN_FRACTION


def _windows(
    step: Step, watch: Stopwatch, num_steps: int, data_seconds: Callable[[], float | None]
) -> Iterator[Window]:
    while True:
        load = watch.load()
        start = time.perf_counter()
        seconds = watch.run(step, num_steps)
        wall_seconds = time.perf_counter() - start
        window = Window(seconds=seconds, num_steps=num_steps)
        foreign = foreign_fraction(load, watch.load(), wall_seconds)
        yield replace(window, foreign_fraction=foreign, data_seconds=data_seconds())


def _seconds(windows: list[Window]) -> float:
    return sum(window.seconds for window in windows)


def _stop_reason(kept: list[Window], timing: Timing, *, is_late: bool) -> str:
    """Return why timing is over, or nothing while it is not."""
    if len(kept) >= timing.min_windows:
        width = relative_half_width([window.step_seconds for window in kept])
        if width <= timing.half_width:
            return "half_width"
    if len(kept) >= timing.max_windows:
        return "max_windows"
    return "limit_seconds" if is_late and len(kept) >= MIN_WINDOWS_AT_LIMIT else ""
