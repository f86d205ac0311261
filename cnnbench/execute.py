"""One cell in, one record out: the one place where all parts meet."""

from __future__ import annotations

import gc
import re
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cnnbench import clock
from cnnbench.architectures import is_frozen
from cnnbench.architectures.pretrained import expect_unchanged
from cnnbench.architectures.trunk import Transfer
from cnnbench.errors import CnnbenchError, UnsupportedError
from cnnbench.job import EXTRAS, Progress
from cnnbench.measure.collect import cpu_name
from cnnbench.measure.flags import numeric_flags
from cnnbench.measure.gpu import Gpu
from cnnbench.measure.kernels import contradicting
from cnnbench.measure.memory import memory_meter
from cnnbench.measure.probe import effective_precision, probe_precision
from cnnbench.measure.witness import witness
from cnnbench.profiling import Instruments, profile_step
from cnnbench.record import Record
from cnnbench.setup import MEMORY_FORMATS, set_up
from cnnbench.training import features
from cnnbench.training.features import FeatureLoader
from cnnbench.training.fit import DivergedError, fit
from cnnbench.training.parallel import gather
from cnnbench.training.step import Tally
from cnnbench.validity import judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from cnnbench.cell import Cell
    from cnnbench.job import CellJob
    from cnnbench.measure.memory import MemoryMeter
    from cnnbench.measurement import Memory
    from cnnbench.record import Fit
    from cnnbench.setup import Bench
    from cnnbench.training.parallel import Team
    from cnnbench.training.step import TrainingStep

MAX_ERROR_CHARACTERS = 2000
# For https://pytorch.org/memory_viz: what the allocator held when it ran out.
SNAPSHOT = "memory_snapshot.pickle"
# What CUDA, cuBLAS, cuDNN, the CPU's allocator and oneDNN say.
OUT_OF_MEMORY = re.compile(
    "out of memory|ALLOC_FAILED|ALLOCATION_FAILED|DefaultCPUAllocator"
    "|could not (create|execute) a primitive$"
)
# cuDNN does not say that it found no memory for any algorithm's workspace.
NO_ALGORITHM = "unable to find an engine to execute this computation"
NEARLY_FULL = 0.9
PROFILED_ONLY = "a cell on several devices is profiled only: no accuracy is claimed"
SHARED_CPU = (
    "the ranks share one machine's processors: this shows what sharing out costs, not a speed-up"
)
RANK_0 = "memory is that of rank 0"
NOT_MEANINGFUL = "random frozen weights: the accuracy says nothing about transfer learning"


class OverBudgetError(Exception):
    """A step needs more memory than the cell's budget."""


@dataclass(kw_only=True)
class _Findings:
    """What is known of a cell so far, kept when it ends early."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unknowns: dict[str, str] = field(default_factory=dict)
    loss_is_finite: bool = True
    contradictions: tuple[str, ...] = ()
    wait_turn: Callable[[], None] = lambda: None
    meter: MemoryMeter | None = None


def execute(
    job: CellJob,
    report: Callable[[Progress], None],
    wait_turn: Callable[[], None] = lambda: None,
) -> Record:
    """Profile and train `job.cell`; whatever happens becomes the record's status.

    Args:
        job: the cell, its data and its device.
        report: told what is being done, never while a window is timed.
        wait_turn: returns when it is this cell's turn, where the job takes turns.
    """
    started_at = clock.now()
    found = _Findings()
    if job.takes_turns:
        found.wait_turn = wait_turn
    # Before this process is on the GPU: whoever is there now is somebody else.
    with _gpu(job) as gpu:
        status, error = _run(job, found, gpu, report)
        unknowns = {**(gpu.unknowns if gpu else {}), **found.unknowns}
    validity, reasons = judge(
        asked_precision=job.cell.precision,
        effective_precision=found.values.get("effective_precision"),
        profile=found.values.get("profile"),
        memory=found.values.get("memory"),
        contradicting_kernels=found.contradictions,
        loss_is_finite=found.loss_is_finite,
    )
    return Record(
        sweep_id=job.sweep_id,
        cell=job.cell,
        cell_hash=job.cell.hash,
        environment_hash=job.environment_hash,
        status=status,
        validity=validity,
        validity_reasons=reasons,
        device=_device_name(job),
        error=error,
        notes=tuple(dict.fromkeys(found.notes)),
        unknowns=unknowns,
        artifacts=_artifacts(job),
        forecast_bytes=job.forecast_bytes,
        started_at=started_at,
        finished_at=clock.now(),
        **found.values,
    )


def _gpu(job: CellJob) -> AbstractContextManager[Gpu | None]:
    on_gpu = job.device_uuid is not None or job.device.startswith("cuda")
    # The other one of a pair waits for its turn meanwhile.
    num_companions = 1 if job.takes_turns else 0
    return Gpu(job.device_uuid, num_companions=num_companions) if on_gpu else nullcontext()


def _run(
    job: CellJob, found: _Findings, gpu: Gpu | None, report: Callable[[Progress], None]
) -> tuple[str, str | None]:
    """Fill `found`, and return the status and the reason for it."""
    try:
        _profile_and_fit(job, found, gpu, report)
    except DivergedError as error:
        found.values["fit"] = error.fit
        return "diverged", str(error)
    except Exception as error:  # noqa: BLE001 (a cell may fail in any way; the sweep goes on)
        status = _status_of(error, is_full=partial(_is_nearly_full, job))
        if status == "out_of_memory" and found.meter and not isinstance(error, OverBudgetError):
            found.values["memory"] = found.meter.last_peak()
            # While the error holds its frames, what filled the memory is still there.
            found.meter.write_snapshot(_path(job, SNAPSHOT))
        if status == "failed" and not isinstance(error, CnnbenchError):
            traceback.print_exc(file=sys.stderr)
            return status, f"{type(error).__name__}: {_one_line(error)}"
        return status, _one_line(error)
    return "completed", None


def _status_of(error: Exception, *, is_full: Callable[[], bool]) -> str:
    if isinstance(error, UnsupportedError) or _is_missing_compiler(error):
        return "unsupported"
    if "Expected more than 1 value per channel when training" in str(error):
        return "unsupported"  # BatchNorm over a single value: this model cannot have this batch
    ran_out = _is_out_of_memory(error) or (NO_ALGORITHM in str(error) and is_full())
    return "out_of_memory" if ran_out else "failed"


def _is_nearly_full(job: CellJob) -> bool:
    """Say whether the GPU, or what the cell may have of it, is nearly used up."""
    device = torch.device(job.device)
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    budget = min(job.cell.memory_budget_bytes or total, total)
    return free < (1 - NEARLY_FULL) * total or (
        torch.cuda.max_memory_reserved(device) > NEARLY_FULL * budget
    )


def _check_budget(cell: Cell, memory: Memory) -> None:
    budget, peak = cell.memory_budget_bytes, memory.peak_allocated_bytes
    if budget is not None and peak is not None and peak > budget:
        msg = f"the step's peak of {peak:,} bytes is over the budget of {budget:,}"
        raise OverBudgetError(msg)


def _profile_and_fit(
    job: CellJob, found: _Findings, gpu: Gpu | None, report: Callable[[Progress], None]
) -> None:
    started = time.perf_counter()
    report(Progress(phase="setting up"))
    device = torch.device(job.device)
    found.meter = memory_meter(device, gpu)
    if job.weights_sha256:
        expect_unchanged(job.cell.recipe.weights, job.weights_sha256)
    with gather(job.cell, device, partial(_follow, job)) as team:
        bench = set_up(job.cell, job.dataset, device, team)
        instruments = Instruments(
            meter=found.meter,
            witness=witness(gpu, bench.pids),
            gpu=gpu,
            wait_turn=found.wait_turn,
        )
        _measure(bench, job, found, instruments, started, report)


def _follow(job: CellJob, team: Team) -> None:
    """Be another rank of the cell: take the steps that rank 0 takes."""
    bench = set_up(job.cell, job.dataset, team.device, team)
    step, _ = bench.training_step()
    batches = bench.loader("train").forever(team.batch_seed(job.cell.seed))
    tally = Tally.on(team.device)
    team.obey(lambda: step(*next(batches), tally))


def _measure(
    bench: Bench,
    job: CellJob,
    found: _Findings,
    instruments: Instruments,
    started: float,
    report: Callable[[Progress], None],
) -> None:
    found.values["flags"] = numeric_flags()
    if bench.missing_weights:
        found.notes.append(f"random weights, so no accuracy is claimed: {bench.missing_weights}")
    _probe(bench, found)
    if job.cell.timing.max_windows:
        _profile(bench, job, found, instruments, started, report)
        # A checkpointed model refers to itself. The timed steps leave no trace in memory or accuracy.
        gc.collect()
    if bench.team:
        found.notes.append(RANK_0)
        found.notes.extend([SHARED_CPU] if bench.device.type == "cpu" else [])
        found.notes.extend([PROFILED_ONLY] if job.cell.recipe.epochs else [])
    elif job.cell.recipe.epochs and not bench.missing_weights:
        report(Progress(phase="training"))
        found.values["fit"] = _fit(bench, found, report)


def _probe(bench: Bench, found: _Findings) -> None:
    memory_format = MEMORY_FORMATS[bench.cell.memory_format]
    probes = probe_precision(bench.precision, bench.device, memory_format)
    found.values["probes"] = probes
    found.values["effective_precision"] = effective_precision(probes)


def _make_step(bench: Bench, found: _Findings) -> TrainingStep:
    step, notes = bench.training_step()
    found.notes.extend(notes)
    num_parameters, num_trainable_parameters = step.count_parameters()
    found.values["num_parameters"] = num_parameters
    found.values["num_trainable_parameters"] = num_trainable_parameters
    return step


def _profile(
    bench: Bench,
    job: CellJob,
    found: _Findings,
    instruments: Instruments,
    started: float,
    report: Callable[[Progress], None],
) -> None:
    step = _make_step(bench, found)
    measured = profile_step(step, bench, job, instruments, started=started, report=report)
    found.values["memory"] = measured.memory
    _check_budget(bench.cell, measured.memory)
    found.values.update(
        profile=measured.profile,
        roofline=measured.roofline,
        kernels=measured.kernels,
    )
    found.contradictions = contradicting(measured.kernels, job.cell.precision)
    found.loss_is_finite = measured.loss_is_finite
    found.unknowns.update(measured.unknowns)


def _fit(bench: Bench, found: _Findings, report: Callable[[Progress], None]) -> Fit:
    """Train a fresh model, the same for the same seed."""
    step = _make_step(bench, found)
    loaders = (bench.loader("train"), bench.loader("val"), bench.loader("test"))
    if bench.cell.recipe.features == "once" and isinstance(step.model, Transfer):
        train, val, test = (FeatureLoader(one, step.model, bench.precision) for one in loaders)
        loaders = (train, val, test)
        found.notes.append(features.NOTE)
    result = fit(
        step,
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
    if error is None or isinstance(error, torch.OutOfMemoryError | MemoryError | OverBudgetError):
        return error is not None
    says_so = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    # What leaves a graph's capture may raise anew over the error that ended it.
    return bool(says_so) or _is_out_of_memory(error.__cause__ or error.__context__)


def _is_missing_compiler(error: Exception) -> bool:
    """Say whether torch.compile found no compiler for this device; inductor wraps what says so."""
    said = f"{type(error).__name__}: {error}"
    return any(
        name in said
        for name in (
            "InvalidCxxCompiler",
            "TritonMissing",
            "GPUTooOldForTriton",
            "Failed to find C compiler",
        )
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]


def _device_name(job: CellJob) -> str:
    device = torch.device(job.device)
    try:
        return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    except RuntimeError:  # a GPU that fell off the bus tells its name no more
        return job.device


def _path(job: CellJob, name: str) -> Path | None:
    return Path(job.folder) / name if job.folder else None


def _artifacts(job: CellJob) -> tuple[str, ...]:
    """Return the names of the files that the cell has left."""
    names = [SNAPSHOT, *(name for extra in job.extras for name in EXTRAS[extra])]
    paths = [_path(job, name) for name in names]
    return tuple(path.name for path in paths if path is not None and path.is_file())
