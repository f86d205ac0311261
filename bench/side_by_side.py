"""A cell's step and another one by turns in one process, so that both have the luck of that process.

Two processes with the same step differed by 4 % (standard deviation) on two shared processors, which twelve
pairs of processes know to 2 % only. What the harness itself costs, or its data, is the difference inside one
process.

`python -m bench.side_by_side CELL AGAINST`, the cell as JSON, prints a line for each pair of windows: the
seconds of a step of the other, and of the cell. AGAINST says what the other is:

    bare        the loop that anyone would write by hand
    repeating   the cell's own step, always on one batch
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import torch

from bench.bare_loop import NUM_WARMUP_STEPS, WINDOW_SECONDS, make_loop
from cnnbench.cell import Cell
from cnnbench.data.datasets import prepare
from cnnbench.measure.data_wait import timed_batches
from cnnbench.measure.timing import stopwatch
from cnnbench.setup import set_up
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.variables import worker_variables
from cnnbench.training.step import Tally
from cnnbench.training.workloads import workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.stats import Pair

    # Runs so many steps and returns the seconds that they took.
    Run = Callable[[int], float]

NUM_WINDOWS = 12


def main() -> None:
    """Warm both up, and time their windows by turns, in an order that is drawn for each pair."""
    cell, against = msgspec.json.decode(sys.argv[1], type=Cell), sys.argv[2]
    harness = _harness(cell)
    ours = harness("training")
    theirs = (
        make_loop(cell.architecture, cell.precision, cell.batch_size)
        if against == "bare"
        else harness(against)
    )
    theirs(NUM_WARMUP_STEPS)
    ours(NUM_WARMUP_STEPS)
    num_steps = math.ceil(WINDOW_SECONDS / (theirs(NUM_WARMUP_STEPS) / NUM_WARMUP_STEPS))
    order = random.Random(os.getpid())  # noqa: S311 (an order, no secret)
    for _ in range(NUM_WINDOWS):
        seconds = {run: run(num_steps) for run in order.sample([theirs, ours], 2)}
        click.echo(f"{seconds[theirs] / num_steps} {seconds[ours] / num_steps}")


def by_turns(cell: Cell, *, num_processes: int, against: str = "bare") -> list[Pair]:
    """Return the windows of the other step and of the cell's, process by process.

    Raises:
        subprocess.CalledProcessError: one of the processes failed.
    """
    given = msgspec.json.encode(cell).decode()
    command = [sys.executable, "-m", "bench.side_by_side", given, against]
    pairs: list[Pair] = []
    for _ in range(num_processes):
        ran = subprocess.run(
            command, env=worker_variables(os.environ), stdout=subprocess.PIPE, text=True, check=True
        )
        lines = [tuple(map(float, line.split())) for line in ran.stdout.splitlines()]
        theirs, ours = zip(*lines, strict=True)
        pairs.append((theirs, ours))
    return pairs


def _harness(cell: Cell) -> Callable[[str], Run]:
    """Return what gives, for a workload's name, what runs so many steps of it as a window of a cell does."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    folder = Path(tempfile.gettempdir())
    data = prepare(cell.dataset, data_dir=folder, cache_dir=folder, download=False, image_size=None)
    bench = set_up(resolve(cell, data), data, device)
    training_step, _ = bench.training_step()
    next_batch = timed_batches(bench.loader("train").forever(cell.seed), device).next
    tally, clock = Tally.on(device), stopwatch(device)

    def runner(name: str) -> Run:
        step = workload(
            name, training_step, next_batch, tally, precision=bench.precision, device=device
        )
        return lambda num_steps: clock.run(step, num_steps)

    return runner


if __name__ == "__main__":
    main()
