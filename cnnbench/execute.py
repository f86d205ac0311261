"""One cell in, one record out: the one place where all parts meet."""

from __future__ import annotations

import gc
import math
import re
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from cnnbench.architectures import is_frozen
from cnnbench.errors import CnnbenchError, UnsupportedError
from cnnbench.job import Progress
from cnnbench.measure.collect import cpu_name
from cnnbench.measure.data_wait import timed_batches
from cnnbench.measure.memory import memory_meter
from cnnbench.measure.probe import effective_precision, probe_precision
from cnnbench.measure.timing import MAX_FOREIGN_FRACTION, measure, stopwatch, warm_up
from cnnbench.measurement import Profile
from cnnbench.record import Record
from cnnbench.setup import MEMORY_FORMATS, set_up
from cnnbench.stats import median_interval
from cnnbench.training.fit import DivergedError, fit
from cnnbench.training.step import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cnnbench.job import CellJob
    from cnnbench.measure.memory import MemoryMeter
    from cnnbench.measurement import Memory
    from cnnbench.record import Fit
    from cnnbench.setup import Bench
    from cnnbench.training.step import TrainingStep

MAX_DATA_WAIT_FRACTION = 0.05
MAX_NOISE = 0.10
MAX_ERROR_CHARACTERS = 2000
# What CUDA, cuBLAS, cuDNN, the CPU's allocator and oneDNN say.
OUT_OF_MEMORY = re.compile(
    "out of memory|ALLOC_FAILED|ALLOCATION_FAILED|DefaultCPUAllocator"
    "|could not (create|execute) a primitive$"
)
NOT_MEANINGFUL = "random frozen weights: the accuracy says nothing about transfer learning"


@dataclass(kw_only=True)
class _Findings:
    """What is known of a cell so far, kept when it ends early."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    suspect: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    meter: MemoryMeter | None = None


def execute(job: CellJob, report: Callable[[Progress], None]) -> Record:
    """Profile and train `job.cell`; whatever happens becomes the record's status.

    Args:
        job: the cell, its data and its device.
        report: told what is being done, never while a window is timed.
    """
    started_at = time.time()
    found = _Findings()
    device = torch.device(job.device)
    status, error = _run(job, found, report)
    reasons = found.invalid + found.suspect
    validity = "invalid" if found.invalid else "suspect" if found.suspect else "valid"
    return Record(
        sweep_id=job.sweep_id,
        cell=job.cell,
        cell_hash=job.cell.hash,
        environment_hash=job.environment_hash,
        status=status,
        validity=validity,
        validity_reasons=tuple(reasons),
        device=_device_name(device),
        error=error,
        notes=tuple(dict.fromkeys(found.notes)),
        started_at=started_at,
        finished_at=time.time(),
        **found.values,
    )


def _run(
    job: CellJob, found: _Findings, report: Callable[[Progress], None]
) -> tuple[str, str | None]:
    """Fill `found`, and return the status and the reason for it."""
    try:
        _profile_and_fit(job, found, report)
    except DivergedError as error:
        found.values["fit"] = error.fit
        return "diverged", str(error)
    except Exception as error:  # noqa: BLE001 (a cell may fail in any way; the sweep goes on)
        status = _status_of(error)
        if status == "out_of_memory":
            found.values["memory"] = found.meter.last_peak() if found.meter else None
        if status == "failed" and not isinstance(error, CnnbenchError):
            traceback.print_exc(file=sys.stderr)
            return status, f"{type(error).__name__}: {_one_line(error)}"
        return status, _one_line(error)
    return "completed", None


def _status_of(error: Exception) -> str:
    if isinstance(error, UnsupportedError) or _is_missing_compiler(error):
        return "unsupported"
    if "Expected more than 1 value per channel when training" in str(error):
        return "unsupported"  # BatchNorm over a single value: this model cannot have this batch
    return "out_of_memory" if _is_out_of_memory(error) else "failed"


def _profile_and_fit(job: CellJob, found: _Findings, report: Callable[[Progress], None]) -> None:
    cell, device = job.cell, torch.device(job.device)
    start = time.perf_counter()
    report(Progress(phase="setting up"))
    found.meter = meter = memory_meter(device)
    bench = set_up(cell, job.dataset, device)
    if bench.missing_weights:
        found.notes.append(f"random weights, so no accuracy is claimed: {bench.missing_weights}")
    _check_precision(bench, found)
    if cell.timing.max_windows:
        _profile(bench, found, meter, start, report)
        # A checkpointed model refers to itself. The timed steps leave no trace in memory or accuracy.
        gc.collect()
    if cell.recipe.epochs and not bench.missing_weights:
        report(Progress(phase="training"))
        found.values["fit"] = _fit(bench, found, report)


def _check_precision(bench: Bench, found: _Findings) -> None:
    memory_format = MEMORY_FORMATS[bench.cell.memory_format]
    probes = probe_precision(bench.precision, bench.device, memory_format)
    seen = effective_precision(probes)
    found.values["effective_precision"] = seen
    if seen != bench.cell.precision:
        found.invalid.append(f"asked for {bench.cell.precision}, computed in {seen}")


def _make_step(bench: Bench, found: _Findings) -> TrainingStep:
    step, notes = bench.training_step()
    parameters = list(step.model.parameters())
    found.notes.extend(notes)
    found.values["num_parameters"] = sum(p.numel() for p in parameters)
    found.values["num_trainable_parameters"] = sum(p.numel() for p in parameters if p.requires_grad)
    return step


def _profile(
    bench: Bench,
    found: _Findings,
    meter: MemoryMeter,
    start: float,
    report: Callable[[Progress], None],
) -> None:
    """Time windows of the whole step (next batch, forward, backward, update), then its memory."""
    cell, device = bench.cell, bench.device
    training_step = _make_step(bench, found)
    batches = timed_batches(bench.loader("train").forever(cell.seed), device)
    tally = Tally.on(device)
    watch = stopwatch(device)

    def step() -> None:
        images, labels = batches.next()
        training_step(images, labels, tally)

    compiles = cell.compile != "off"
    report(Progress(phase="compiling" if compiles else "warming up"))
    first_seconds = watch.run(step, 1)
    setup_seconds = time.perf_counter() - start
    warm = warm_up(step, watch, cell.timing)
    meter.steady_state()
    report(Progress(phase="timing"))
    measured = measure(step, watch, cell.timing, warm.step_seconds, batches.seconds)
    steps = [window.step_seconds for window in measured.windows]
    low, high = median_interval(steps)
    profile = Profile(
        windows=measured.windows,
        rejected_windows=measured.rejected_windows,
        low_step_seconds=low,
        high_step_seconds=high,
        stop_reason=measured.stop_reason,
        num_warmup_steps=warm.num_steps + 1,
        setup_seconds=setup_seconds,
        compile_seconds=first_seconds if compiles else None,
    )
    found.values["profile"] = profile
    report(Progress(phase="measuring memory"))
    memory = meter.read(step, held=lambda: _held(training_step), data_bytes=bench.data.num_bytes)
    found.values["memory"] = memory
    found.suspect.extend(_suspicions(profile, memory))
    if not math.isfinite(tally.read()[0]):
        found.suspect.append("the loss became infinite or not a number while steps were timed")


def _held(step: TrainingStep) -> Iterable[torch.Tensor]:
    """Return the tensors that live from step to step: the model's and the optimizer's."""
    yield from step.model.parameters()
    yield from step.model.buffers()
    for state in step.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _suspicions(profile: Profile, memory: Memory) -> list[str]:
    """Return why the profile should not be trusted blindly."""
    reasons = []
    shares = [w.foreign_fraction for w in profile.windows if w.foreign_fraction is not None]
    loaded = [share for share in shares if share > MAX_FOREIGN_FRACTION]
    if loaded:
        reasons.append(
            f"others used up to {max(loaded):.0%} of the processors"
            f" in {len(loaded)} of {len(profile.windows)} windows"
        )
    wait = profile.data_wait_fraction
    if wait is not None and wait > MAX_DATA_WAIT_FRACTION:
        reasons.append(f"loader-bound: {wait:.0%} of the time went into waiting for data")
    half_width = (profile.high_step_seconds - profile.low_step_seconds) / 2
    noise = half_width / profile.median_step_seconds
    if noise > MAX_NOISE:
        reasons.append(f"unstable: the median is known to ±{noise:.0%} only")
    if memory.num_alloc_retries:
        reasons.append(f"the allocator retried {memory.num_alloc_retries} times")
    return reasons


def _fit(bench: Bench, found: _Findings, report: Callable[[Progress], None]) -> Fit:
    """Train a fresh model, the same for the same seed."""
    loaders = (bench.loader("train"), bench.loader("val"), bench.loader("test"))
    result = fit(
        _make_step(bench, found),
        bench.cell,
        loaders,
        precision=bench.precision,
        on_epoch=lambda number, epoch: report(
            Progress(phase="training", epoch=number, curves=epoch)
        ),
    )
    frozen_random = is_frozen(bench.cell.architecture) and bench.weights == "none"
    return replace(result, accuracy_note=NOT_MEANINGFUL if frozen_random else None)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Say whether `error` comes of a failed allocation: of CUDA, of a library or of the CPU."""
    if error is None or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return error is not None
    says_so = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    return bool(says_so) or _is_out_of_memory(error.__cause__)


def _is_missing_compiler(error: Exception) -> bool:
    """Say whether torch.compile found no compiler for this device; inductor wraps what says so."""
    said = f"{type(error).__name__}: {error}"
    return any(
        name in said for name in ("InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton")
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
