"""Running cells one after the other: what ends up in the records, and in which order."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench import errors
from cnnbench.cell import Cell
from cnnbench.errors import CheckError, CnnbenchError, DataError, WorkerError
from cnnbench.job import (
    Answer,
    CellJob,
    Examination,
    PeaksJob,
    Preflight,
    Progress,
    Ready,
    Refusal,
)
from cnnbench.sweep.plan import Plan, make_plan
from cnnbench.sweep.run import (
    CHECK_SECONDS,
    DOWNLOAD_SECONDS,
    Observer,
    check,
    examine,
    find_peaks,
    look,
    run_cells,
)
from cnnbench.sweep.workers import Launcher, Outcome
from sample_records import sample_dataset, sample_environment, sample_record

if TYPE_CHECKING:
    from cnnbench.job import Request
    from cnnbench.record import Record
    from cnnbench.sweep.workers import OnProgress, OnTurn

READY = Ready(
    environment=sample_environment(), dataset=sample_dataset(), model_digests={"simple_cnn": ""}
)
PREFLIGHT = Preflight(
    device="cpu",
    dataset="digits",
    data_dir="",
    cache_dir="",
    download=False,
    image_size=None,
    models=(),
)


class Scripted(Launcher):
    """Ends each request as it was told, in place of workers that would have to be made to."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.requests: list[tuple[Request, float | None]] = []
        self._outcomes = deque(outcomes)

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,
        on_turn: OnTurn = lambda: None,  # noqa: ARG002
    ) -> Outcome:
        self.requests.append((request, timeout_seconds))
        on_progress(Progress(phase="timing"))
        return self._outcomes.popleft()


class Noting(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def on_cell(self, cell: Cell) -> None:
        self.heard.append(("cell", cell.name))

    def on_progress(self, cell: Cell, progress: Progress) -> None:
        self.heard.append((progress.phase, cell.name))

    def on_record(self, record: Record) -> None:
        self.heard.append(("record", record.cell.name))


def outcome(**changes: Any) -> Outcome:
    usual: dict[str, Any] = {
        "answer": None,
        "death": None,
        "timed_out": False,
        "started_at": time.time(),
        "stderr_tail": "",
    }
    return Outcome(**{**usual, **changes})


def a_plan(*batch_sizes: int) -> Plan:
    cells = [Cell(architecture="simple_cnn", batch_size=size) for size in batch_sizes]
    return make_plan("quick", cells, READY)


def jobs_of(plan: Plan) -> list[CellJob]:
    return [
        CellJob(
            cell=cell,
            dataset=READY.dataset,
            device="cpu",
            sweep_id=plan.sweep_id,
            environment_hash=plan.environment_hash(cell),
        )
        for cell in plan.cells
    ]


def run(launcher: Launcher, plan: Plan, observer: Observer | None = None) -> list[Record]:
    records: list[Record] = []
    run_cells(
        launcher,
        jobs_of(plan),
        READY.environment,
        timeout_seconds=7.0,
        observer=observer or Observer(),
        keep=records.append,
    )
    return records


def test_the_workers_record_is_kept_with_its_start_and_what_it_printed() -> None:
    plan = a_plan(64)
    record = sample_record(cell=plan.cells[0], started_at=100.5)
    launcher = Scripted(outcome(answer=Answer(record=record), started_at=100.0, stderr_tail="hm"))
    (kept,) = run(launcher, plan)
    assert (kept.start_seconds, kept.stderr_tail) == (0.5, "hm")
    assert kept.profile == record.profile
    (request, timeout_seconds) = launcher.requests[0]
    assert timeout_seconds == 7.0
    assert request.cell is not None
    assert request.cell.environment_hash == plan.environment_hash(plan.cells[0])


def test_a_worker_that_dies_leaves_a_failed_record_and_the_sweep_goes_on() -> None:
    plan = a_plan(64, 128, 256)
    last = sample_record(cell=plan.cells[2], environment_hash=plan.environment_hash(plan.cells[2]))
    launcher = Scripted(
        outcome(death="the worker was killed by SIGSEGV", stderr_tail="boom"),
        outcome(death="took longer than 7 s", timed_out=True),
        outcome(answer=Answer(record=last)),
    )
    dead, late, done = run(launcher, plan)
    assert (dead.status, dead.error) == ("failed", "the worker was killed by SIGSEGV")
    assert dead.stderr_tail == "boom"
    assert (late.status, late.error) == ("timeout", "took longer than 7 s")
    assert done.status == "completed"
    for cell, record in zip(plan.cells[:2], (dead, late), strict=True):
        assert (record.cell, record.cell_hash) == (cell, cell.hash)
        assert record.sweep_id == plan.sweep_id
        assert record.environment_hash == plan.environment_hash(cell)
    assert dead.finished_at >= dead.started_at > 0
    assert plan.missing([dead, late, done], retry_failed=True) == list(plan.cells[:2])


def test_a_users_error_inside_a_cell_is_a_failed_cell() -> None:
    refusal = Refusal(error="DataError", message="the images are gone")
    (record,) = run(Scripted(outcome(answer=Answer(refusal=refusal))), a_plan(64))
    assert (record.status, record.error) == ("failed", "the images are gone")


def test_each_record_is_kept_before_the_observer_hears_of_it() -> None:
    plan = a_plan(64, 128)
    observer = Noting()
    outcomes = [outcome(answer=Answer(record=sample_record(cell=cell))) for cell in plan.cells]
    run_cells(
        Scripted(*outcomes),
        jobs_of(plan),
        READY.environment,
        timeout_seconds=None,
        observer=observer,
        keep=lambda record: observer.heard.append(("kept", record.cell.name)),
    )
    first, second = (cell.name for cell in plan.cells)
    steps = ("cell", "timing", "kept", "record")
    assert observer.heard == [(step, name) for name in (first, second) for step in steps]


def test_what_the_preflight_refuses_is_raised_as_it_was() -> None:
    refusal = Refusal(error="DataError", message="cifar10 was not found")
    launcher = Scripted(outcome(answer=Answer(refusal=refusal)))
    with pytest.raises(DataError, match="cifar10 was not found"):
        check(launcher, PREFLIGHT)


def test_every_users_error_comes_back_from_a_worker_as_its_own_kind() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, CnnbenchError)
    ]
    assert len(kinds) > 5
    for kind in kinds:
        refusal = Refusal(error=kind.__name__, message="no")
        with pytest.raises(kind) as raised:
            look(Scripted(outcome(answer=Answer(refusal=refusal))), "cpu")
        assert type(raised.value) is kind


def test_a_preflight_whose_worker_dies_says_how_and_its_last_line() -> None:
    launcher = Scripted(
        outcome(death="the worker was killed by SIGKILL", stderr_tail="one\nlast words\n")
    )
    with pytest.raises(WorkerError) as error:
        check(launcher, PREFLIGHT)
    assert str(error.value) == "the worker was killed by SIGKILL, while timing. last words"
    assert error.value.exit_code == 2


def test_a_preflight_has_a_time_limit_that_grows_with_its_models() -> None:
    late = outcome(death="took longer than 9 s", timed_out=True)
    launcher = Scripted(late, late, late)
    three = replace(PREFLIGHT, models=(("a", "none"), ("b", "none"), ("c", "none")))
    with pytest.raises(CheckError, match="the check took longer than 9 s, while timing"):
        check(launcher, PREFLIGHT)
    with pytest.raises(CheckError):
        check(launcher, three, model_seconds=5.0)
    with pytest.raises(CheckError):
        check(launcher, replace(three, download=True), model_seconds=5.0)
    limits = [seconds for _, seconds in launcher.requests]
    assert limits == [CHECK_SECONDS, 20.0, 20.0 + DOWNLOAD_SECONDS]


def test_an_answer_to_another_question_is_an_error() -> None:
    record = sample_record()
    for ask in (
        lambda launcher: look(launcher, "cpu"),
        lambda launcher: check(launcher, PREFLIGHT),
        lambda launcher: find_peaks(launcher, PeaksJob(device="cpu", precisions=("fp32",))),
        lambda launcher: examine(launcher, Examination(device="cpu", data_dir="")),
    ):
        with pytest.raises(WorkerError, match="something else"):
            ask(Scripted(outcome(answer=Answer(record=record))))
