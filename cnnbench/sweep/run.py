"""Runs the cells of a plan, one after the other, each in a worker; journals each before going on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cnnbench import clock, errors
from cnnbench.errors import CheckError, WorkerError
from cnnbench.job import FORECASTING, Request
from cnnbench.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cnnbench.cell import Cell
    from cnnbench.environment import Environment, Peaks
    from cnnbench.job import (
        Answer,
        CellJob,
        EqualWidth,
        Examination,
        Finding,
        PeaksJob,
        Preflight,
        Progress,
        Ready,
    )
    from cnnbench.sweep.plan import Plan
    from cnnbench.sweep.workers import Launcher, Outcome

T = TypeVar("T")
# A driver may take half a minute to give up on a GPU.
PULSE_SECONDS = 60.0

# By far enough to look at a machine, prepare data and try models, unless something hangs.
CHECK_SECONDS = 900.0
# A download is given up when its server falls silent; this is for one that trickles.
DOWNLOAD_SECONDS = 7200.0


class Observer:
    """Hears what a sweep does; this one stays silent. Nothing here is called in a timed window."""

    def on_phase(self, text: str) -> None:
        """Hear what is being done before the first cell."""

    def on_plan(self, plan: Plan, cells: list[Cell]) -> None:
        """Hear which cells will run; the plan's others have a result already."""

    def on_cell(self, cell: Cell) -> None:
        """Hear that `cell` starts."""

    def on_progress(self, cell: Cell, progress: Progress) -> None:
        """Hear what the worker of `cell` does now."""

    def on_record(self, record: Record) -> None:
        """Hear that a cell has ended and is in the journal."""

    def on_warning(self, text: str) -> None:
        """Hear what the user should know."""


def look(launcher: Launcher, device: str) -> Environment:
    """Return what `device` and the machine are, as a worker sees them."""
    return _ask(launcher, Request(look=device), lambda answer: answer.environment)


def check(launcher: Launcher, job: Preflight, *, model_seconds: float | None = None) -> Ready:
    """Return what the preflight found; without forecasts where one of them breaks or keeps the worker.

    Args:
        launcher: starts the worker that looks.
        job: what to look at.
        model_seconds: how long each model may take to try; by default all of it may take quarter an hour.

    Raises:
        CnnbenchError: what it found wrong, or that it took too long.
    """
    seconds = model_seconds * (1 + len(job.models)) if model_seconds else CHECK_SECONDS
    try:
        return _ask(
            launcher,
            Request(preflight=job),
            lambda answer: answer.ready,
            timeout_seconds=seconds + (DOWNLOAD_SECONDS if job.download else 0.0),
        )
    except CheckError as error:
        if not error.doing.startswith(FORECASTING):
            raise
    return check(launcher, replace(job, questions=()), model_seconds=model_seconds)


def find_peaks(launcher: Launcher, job: PeaksJob) -> Peaks:
    """Return what the device can reach now, with nothing else running."""
    return _ask(launcher, Request(peaks=job), lambda answer: answer.peaks)


def find_width(launcher: Launcher, job: EqualWidth) -> int:
    """Return the width at which one architecture takes as many FLOPs as another.

    Raises:
        CnnbenchError: there is none.
    """
    return _ask(launcher, Request(equal_width=job), lambda answer: answer.width)


def examine(launcher: Launcher, job: Examination) -> tuple[Finding, ...]:
    """Return what a worker finds when it looks at the machine."""
    return _ask(launcher, Request(examination=job), lambda answer: answer.findings)


def find_gpus(launcher: Launcher, device: str) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that `device` leaves open: all of one model, or none if it names one.

    Raises:
        CnnbenchError: there is no such device.
    """
    return _ask(launcher, Request(gpus=device), lambda answer: answer.gpus)


def has_pulse(launcher: Launcher, device: str | None) -> bool:
    """Say whether `device` still computes, in a fresh worker; without one there is nothing to ask."""
    if device is None:
        return True
    outcome = launcher.run(
        Request(pulse=device), on_progress=lambda _: None, timeout_seconds=PULSE_SECONDS
    )
    return outcome.answer is not None and outcome.answer.pulse


def run_cells(
    launcher: Launcher,
    jobs: Iterable[CellJob],
    environment: Environment,
    *,
    timeout_seconds: float | None,
    observer: Observer,
    keep: Callable[[Record], None],
) -> None:
    """Run the cells of `jobs`; `keep` puts each record on the disk before the observer hears of it."""
    for job in jobs:
        observer.on_cell(job.cell)
        record = run_job(
            launcher,
            job,
            environment,
            on_progress=partial(observer.on_progress, job.cell),
            timeout_seconds=timeout_seconds,
        )
        keep(record)
        observer.on_record(record)


def run_job(
    launcher: Launcher,
    job: CellJob,
    environment: Environment,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_turn: Callable[[], None] = lambda: None,
    timeout_seconds: float | None = None,
) -> Record:
    """Run one cell in a worker and return its record, whatever came of the worker."""
    outcome = launcher.run(
        Request(cell=job),
        on_progress=on_progress,
        on_turn=on_turn,
        timeout_seconds=timeout_seconds,
    )
    return _record(outcome, job, environment)


def _ask(
    launcher: Launcher,
    request: Request,
    find: Callable[[Answer], T | None],
    *,
    timeout_seconds: float = CHECK_SECONDS,
) -> T:
    """Return what `find` finds in the worker's answer to `request`.

    Raises:
        CnnbenchError: the worker refused, died, took too long, or answered something else.
    """
    heard: list[Progress] = []
    outcome = launcher.run(request, on_progress=heard.append, timeout_seconds=timeout_seconds)
    if outcome.answer is None:
        doing = heard[-1].phase if heard else ""
        death = f"the check {outcome.death}" if outcome.timed_out else outcome.death
        last = outcome.stderr_tail.strip().rpartition("\n")[2]
        msg = f"{death}{f', while {doing}' if doing else ''}. {last}".strip()
        raise CheckError(msg, doing=doing)
    refusal = outcome.answer.refusal
    if refusal is not None:
        raise getattr(errors, refusal.error, WorkerError)(refusal.message)
    found = find(outcome.answer)
    if found is None:
        msg = "the worker answered something else than was asked"
        raise WorkerError(msg)
    return found


def _record(outcome: Outcome, job: CellJob, environment: Environment) -> Record:
    """Return the worker's record, or one that says how the worker ended without."""
    answer = outcome.answer
    if answer is not None and answer.record is not None:
        record = answer.record
        return replace(
            record,
            start_seconds=record.started_at - outcome.started_at,
            stderr_tail=outcome.stderr_tail,
        )
    error = answer.refusal.message if answer and answer.refusal else outcome.death
    return Record(
        sweep_id=job.sweep_id,
        cell=job.cell,
        cell_hash=job.cell.hash,
        environment_hash=job.environment_hash,
        status="timeout" if outcome.timed_out else "failed",
        device=environment.device,
        error=error,
        forecast_bytes=job.forecast_bytes,
        started_at=outcome.started_at,
        finished_at=clock.now(),
        stderr_tail=outcome.stderr_tail,
    )
