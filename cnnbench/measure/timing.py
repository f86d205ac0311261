"""Windows of consecutive training steps, synchronised only at their two ends, until they are enough."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from cnnbench.measurement import Window
from cnnbench.stats import relative_half_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.cell import Timing
    from cnnbench.measure.witness import Witness

MAX_WARMUP_SHIFT = 0.05
MAX_WARMUP_FACTOR = 10
# Below this there is no interval to speak of, so the time limit waits for it.
MIN_WINDOWS_AT_LIMIT = 3
# Twice as many independent windows know their median 1.41 times as well. Where they gain less than
# a tenth of that, what varies is no longer the windows but the machine, and more of them do not help.
MIN_WINDOWS_AT_NOISE_FLOOR = 40
MIN_NOISE_GAIN = 1.04


class Step(Protocol):
    """One training step: fetches its batch, computes, updates. Must not synchronise."""

    def __call__(self) -> None:
        """Run the step."""


class Stopwatch:
    """Reads the processor's clock: right wherever a step has finished when its call returns."""

    def run(self, step: Step, num_steps: int) -> float:
        """Return the seconds that `num_steps` steps take, nothing in between."""
        start = time.perf_counter()
        for _ in itertools.repeat(None, num_steps):
            step()
        return time.perf_counter() - start

    def upheavals(self) -> tuple[int, ...]:
        """Return counts that rise whenever a step cost more than its work: here, compilations."""
        dynamo = sys.modules.get("torch._dynamo.utils")
        return (dynamo.counters["stats"]["unique_graphs"] if dynamo else 0,)


class CudaStopwatch(Stopwatch):
    """Reads CUDA events, recorded in the stream and read after the loop."""

    def upheavals(self) -> tuple[int, ...]:
        """Return the counts of compilations, and of memory segments asked of the driver."""
        segments = torch.cuda.memory_stats().get("segment.all.allocated", 0)
        return (*super().upheavals(), int(segments))

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


def stopwatch(device: torch.device) -> Stopwatch:
    """Return the stopwatch that is right for `device`."""
    return CudaStopwatch() if device.type == "cuda" else Stopwatch()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The windows of one cell, why there are no more, and whether nothing was compiled meanwhile."""

    windows: tuple[Window, ...]
    rejected_windows: tuple[Window, ...]
    stop_reason: str
    is_steady: bool


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How many steps the warm-up took, what one takes that follows another, and whether it settled."""

    num_steps: int
    step_seconds: float
    is_steady: bool


def warm_up(step: Step, watch: Stopwatch, timing: Timing) -> WarmUp:
    """Run steps, at least `timing.warmup_steps`, until the last ones are steady.

    They are when the medians of their two halves agree within 5 % and nothing was compiled and no
    memory newly reserved in them.
    """
    half = max(1, (timing.warmup_steps + 1) // 2)
    seconds: list[float] = []
    upheavals = [watch.upheavals()]
    deadline = time.monotonic() + timing.limit_seconds
    while True:
        seconds.append(watch.run(step, 1))
        upheavals.append(watch.upheavals())
        if len(seconds) < 2 * half:
            continue
        earlier = statistics.median(seconds[-2 * half : -half])
        later = statistics.median(seconds[-half:])
        is_even = abs(later - earlier) <= MAX_WARMUP_SHIFT * earlier
        is_steady = is_even and upheavals[-1] == upheavals[-2 * half - 1]
        if is_steady or len(seconds) >= MAX_WARMUP_FACTOR * half or time.monotonic() > deadline:
            alone = WarmUp(num_steps=len(seconds), step_seconds=later, is_steady=is_steady)
            return _in_a_row(step, watch, timing, alone)


def _in_a_row(step: Step, watch: Stopwatch, timing: Timing, alone: WarmUp) -> WarmUp:
    """Time a window's worth of steps: without a wait after each they may take less."""
    num_steps = math.ceil(timing.window_seconds / alone.step_seconds)
    if num_steps == 1:
        return alone
    step_seconds = min(alone.step_seconds, watch.run(step, num_steps) / num_steps)
    return replace(alone, num_steps=alone.num_steps + num_steps, step_seconds=step_seconds)


def measure(
    step: Step,
    watch: Stopwatch,
    timing: Timing,
    step_seconds: float,
    data_seconds: Callable[[], float | None],
    witness: Witness,
) -> Measured:
    """Time windows until the median is known as well as `timing` asks, or no longer gets known better.

    Args:
        step: the training step, warm.
        watch: the device's stopwatch.
        timing: how long a window lasts, and when to stop.
        step_seconds: about what one step takes; decides how many make a window.
        data_seconds: returns the time spent waiting for batches since it was last asked.
        witness: looks around before and after each window.
    """
    num_steps = math.ceil(timing.window_seconds / step_seconds)
    data_seconds()  # forgets the warm-up's
    kept: list[Window] = []
    rejected: list[Window] = []
    reason = ""
    upheavals = watch.upheavals()
    for window in _windows(step, watch, num_steps, data_seconds, witness):
        # A neighbour that stays would keep us for ever: measuring anew may take as long again.
        if window.is_disturbed and _seconds(rejected) < timing.limit_seconds:
            rejected.append(window)
            continue
        kept.append(window)
        is_late = _seconds(kept) > timing.limit_seconds
        reason = _stop_reason(kept, timing, is_late=is_late)
        if reason:
            break
    return Measured(
        windows=tuple(kept),
        rejected_windows=tuple(rejected),
        stop_reason=reason,
        is_steady=watch.upheavals() == upheavals,
    )


def _windows(
    step: Step,
    watch: Stopwatch,
    num_steps: int,
    data_seconds: Callable[[], float | None],
    witness: Witness,
) -> Iterator[Window]:
    while True:
        witness.before()
        seconds = watch.run(step, num_steps)
        window = witness.after(Window(seconds=seconds, num_steps=num_steps))
        yield replace(window, data_seconds=data_seconds())


def _seconds(windows: list[Window]) -> float:
    return sum(window.seconds for window in windows)


def _stop_reason(kept: list[Window], timing: Timing, *, is_late: bool) -> str:
    """Return why timing is over, or nothing while it is not."""
    if len(kept) >= timing.min_windows:
        steps = [window.step_seconds for window in kept]
        width = relative_half_width(steps)
        if width <= timing.half_width:
            return "half_width"
        half = len(steps) // 2
        if (
            len(steps) >= MIN_WINDOWS_AT_NOISE_FLOOR
            and relative_half_width(steps[:half]) < MIN_NOISE_GAIN * width
        ):
            return "noise_floor"
    if len(kept) >= timing.max_windows:
        return "max_windows"
    return "limit_seconds" if is_late and len(kept) >= MIN_WINDOWS_AT_LIMIT else ""
