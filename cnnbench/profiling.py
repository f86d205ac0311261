"""What is measured of a cell's training step: time, then memory, energy and operators, then extras."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnbench.checkpointing import is_recomputing
from cnnbench.job import EXTRAS, Progress
from cnnbench.measure.data_wait import timed_batches
from cnnbench.measure.kernels import multiplying_kernels
from cnnbench.measure.layers import layer_table, write_layers
from cnnbench.measure.operators import watch
from cnnbench.measure.roofline import roofline
from cnnbench.measure.timing import measure, stopwatch, warm_up
from cnnbench.measure.trace import write_trace
from cnnbench.measure.witness import PatientWitness
from cnnbench.measurement import MAX_FOREIGN_FRACTION, Energy, Profile
from cnnbench.stats import median_interval
from cnnbench.training.parallel import TeamStopwatch
from cnnbench.training.step import Tally
from cnnbench.training.workloads import workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import nn

    from cnnbench.job import CellJob
    from cnnbench.measure.gpu import Gpu
    from cnnbench.measure.memory import MemoryMeter
    from cnnbench.measure.timing import Step, Stopwatch
    from cnnbench.measure.witness import Witness
    from cnnbench.measurement import Memory, Roofline
    from cnnbench.setup import Bench
    from cnnbench.training.step import TrainingStep

# The driver refreshes its energy counter some ten times a second: two seconds make that 5 %.
ENERGY_SECONDS = 2.0
# These modes of torch.compile record CUDA graphs, and a replay allocates nothing.
RECORDED_BY_INDUCTOR = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a cell is measured with; `gpu` is `None` on a CPU.

    `wait_turn` returns when nobody else is at work whom this cell takes turns with.
    """

    meter: MemoryMeter
    witness: Witness
    gpu: Gpu | None
    wait_turn: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured, and by what was asked why something could not be."""

    profile: Profile
    memory: Memory
    roofline: Roofline | None
    kernels: tuple[str, ...]
    loss_is_finite: bool
    unknowns: dict[str, str]


def profile_step(
    training_step: TrainingStep,
    bench: Bench,
    job: CellJob,
    instruments: Instruments,
    *,
    started: float,
    report: Callable[[Progress], None],
) -> Measurement:
    """Measure the whole step: next batch, forward, backward, update.

    Nothing that slows a step comes before the last timed window.

    Args:
        training_step: fresh; it trains on while it is measured.
        bench: its data and device.
        job: what was asked for.
        instruments: what to measure with.
        started: when the set-up began, by `time.perf_counter`.
        report: told what is being done, never while a window is timed.
    """
    cell, device = bench.cell, bench.device
    batches = timed_batches(bench.loader("train").forever(cell.seed), device)
    tally = Tally.on(device)
    clock = stopwatch(device)
    if bench.team:
        clock = TeamStopwatch(clock, bench.team)

    step = workload(
        job.workload, training_step, batches.next, tally, precision=bench.precision, device=device
    )

    compiles = cell.compile != "off"
    report(Progress(phase="compiling" if compiles else "warming up"))
    first_seconds = clock.run(step, 1)
    setup_seconds = time.perf_counter() - started
    warm = warm_up(step, clock, cell.timing)
    instruments.meter.steady_state()
    report(Progress(phase="timing"))
    witness = PatientWitness(instruments.witness, instruments.wait_turn)
    measured = measure(step, clock, cell.timing, warm.step_seconds, batches.seconds, witness)
    instruments.wait_turn()
    low, high = median_interval([window.step_seconds for window in measured.windows])
    profile = Profile(
        windows=measured.windows,
        rejected_windows=measured.rejected_windows,
        low_step_seconds=low,
        high_step_seconds=high,
        stop_reason=measured.stop_reason,
        num_warmup_steps=warm.num_steps + 1,
        is_steady=warm.is_steady and measured.is_steady,
        setup_seconds=setup_seconds,
        compile_seconds=first_seconds if compiles else None,
        energy=_energy(step, clock, warm.step_seconds, job, instruments.gpu),
    )
    report(Progress(phase="measuring memory"))
    memory = instruments.meter.read(
        step, held=lambda: _held(training_step), data_bytes=bench.data.num_bytes
    )
    unknowns: dict[str, str] = {}
    memory = _of_recording(memory, training_step, bench, unknowns)
    loss_is_finite = training_step.has_finite_loss(tally)
    kernels: tuple[str, ...] = ()
    with _optional("kernels", unknowns):
        kernels = multiplying_kernels(step, device)
    images, labels = batches.next()

    def eager_step() -> None:
        training_step.run_eagerly(images, labels)

    counted = None
    if bench.team:
        unknowns["roofline"] = "operators are counted on one device alone"
    elif job.peaks is not None:
        report(Progress(phase="counting operators"))
        with _optional("roofline", unknowns):
            operations = watch(eager_step, is_recomputing=is_recomputing)
            counted = roofline(operations, job.peaks, cell.precision)
        others = job.peaks.foreign_fraction or 0.0
        if others > MAX_FOREIGN_FRACTION:
            unknowns["the device's true peaks"] = (
                f"others used {others:.0%} of the processors when they were measured, so MFU and"
                " roofline fraction may be too high"
            )
    for extra in job.extras:
        report(Progress(phase=f"writing the {extra}"))
        with _optional(extra, unknowns):
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            _EXTRAS[extra](step, eager_step, training_step.model, bench, job)
    return Measurement(
        profile=profile,
        memory=memory,
        roofline=counted,
        kernels=kernels,
        loss_is_finite=loss_is_finite,
        unknowns=unknowns,
    )


def _of_recording(
    memory: Memory, step: TrainingStep, bench: Bench, unknowns: dict[str, str]
) -> Memory:
    """Return the memory of a step that is replayed: what its recording showed, for replays show less."""
    if bench.device.type == "cuda" and bench.cell.compile in RECORDED_BY_INDUCTOR:
        unknowns["peak_allocated_mib"] = (
            f"compile={bench.cell.compile} replays CUDA graphs, whose memory the allocator counts as free"
        )
        return replace(memory, peak_allocated_bytes=None)
    if not step.recorded_peak_bytes:
        return memory
    peaks = memory.peak_allocated_bytes or 0, step.recorded_peak_bytes - (memory.data_bytes or 0)
    setup_peaks = memory.setup_peak_bytes or 0, step.setup_peak_bytes
    return replace(memory, peak_allocated_bytes=max(peaks), setup_peak_bytes=max(setup_peaks))


def _energy(
    step: Step, clock: Stopwatch, step_seconds: float, job: CellJob, gpu: Gpu | None
) -> Energy | None:
    """Measure one long window's energy; `None` where nobody asks, or there is no counter for it."""
    before = gpu.energy_joules() if gpu and job.measures_energy else None
    if gpu is None or before is None:
        return None
    num_steps = math.ceil(ENERGY_SECONDS / step_seconds)
    seconds = clock.run(step, num_steps)
    after = gpu.energy_joules()
    if after is None:
        return None
    return Energy(
        joules=after - before,
        seconds=seconds,
        num_steps=num_steps,
        idle_watts=job.peaks.idle_watts if job.peaks else None,
    )


@contextmanager
def _optional(name: str, unknowns: dict[str, str]) -> Iterator[None]:
    """Let what follows fail without costing the cell what was measured before."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (a model may stand training and not being watched)
        unknowns[name] = f"{type(error).__name__}: {error}".splitlines()[0]


def _trace(step: Step, _: Step, __: nn.Module, bench: Bench, job: CellJob) -> None:
    trace, operators = (Path(job.folder) / name for name in EXTRAS["trace"])
    write_trace(step, bench.device, trace=trace, operators=operators)


def _layers(_: Step, eager_step: Step, model: nn.Module, bench: Bench, job: CellJob) -> None:
    if job.peaks is None:
        msg = "the device's peaks were not measured"
        raise ValueError(msg)
    layers = layer_table(
        eager_step,
        model,
        job.peaks,
        bench.cell.precision,
        is_recomputing=is_recomputing,
        device=bench.device,
    )
    write_layers(layers, Path(job.folder) / EXTRAS["layers"][0])


_EXTRAS = {"trace": _trace, "layers": _layers}


def _held(step: TrainingStep) -> Iterable[torch.Tensor]:
    """Return the tensors that live from step to step: the model's and the optimizer's."""
    states = (value for state in step.optimizer.state.values() for value in state.values())
    for value in (*step.model.parameters(), *step.model.buffers(), *states):
        if isinstance(value, torch.Tensor):
            # Of a sharded tensor only the shard is here.
            yield value.to_local() if hasattr(value, "to_local") else value
