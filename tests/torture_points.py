"""Moments at which a sweep or its worker kills itself: patched into its processes, after the fork."""

from __future__ import annotations

import importlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import mlflow
import sqlalchemy
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

import cnnbench.execute as execute_module
import cnnbench.worker as worker_module
from cnnbench import logbook
from cnnbench.measure import timing
from cnnbench.sweep import forkserver
from cnnbench.sweep.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from cnnbench.record import Record

SECOND_BATCH_SIZE = 32
PATIENCE_SECONDS = 120.0


class Victim:
    """The sweep's processes: which is the parent, and what the worker runs."""

    parent = 0
    batch_size = 0

    @classmethod
    def kill_parent(cls) -> None:
        """Kill the sweep's parent, from wherever this is called, and go no further."""
        os.kill(cls.parent, signal.SIGKILL)
        time.sleep(PATIENCE_SECONDS)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def put(owner: Any, name: str, value: Any) -> None:
    """Replace a part of the program, in this process and in those forked from it."""
    setattr(owner, name, value)


def at(owner: Any, name: str, number: int, kill: Callable[[], None]) -> None:
    """Let the call of that number of `owner.name` kill instead."""
    original = getattr(owner, name)
    calls = 0

    def patched(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            kill()
        return original(*arguments, **options)

    put(owner, name, patched)


def in_a_window(kill: Callable[[], None]) -> None:
    """Kill after the first step of a timed window of the second cell."""
    measure, run = timing.measure, timing.Stopwatch.run
    timed = False

    def measuring(*arguments: Any, **options: Any) -> Any:
        nonlocal timed
        timed = Victim.batch_size == SECOND_BATCH_SIZE
        return measure(*arguments, **options)

    def running(self: timing.Stopwatch, step: Callable[[], None], num_steps: int) -> float:
        if timed:
            step()
            kill()
        return run(self, step, num_steps)

    put(importlib.import_module("cnnbench.profiling"), "measure", measuring)
    put(timing.Stopwatch, "run", running)


def mid_journal() -> None:
    original = Journal.append
    calls = 0

    def append(self: Journal, record: Record) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            self._file.write(b'{"sweep_id":"half a li')
            kill_self()
        original(self, record)

    put(Journal, "append", append)


def mid_transaction() -> None:
    """Kill with a transaction of the store open: after the second run's parameters went in."""
    num_inserts = 0

    def watch(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal num_inserts
        num_inserts += statement.startswith("INSERT INTO params")
        if num_inserts == 2:
            kill_self()

    sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", watch)


def mid_report() -> None:
    original: Any = LocalArtifactRepository.log_artifacts

    def log_artifacts(self: Any, folder: str, artifact_path: Any = None) -> None:
        if artifact_path == "report":
            kill_self()
        original(self, folder, artifact_path)

    put(LocalArtifactRepository, "log_artifacts", log_artifacts)


def while_a_worker_starts() -> None:
    """Kill when the server has been asked for the second cell's worker; two looked around before."""
    original = forkserver.Forkserver._start
    calls = 0

    def start(self: forkserver.Forkserver, connection: socket, stderr: Any) -> None:
        nonlocal calls
        calls += 1
        original(self, connection, stderr)
        if calls == 4:
            kill_self()

    put(forkserver.Forkserver, "_start", start)


def as_it_starts() -> None:
    original = worker_module.serve

    def serve(line: bytes, *rest: Any) -> None:
        if b'"cell":{' in line and b'"batch_size":%d,' % SECOND_BATCH_SIZE in line:
            kill_self()
        original(line, *rest)

    put(worker_module, "serve", serve)


def before_it_answers() -> None:
    original = execute_module.execute

    def execute(job: Any, *rest: Any) -> Record:
        record = original(job, *rest)
        if job.cell.batch_size == SECOND_BATCH_SIZE:
            kill_self()
        return record

    put(worker_module, "execute", execute)


def mid_answer() -> None:
    original = worker_module.serve

    def serve(line: bytes, send: Callable[[bytes], None], *rest: Any) -> None:
        def half(answer: bytes) -> None:
            if Victim.batch_size == SECOND_BATCH_SIZE and b'"record":{' in answer:
                send(answer[: len(answer) // 2])
                kill_self()
            send(answer)

        original(line, half, *rest)

    put(worker_module, "serve", serve)


PARENT_POINTS: dict[str, Callable[[], None]] = {
    "in a timed window": lambda: in_a_window(Victim.kill_parent),
    "while a worker starts": while_a_worker_starts,
    "mid-journal": mid_journal,
    "between journal and MLflow": lambda: at(logbook.MlflowLogbook, "log", 2, kill_self),
    "MLflow: a run begun": lambda: at(mlflow.MlflowClient, "log_batch", 2, kill_self),
    "MLflow: in a transaction": mid_transaction,
    "MLflow: a run all but ended": lambda: at(mlflow.MlflowClient, "set_terminated", 2, kill_self),
    "while the report is logged": mid_report,
}
WORKER_POINTS: dict[str, Callable[[], None]] = {
    "in a timed window": lambda: in_a_window(kill_self),
    "as it starts": as_it_starts,
    "before it answers": before_it_answers,
    "mid-answer": mid_answer,
}
