"""Times a test of the gate's suite in this very process, for pytest-benchmark."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import torch

from cnnbench.cell import Timing
from cnnbench.measure.data_wait import timed_batches
from cnnbench.measure.memory import memory_meter
from cnnbench.measure.probe import effective_precision, probe_precision
from cnnbench.measure.timing import stopwatch, warm_up
from cnnbench.measure.witness import witness
from cnnbench.measurement import Profile, Window
from cnnbench.profiling import Instruments
from cnnbench.regress.results import KEY, Measured, Run
from cnnbench.setup import MEMORY_FORMATS, set_up
from cnnbench.stats import median_interval
from cnnbench.sweep.plan import resolve
from cnnbench.training.step import Tally
from cnnbench.training.workloads import workload
from cnnbench.validity import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_benchmark.fixture import BenchmarkFixture

    from cnnbench.environment import DatasetInfo
    from cnnbench.measure.data_wait import TimedBatches
    from cnnbench.measure.gpu import Gpu
    from cnnbench.regress.suite import Subject
    from cnnbench.training.step import TrainingStep


def time_subject(
    benchmark: BenchmarkFixture,
    subject: Subject,
    dataset: DatasetInfo,
    device: torch.device,
    gpu: Gpu | None,
    *,
    window_seconds: float,
    num_rounds: int,
) -> None:
    """Let pytest-benchmark time windows of steps, and keep windows, memory and validity beside.

    A round is a window: so many steps that it lasts `window_seconds`, synchronised at both ends. Who
    disturbs it is asked of `gpu`, opened before this process computed there, or without one of the system.

    Raises:
        UnsupportedError: the device cannot do it.
    """
    _forget_earlier_tests(device)
    started = time.perf_counter()
    bench = set_up(resolve(subject.cell, dataset), dataset, device)
    meter = memory_meter(device, gpu)
    instruments = Instruments(meter=meter, witness=witness(gpu, bench.pids), gpu=gpu)
    precision = effective_precision(
        probe_precision(bench.precision, device, MEMORY_FORMATS[bench.cell.memory_format])
    )
    training_step, _ = bench.training_step()
    batches = timed_batches(bench.loader("train").forever(bench.cell.seed), device)
    step = workload(
        subject.workload,
        training_step,
        batches.next,
        Tally.on(device),
        precision=bench.precision,
        device=device,
    )
    timing = Timing(window_seconds=window_seconds, warmup_steps=3, limit_seconds=2.0)
    profile = _profile(
        benchmark, step, batches, device, timing, instruments, num_rounds, started=started
    )
    memory = meter.read(step, held=lambda: _held(training_step), data_bytes=bench.data.num_bytes)
    validity, reasons = judge(
        asked_precision=subject.cell.precision,
        effective_precision=precision,
        profile=profile,
        memory=memory,
    )
    run = Run(
        validity=validity,
        validity_reasons=reasons,
        effective_precision=precision,
        windows=profile.windows,
        peak_allocated_bytes=memory.peak_allocated_bytes,
        peak_reserved_bytes=memory.peak_reserved_bytes,
        # Not `process_bytes`: here all tests share one process.
    )
    benchmark.extra_info[KEY] = msgspec.to_builtins(Measured.of(subject, [run]))


def _forget_earlier_tests(device: torch.device) -> None:
    """Let go of what they left: a checkpointed model refers to itself, and CUDA's allocator keeps all.

    What a test reserves would depend on those before it.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _profile(
    benchmark: BenchmarkFixture,
    step: Callable[[], None],
    batches: TimedBatches,
    device: torch.device,
    timing: Timing,
    instruments: Instruments,
    num_rounds: int,
    *,
    started: float,
) -> Profile:
    """Warm up, calibrate how many steps a window has, and time the windows, as a cell's worker does.

    `started` is when the set-up began, by `time.perf_counter`.
    """
    clock = stopwatch(device)
    setup_seconds = time.perf_counter() - started
    warm = warm_up(step, clock, timing)
    instruments.meter.steady_state()
    num_steps = math.ceil(timing.window_seconds / warm.step_seconds)
    windows: list[Window] = []

    def window() -> None:
        # The stopwatch waits for the device before the first step and after the last one.
        windows.append(Window(seconds=clock.run(step, num_steps), num_steps=num_steps))

    def look() -> None:
        batches.seconds()  # forgets what came before the window
        instruments.witness.before()

    def look_back() -> None:
        seen = instruments.witness.after(windows[-1])
        windows[-1] = replace(seen, data_seconds=batches.seconds())

    upheavals = clock.upheavals()
    benchmark.pedantic(window, setup=look, teardown=look_back, rounds=num_rounds)
    low, high = median_interval([window.step_seconds for window in windows])
    return Profile(
        windows=tuple(windows),
        low_step_seconds=low,
        high_step_seconds=high,
        stop_reason="max_windows",
        num_warmup_steps=warm.num_steps,
        is_steady=warm.is_steady and clock.upheavals() == upheavals,
        setup_seconds=setup_seconds,
    )


def _held(step: TrainingStep) -> Iterable[torch.Tensor]:
    """Return the tensors that live from step to step."""
    yield from step.model.parameters()
    yield from step.model.buffers()
    for state in step.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
