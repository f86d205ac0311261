"""Several lanes side by side, one cell at a time on each: a lane is one GPU with processors of its own.

A lane's worker starts its next cell only when the last one has ended, so that no preparation ever falls
into a timed window of its own GPU; and other lanes have other processors. Preparing a cell while the one
before it still trains would win its start and its set-up, 3 % of the time of a quick sweep's cells, and
cost the certainty that nothing else runs beside a window.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from cnnbench.errors import WorkerError
from cnnbench.record import Record
from cnnbench.sweep.cores import share_out
from cnnbench.sweep.run import find_gpus, has_pulse, run_cells, run_job
from cnnbench.sweep.workers import ANYWHERE, Launcher, Place, launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cnnbench.environment import Environment
    from cnnbench.job import CellJob, Progress, Request
    from cnnbench.sweep.run import Observer
    from cnnbench.sweep.workers import OnProgress, OnTurn, Outcome

# A cell that has brought down so many lanes is tried on no other.
MAX_LANES_A_CELL = 2
_MAY_BE_THE_DEVICE = ("failed", "timeout")


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Where one cell at a time runs. Without a `device` a job keeps the one that it names."""

    launcher: Launcher
    name: str = ""
    device: str | None = None
    device_uuid: str | None = None

    def adopt(self, job: CellJob) -> CellJob:
        """Return `job` as this lane runs it."""
        if self.device is None:
            return job
        return replace(job, device=self.device, device_uuid=self.device_uuid)


class Lanes(Launcher):
    """The workers of all lanes, as one launcher: what is no cell runs on the first.

    There is a lane for each GPU of the model that the device's name leads to, and otherwise one. Which
    it is only a worker can tell, so it is found out by the first request.
    """

    def __init__(self, isolation: str, device: str, place: Place = ANYWHERE) -> None:
        """Start one launcher; the others, if there are several, take its place.

        Args:
            isolation: how workers start; `inline` ones share a process, so there is one lane.
            device: as the user named it; a certain GPU is a single lane.
            place: what each lane's place is made from.

        Raises:
            UnknownNameError: there is no such isolation.
        """
        super().__init__(place)
        self._isolation = isolation
        self._device = device
        self._lanes = [Lane(launcher=launcher(isolation, place))]
        self._is_found = isolation == "inline" or device == "cpu" or ":" in device

    @property
    def lanes(self) -> list[Lane]:
        """Return them, by then found out.

        Raises:
            CnnbenchError: there is no such device.
        """
        if not self._is_found:
            (single,) = self._lanes
            uuids = find_gpus(single.launcher, self._device)
            if len(uuids) > 1:
                single.launcher.close()
                self._lanes = self._of(uuids)
            self._is_found = True
        return self._lanes

    def _of(self, uuids: tuple[str, ...]) -> list[Lane]:
        lanes = []
        shares = share_out(os.sched_getaffinity(0), len(uuids))
        for uuid, processors in zip(uuids, shares, strict=True):
            variables = {**self._place.variables, "CUDA_VISIBLE_DEVICES": uuid}
            own = launcher(self._isolation, Place(processors=processors, variables=variables))
            lanes.append(Lane(launcher=own, name=uuid, device="cuda:0", device_uuid=uuid))
        return lanes

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Run `request` on the first lane."""
        return self.lanes[0].launcher.run(
            request, on_progress=on_progress, timeout_seconds=timeout_seconds, on_turn=on_turn
        )

    def close(self) -> None:
        """End whatever still runs, on every lane."""
        for lane in self._lanes:
            lane.launcher.close()


def lanes_of(workers: Launcher) -> list[Lane]:
    """Return the lanes of `workers`: itself as a single one, where it has none."""
    return workers.lanes if isinstance(workers, Lanes) else [Lane(launcher=workers)]


def run_in_lanes(
    lanes: Sequence[Lane],
    jobs: Iterable[CellJob],
    environment: Environment,
    *,
    timeout_seconds: float | None,
    observer: Observer,
    keep: Callable[[Record], None],
) -> None:
    """Run the cells of `jobs`, each in whichever lane is free; `keep` is called as by `run_cells`.

    A lane whose device answers no more is closed, and its cell goes to another; when none is left the
    remaining cells end as failed, with the reason.
    """
    if len(lanes) == 1:
        adopted = map(lanes[0].adopt, jobs)
        run_cells(
            lanes[0].launcher,
            adopted,
            environment,
            timeout_seconds=timeout_seconds,
            observer=observer,
            keep=keep,
        )
        return
    sweep = _Sweep(jobs, environment, observer, keep)
    sweep.run([_Runner(lane, sweep.post, environment, timeout_seconds) for lane in lanes])


class _Sweep:
    """What the calling thread does: it hands out jobs, and alone keeps records and tells the observer."""

    def __init__(
        self,
        jobs: Iterable[CellJob],
        environment: Environment,
        observer: Observer,
        keep: Callable[[Record], None],
    ) -> None:
        self._waiting = deque(jobs)
        self._environment = environment
        self._observer = observer
        self._keep = keep
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._free: list[_Runner] = []
        self._num_busy = 0
        self._num_lost: dict[str, int] = {}
        self._losses: list[str] = []
        self.post = self._events.put

    def run(self, runners: list[_Runner]) -> None:
        """Run until every job has a record that is kept."""
        for runner in runners:
            runner.start(self)
        self._free = runners[::-1]
        try:
            self._run()
        finally:
            for runner in runners:
                runner.inbox.put(None)

    def _run(self) -> None:
        while self._waiting or self._num_busy:
            while self._waiting and self._free:
                self._hand_out(self._free.pop(), self._waiting.popleft())
            if self._num_busy:
                self._events.get()()
            else:
                self._give_up(self._waiting.popleft(), "no device is left to run on")

    def _hand_out(self, runner: _Runner, job: CellJob) -> None:
        self._num_busy += 1
        self._observer.on_cell(job.cell)
        runner.inbox.put(job)

    def on_progress(self, job: CellJob, progress: Progress) -> None:
        """Pass on what a worker does."""
        self._observer.on_progress(job.cell, progress)

    def on_record(self, runner: _Runner, record: Record) -> None:
        """Keep a record; the lane is free again."""
        self._num_busy -= 1
        self._free.append(runner)
        self._finish(record)

    def on_loss(self, lane: Lane, job: CellJob, record: Record | None, reason: str) -> None:
        """Close a lane; its cell goes to another, unless it has brought down several."""
        self._num_busy -= 1
        self._losses.append(f"{lane.name}: {reason}")
        self._observer.on_warning(f"{lane.name} is out of the sweep: {reason}")
        number = self._num_lost.get(job.cell.hash, 0) + 1
        self._num_lost[job.cell.hash] = number
        if number < MAX_LANES_A_CELL:
            self._waiting.appendleft(job)
        elif record is not None:
            self._finish(record)
        else:
            self._give_up(job, f"{number} lanes were lost with it")

    def on_error(self, error: BaseException) -> None:
        """Let what no lane can put right end the sweep."""
        raise error

    def _finish(self, record: Record) -> None:
        self._keep(record)
        self._observer.on_record(record)

    def _give_up(self, job: CellJob, why: str) -> None:
        now = time.time()
        self._finish(
            Record(
                sweep_id=job.sweep_id,
                cell=job.cell,
                cell_hash=job.cell.hash,
                environment_hash=job.environment_hash,
                status="failed",
                device=self._environment.device,
                error=f"{why}: {'; '.join(self._losses)}",
                started_at=now,
                finished_at=now,
            )
        )


class _Runner:
    """A lane's thread, which waits for its worker while the calling thread serves the others."""

    def __init__(
        self,
        lane: Lane,
        post: Callable[[Callable[[], None]], None],
        environment: Environment,
        timeout_seconds: float | None,
    ) -> None:
        self.inbox: SimpleQueue[CellJob | None] = SimpleQueue()
        self._lane = lane
        self._post = post
        self._environment = environment
        self._timeout_seconds = timeout_seconds

    def start(self, sweep: _Sweep) -> None:
        # A daemon: whoever interrupts the sweep closes the launchers, and waits for no thread.
        threading.Thread(target=self._work, args=(sweep,), daemon=True).start()

    def _work(self, sweep: _Sweep) -> None:
        while (job := self.inbox.get()) is not None:
            if self._run(job, sweep):
                return

    def _run(self, job: CellJob, sweep: _Sweep) -> bool:
        """Run one job and tell how it went; return whether the lane is lost."""
        lane, record = self._lane, None
        try:
            record = run_job(
                lane.launcher,
                lane.adopt(job),
                self._environment,
                on_progress=lambda progress: self._post(partial(sweep.on_progress, job, progress)),
                timeout_seconds=self._timeout_seconds,
            )
            may_be_lost = record.status in _MAY_BE_THE_DEVICE
            if not may_be_lost or has_pulse(lane.launcher, lane.device):
                self._post(partial(sweep.on_record, self, record))
                return False
            reason = f"it answers no more ({record.error})"
        except WorkerError as error:
            reason = str(error)
        except BaseException as error:  # noqa: BLE001 (raised in the thread that can end the sweep)
            self._post(partial(sweep.on_error, error))
            return True
        self._post(partial(sweep.on_loss, lane, job, record, reason))
        return True
