"""Times a test of the gate's suite in this very process, for pytest-benchmark."""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING

import msgspec
import torch

from cnnbench.cell import Timing
from cnnbench.measure.data_wait import timed_batches
from cnnbench.measure.memory import memory_meter
from cnnbench.measure.probe import effective_precision, probe_precision
from cnnbench.measure.timing import stopwatch, warm_up
from cnnbench.measure.witness import Witness
from cnnbench.measurement import Window
from cnnbench.regress.results import KEY, Measured, Run
from cnnbench.setup import MEMORY_FORMATS, set_up
from cnnbench.sweep.plan import resolve
from cnnbench.training.step import Tally
from cnnbench.training.workloads import workload
from cnnbench.validity import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_benchmark.fixture import BenchmarkFixture

    from cnnbench.environment import DatasetInfo
    from cnnbench.regress.suite import Subject
    from cnnbench.setup import Bench
    from cnnbench.training.step import TrainingStep


def time_subject(
    benchmark: BenchmarkFixture,
    subject: Subject,
    dataset: DatasetInfo,
    device: torch.device,
    *,
    window_seconds: float,
    num_rounds: int,
) -> None:
    """Let pytest-benchmark time windows of steps, and keep windows, memory and validity beside.

    A round is a window: so many steps that it lasts `window_seconds`, synchronised at both ends.

    Raises:
        UnsupportedError: the device cannot do it.
    """
    bench = set_up(resolve(subject.cell, dataset), dataset, device)
    meter = memory_meter(device, None)
    precision = effective_precision(
        probe_precision(bench.precision, device, MEMORY_FORMATS[bench.cell.memory_format])
    )
    training_step, _ = bench.training_step()
    step = _step(subject.workload, training_step, bench)
    timing = Timing(window_seconds=window_seconds, warmup_steps=3, limit_seconds=2.0)
    windows = _windows(benchmark, step, device, timing, num_rounds, meter.steady_state)
    memory = meter.read(step, held=lambda: _held(training_step), data_bytes=bench.data.num_bytes)
    validity, reasons = judge(
        asked_precision=subject.cell.precision,
        effective_precision=precision,
        profile=None,
        memory=memory,
    )
    run = Run(
        validity=validity,
        validity_reasons=reasons,
        effective_precision=precision,
        windows=tuple(windows),
        peak_allocated_bytes=memory.peak_allocated_bytes,
        peak_reserved_bytes=memory.peak_reserved_bytes,
        # Not `process_bytes`: here all tests share one process.
    )
    benchmark.extra_info[KEY] = msgspec.to_builtins(Measured.of(subject, [run]))
    gc.collect()  # a checkpointed model refers to itself, and the next test needs the memory


def _step(name: str, training_step: TrainingStep, bench: Bench) -> Callable[[], None]:
    batches = timed_batches(bench.loader("train").forever(bench.cell.seed), bench.device)
    return workload(
        name,
        training_step,
        batches.next,
        Tally.on(bench.device),
        precision=bench.precision,
        device=bench.device,
    )


def _windows(
    benchmark: BenchmarkFixture,
    step: Callable[[], None],
    device: torch.device,
    timing: Timing,
    num_rounds: int,
    steady_state: Callable[[], None],
) -> list[Window]:
    """Warm up, calibrate how many steps a window has, and time the windows."""
    clock, witness = stopwatch(device), Witness()
    warm = warm_up(step, clock, timing)
    steady_state()
    num_steps = math.ceil(timing.window_seconds / warm.step_seconds)
    windows: list[Window] = []

    def window() -> None:
        # The stopwatch waits for the device before the first step and after the last one.
        windows.append(Window(seconds=clock.run(step, num_steps), num_steps=num_steps))

    def look() -> None:
        witness.before()

    def look_back() -> None:
        windows[-1] = witness.after(windows[-1])

    benchmark.pedantic(window, setup=look, teardown=look_back, rounds=num_rounds)
    return windows


def _held(step: TrainingStep) -> Iterable[torch.Tensor]:
    """Return the tensors that live from step to step."""
    yield from step.model.parameters()
    yield from step.model.buffers()
    for state in step.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
