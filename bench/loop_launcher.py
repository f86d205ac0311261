"""Loops that others write, each in a process of its own that takes turns with a worker, window by window."""

from __future__ import annotations

import os
import subprocess
import time
from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cnnbench.job import Answer
from cnnbench.measurement import Profile, Window
from cnnbench.record import Record
from cnnbench.stats import median_interval
from cnnbench.sweep.workers import Launcher, Outcome, worker_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.cell import Cell
    from cnnbench.job import CellJob, Request
    from cnnbench.sweep.workers import OnProgress, OnTurn


class LoopLauncher(Launcher):
    """Runs a loop that is not ours in place of a worker, with the variables that a worker sees."""

    @abstractmethod
    def command(self, cell: Cell) -> list[str]:
        """Return what prints the steps of a window, then the seconds of one for each line it reads."""

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,  # noqa: ARG002 (a bare loop tells nothing)
        timeout_seconds: float | None,  # noqa: ARG002
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Time one window a turn, as many as the cell has, and return them as its record."""
        if request.cell is None:
            msg = "a bare loop runs cells only"
            raise ValueError(msg)
        started_at = time.time()
        record = self._record(request.cell, started_at, on_turn)
        return Outcome(
            answer=Answer(record=record),
            death=None,
            timed_out=False,
            started_at=started_at,
            stderr_tail="",
        )

    def _record(self, job: CellJob, started_at: float, on_turn: OnTurn) -> Record:
        cell = job.cell
        with _process(self.command(cell)) as (lines, ask):
            num_steps = int(next(lines))
            windows = []
            for _ in range(cell.timing.max_windows):
                on_turn()
                ask()
                windows.append(Window(seconds=float(next(lines)), num_steps=num_steps))
        low, high = median_interval([window.step_seconds for window in windows])
        profile = Profile(
            windows=tuple(windows),
            low_step_seconds=low,
            high_step_seconds=high,
            stop_reason="max_windows",
            num_warmup_steps=0,
            setup_seconds=0.0,
        )
        return Record(
            sweep_id=job.sweep_id,
            cell=cell,
            cell_hash=cell.hash,
            environment_hash="",
            status="completed",
            device=job.device,
            profile=profile,
            started_at=started_at,
        )


@contextmanager
def _process(command: list[str]) -> Iterator[tuple[Iterator[str], Callable[[], None]]]:
    """Yield the lines of a bare loop's process, and what asks it for the next window."""
    process = subprocess.Popen(
        command,
        env=worker_variables(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        if process.stdin is None or process.stdout is None:
            msg = "a pipe was asked for"
            raise RuntimeError(msg)
        stdin = process.stdin

        def ask() -> None:
            stdin.write("\n")
            stdin.flush()

        yield iter(process.stdout), ask
        stdin.close()
