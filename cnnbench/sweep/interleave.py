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
    from collections.abc import Iterable, Iterator

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
    interchangeable: bool = False,
    seed: int = 0,
) -> Iterator[tuple[Record, Record]]:
    """Yield the records of baseline and candidate, pair by pair, each run in a process of its own.

    The windows of the two records were timed by turns: those at one position right after each other.

    All workers of one fork server share its pages, and run up to a percent faster or slower than those of
    another. That must not pass for a difference of what they run, so it changes from pair to pair.

    Args:
        launchers: start the processes of the baseline and of the candidate; two different ones, for
            each runs one process at a time.
        jobs: the baseline and the candidate.
        environment: what the processes run on.
        num_pairs: how many pairs to run.
        interchangeable: both launchers run the same code, so that chance may decide for each pair which
            of them starts which process; others are renewed instead, which takes seconds.
        seed: of the order in which they take turns.

    Raises:
        WorkerError: a launcher broke.
    """
    order = random.Random(seed)  # noqa: S311 (an order, no secret)
    one, other = launchers
    for number in range(num_pairs):
        if interchangeable:
            one, other = order.sample(launchers, 2)
        elif number:
            renew(launchers)
        yield take_turns((one, other), jobs, environment, order)


def take_turns(
    launchers: tuple[Launcher, Launcher],
    jobs: tuple[CellJob, CellJob],
    environment: Environment,
    order: random.Random,
    timeout_seconds: float | None = None,
) -> tuple[Record, Record]:
    """Return the records of one pair, as `interleaved` yields them; `order` decides whose turn it is.

    A process is ended after `timeout_seconds`, in which its waiting for its turns does not count.
    """
    arms = [
        _Arm(launcher, replace(job, takes_turns=True), environment, timeout_seconds)
        for launcher, job in zip(launchers, jobs, strict=True)
    ]
    for arm in order.sample(arms, len(arms)):
        arm.start()
    while waiting := [arm for arm in arms if not arm.has_ended]:
        for arm in order.sample(waiting, len(waiting)):
            arm.take_turn()
    baseline, candidate = arms
    return baseline.record(), candidate.record()


def renew(launchers: Iterable[Launcher]) -> None:
    """Let later workers share nothing with earlier ones, and wait until all launchers are at rest."""
    kept = list(launchers)
    for launcher in kept:
        launcher.renew()
    for launcher in kept:
        launcher.wait_until_ready()


class _Arm:
    """One run in a thread of its own, which works only while it has been given its turn."""

    def __init__(
        self,
        launcher: Launcher,
        job: CellJob,
        environment: Environment,
        timeout_seconds: float | None,
    ) -> None:
        self._launcher = launcher
        self._job = job
        self._environment = environment
        self._timeout_seconds = timeout_seconds
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
            self._record = run_job(
                self._launcher,
                self._job,
                self._environment,
                on_turn=self._wait,
                timeout_seconds=self._timeout_seconds,
            )
        except BaseException as error:  # noqa: BLE001 (told by `record`, in the thread that asked)
            self._error = error
        self.has_ended = True
        self._over.release()

    def _wait(self) -> None:
        self._over.release()
        self._given.acquire()
