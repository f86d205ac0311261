"""The harness's window and a bare loop's by turns in one process, so that both have the luck of that process.

Two processes with the same step differed by 4 % (standard deviation) on two shared processors, which twelve
pairs of processes know to 2 % only. What the harness itself costs is the difference inside one process.

`python -m bench.side_by_side ARCHITECTURE PRECISION BATCH_SIZE` prints a line for each pair of windows: the
seconds of a step of the bare loop, and of the harness.
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
import torch

from bench.bare_loop import IMAGE_SIZE, NUM_WARMUP_STEPS, WINDOW_SECONDS, make_loop
from cnnbench.cell import Cell, Recipe
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

NUM_WINDOWS = 12
DATASET = f"synthetic(image_size={IMAGE_SIZE},num_classes=10)"


def main() -> None:
    """Warm both up, and time their windows by turns, in an order that is drawn for each pair."""
    architecture, precision, batch_size = sys.argv[1:]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = _harness(architecture, precision, int(batch_size), device)
    theirs = make_loop(architecture, precision, int(batch_size))
    theirs(NUM_WARMUP_STEPS)
    ours(NUM_WARMUP_STEPS)
    num_steps = math.ceil(WINDOW_SECONDS / (theirs(NUM_WARMUP_STEPS) / NUM_WARMUP_STEPS))
    order = random.Random(os.getpid())  # noqa: S311 (an order, no secret)
    for _ in range(NUM_WINDOWS):
        seconds = {run: run(num_steps) for run in order.sample([theirs, ours], 2)}
        click.echo(f"{seconds[theirs] / num_steps} {seconds[ours] / num_steps}")


def by_turns(cell: Cell, *, num_processes: int) -> list[Pair]:
    """Return the windows of the bare loop and of the harness, process by process.

    Raises:
        subprocess.CalledProcessError: one of the processes failed.
    """
    setting = (cell.architecture, cell.precision, str(cell.batch_size))
    command = [sys.executable, "-m", "bench.side_by_side", *setting]
    pairs: list[Pair] = []
    for _ in range(num_processes):
        ran = subprocess.run(
            command, env=worker_variables(os.environ), stdout=subprocess.PIPE, text=True, check=True
        )
        lines = [tuple(map(float, line.split())) for line in ran.stdout.splitlines()]
        theirs, ours = zip(*lines, strict=True)
        pairs.append((theirs, ours))
    return pairs


def _harness(
    architecture: str, precision: str, batch_size: int, device: torch.device
) -> Callable[[int], float]:
    """Return what runs so many steps as a window of a cell does, and gives the seconds."""
    folder = Path(tempfile.gettempdir())
    data = prepare(DATASET, data_dir=folder, cache_dir=folder, download=False, image_size=None)
    cell = Cell(
        architecture=architecture,
        precision=precision,
        batch_size=batch_size,
        memory_format="channels_last",
        dataset=DATASET,
        recipe=Recipe(weights="none", augmentation="none"),
    )
    bench = set_up(resolve(cell, data), data, device)
    training_step, _ = bench.training_step()
    step = workload(
        "training",
        training_step,
        timed_batches(bench.loader("train").forever(cell.seed), device).next,
        Tally.on(device),
        precision=bench.precision,
        device=device,
    )
    clock = stopwatch(device)
    return lambda num_steps: clock.run(step, num_steps)


if __name__ == "__main__":
    main()
