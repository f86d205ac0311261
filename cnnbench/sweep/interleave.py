"""Runs two settings by turns, window by window, so that the machine's drift hits both alike.

Both processes of a pair live at the same time, but one works while the other waits: first each sets
itself up, then they time their windows by turns, in an order that is drawn anew for each round. A
machine that grows slower, or a neighbour nobody can see, slows both.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from cnnbench.errors import WorkerError
from cnnbench.sweep.run import run_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.environment import Environment
    from cnnbench.job import CellJob
    from cnnbench.record import Record
    from cnnbench.sweep.workers import Launcher


def interleaved(
    launchers: tuple[Launcher, Launcher],
    jobs: tuple[CellJob, CellJob],
    environment: Environment,
    *,
    num_pairs: int,
    seed: int = 0,
) -> Iterator[tuple[Record, Record]]:
    """Yield the records of baseline and candidate, pair by pair, each run in a process of its own.

    The windows of the two records were timed by turns: those at one position right after each other.

    Args:
        launchers: start the processes of the baseline and of the candidate; two different ones, for
            each runs one process at a time.
        jobs: the baseline and the candidate.
        environment: what the processes run on.
        num_pairs: how many pairs to run.
        seed: of the order in which they take turns.

    Raises:
        WorkerError: a launcher broke.
    """
    order = random.Random(seed)  # noqa: S311 (an order, no secret)
    for _ in range(num_pairs):
        arms = [
            _Arm(launcher, replace(job, takes_turns=True), environment)
            for launcher, job in zip(launchers, jobs, strict=True)
        ]
        _take_turns(arms, order)
        baseline, candidate = arms
        yield baseline.record(), candidate.record()


def _take_turns(arms: list[_Arm], order: random.Random) -> None:
    for arm in order.sample(arms, len(arms)):
        arm.start()
    while waiting := [arm for arm in arms if not arm.has_ended]:
        for arm in order.sample(waiting, len(waiting)):
            arm.take_turn()


class _Arm:
    """One run in a thread of its own, which works only while it has been given its turn."""

    def __init__(self, launcher: Launcher, job: CellJob, environment: Environment) -> None:
        self._launcher = launcher
        self._job = job
        self._environment = environment
        self._record: Record | None = None
        self._error: BaseException | None = None
        self._given = threading.Semaphore(0)
        self._over = threading.Semaphore(0)
        self.has_ended = False
        # A daemon: whoever interrupts us closes the launcher, and does not wait for a turn.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, and return when the first turn is asked for."""
        self._thread.start()
        self._over.acquire()

    def take_turn(self) -> None:
        """Let it work, and return when the next turn is asked for or it has ended."""
        self._given.release()
        self._over.acquire()

    def record(self) -> Record:
        """Return what came of it."""
        if self._record is None:
            msg = f"the run of {self._job.cell.name} broke: {self._error}"
            raise WorkerError(msg) from self._error
        return self._record

    def _run(self) -> None:
        try:
            self._record = run_job(self._launcher, self._job, self._environment, on_turn=self._wait)
        except BaseException as error:  # noqa: BLE001 (told by `record`, in the thread that asked)
            self._error = error
        self.has_ended = True
        self._over.release()

    def _wait(self) -> None:
        self._over.release()
        self._given.acquire()
