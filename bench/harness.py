"""cnnbench itself, measured: what it costs, and whether its numbers may be believed.

Run by `make bench-harness`; writes results/local/harness.csv. `--only` runs one of its parts and leaves
the rows of the others as they are:

    cost     imports, the start of a cell, the first step, the tracking (a minute)
    sweep    what a sweep of 48 cells spends on anything but its cells (six minutes)
    scale    the steps that touch every cell of a sweep, with 10,000 of them (some minutes)
    memory   forecast peaks against measured ones, for every architecture (some minutes)
    recomputation  what each granularity of checkpointing saves and costs (some minutes)
    bare     images per second over those of a loop written by hand (some minutes)
    speed    fed against not fed, bfloat16 against float32, and the roofline (ten minutes)
    aa, ab   comparisons of identical settings, and with one slowed by 5 % (a quarter of an hour each)
    recommend  images per second of a recommendation's snippet over those it promised (some minutes)
    aa-busy, ab-busy   the same beside a noisy neighbour (up to three times as long)

Nothing here is asserted: machines differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench import busy, memory, recommend, recomputation, scale, speed, trust
from bench.figures import Figure, describe, figure, read_figures, write_figures
from bench.preflight import preflight
from bench.trust import job_of
from cnnbench import noise
from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.job import Request
from cnnbench.sweep.run import check, look
from cnnbench.sweep.workers import launcher
from cnnbench.tracking import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.workers import Launcher

NUM_REPEATS = 20
NUM_SPAWNS = 3
MAX_IMPORT_SECONDS = 0.3
MAX_CELL_START_MS = 60.0
MIN_FORK_GAIN = 50.0

# The least that a cell can be, so that what is measured is what surrounds it.
CELL = Cell(
    architecture="simple_cnn(width=4)",
    recipe=Recipe(image_size=32, num_classes=10, augmentation="none", weights="none"),
    timing=Timing(window_seconds=0.01, min_windows=2, max_windows=3, warmup_steps=1),
)


def main() -> None:
    """Measure what was asked for and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results/local/harness.csv"))
    parser.add_argument("--only", choices=_PARTS, action="append", metavar="PART")
    parser.add_argument("--results-dir", type=Path, default=Path("results/local"))
    parser.add_argument("--comparisons", type=int, default=trust.NUM_COMPARISONS)
    arguments = parser.parse_args()
    figures = read_figures(arguments.output)
    for part in arguments.only or _PARTS:
        with tempfile.TemporaryDirectory() as folder:
            fresh = _PARTS[part](Path(folder), arguments)
        for one in fresh:
            click.echo(describe(one))
        names = {one.name for one in fresh}
        figures = [one for one in figures if one.name not in names] + fresh
        write_figures(figures, arguments.output)


@contextmanager
def _trusting(
    folder: Path, arguments: argparse.Namespace, *, busy: bool = False
) -> Iterator[trust.Bench]:
    with _processor_left_free(), launcher("forkserver") as ours, launcher("forkserver") as theirs:
        delta = noise.delta(arguments.results_dir, look(ours, "auto"))
        yield trust.prepare((ours, theirs), folder, delta=delta, busy=busy)


@contextmanager
def _processor_left_free() -> Iterator[None]:
    """Leave one processor to the rest of the machine, unless the user has said how many threads to take.

    With a thread on every processor each operator waits for the one that the rest of the machine
    disturbs: in a probe of four workloads here windows of two threads varied by 1.6 to 2.3 % from one
    to the next, those of one by 0.6 to 1.5 %.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _memory(folder: Path, _: argparse.Namespace) -> list[Figure]:
    return memory.forecasts(folder)


def _bare(folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    with _trusting(folder, arguments) as bench:
        return trust.bare_loops(bench)


def _speed(folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    with _trusting(folder, arguments) as bench:
        return speed.figures(bench)


def _recomputation(folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    with _trusting(folder, arguments) as bench:
        return recomputation.recomputation(bench)


def _identical(folder: Path, arguments: argparse.Namespace, *, busy: bool) -> list[Figure]:
    with _trusting(folder, arguments, busy=busy) as bench:
        return trust.identical(bench, number=arguments.comparisons)


def _slowed(folder: Path, arguments: argparse.Namespace, *, busy: bool) -> list[Figure]:
    with _trusting(folder, arguments, busy=busy) as bench:
        return trust.slowed(bench, number=arguments.comparisons)


def _recommend(folder: Path, arguments: argparse.Namespace) -> list[Figure]:
    with _trusting(folder, arguments) as bench:
        return recommend.promises(bench, folder)


def _cost(folder: Path, _: argparse.Namespace) -> list[Figure]:
    """Return what everything around a cell costs, writing only into `folder`."""
    with launcher("forkserver") as workers:
        ready = check(workers, preflight(CELL.architecture, "digits", folder))
        device = ready.environment.device
        forked = [_run(workers, ready) for _ in range(NUM_REPEATS)]
    with launcher("spawn") as workers:
        spawned = [_run(workers, ready) for _ in range(NUM_SPAWNS)]
    starts = [_start_ms(record) for record in forked]
    spawned_starts = [_start_ms(record) for record in spawned]
    first_steps = [_start_ms(r) + _profile_ms(r) for r in forked]
    return [
        figure(
            "import",
            "python -c 'import cnnbench'",
            [_seconds("-c", "import cnnbench") for _ in range(NUM_REPEATS)],
            "s",
            device=device,
            at_most=MAX_IMPORT_SECONDS,
        ),
        figure(
            "help",
            "cnnbench --help",
            [_seconds("-m", "cnnbench", "--help") for _ in range(NUM_REPEATS)],
            "s",
            device=device,
            at_most=MAX_IMPORT_SECONDS,
        ),
        figure(
            "cell_start",
            "forkserver: request sent, to cell parsed",
            starts,
            "ms",
            device=device,
            at_most=MAX_CELL_START_MS,
        ),
        figure(
            "cell_first_step",
            "forkserver: request sent, to first step done",
            first_steps,
            "ms",
            device=device,
        ),
        figure(
            "cell_start_spawn",
            "spawn: request sent, to cell parsed",
            spawned_starts,
            "ms",
            device=device,
        ),
        figure(
            "cell_start_gain",
            "start of a cell: spawn over forkserver",
            [one / statistics.median(starts) for one in spawned_starts],
            "x",
            device=device,
            at_least=MIN_FORK_GAIN,
        ),
        figure(
            "tracking_per_cell",
            "MLflow on SQLite: one cell's run with its files",
            _tracking_ms(folder, ready, forked),
            "ms",
            device=device,
            at_most=busy.MAX_TRACKING_MS,
        ),
    ]


def _run(workers: Launcher, ready: Ready) -> Record:
    job = job_of(ready, CELL)
    outcome = workers.run(Request(cell=job), on_progress=lambda _: None, timeout_seconds=None)
    if outcome.answer is None or outcome.answer.record is None:
        msg = f"the cell failed: {outcome.death}\n{outcome.stderr_tail}"
        raise RuntimeError(msg)
    record = outcome.answer.record
    return replace(record, start_seconds=record.started_at - outcome.started_at)


def _start_ms(record: Record) -> float:
    return 1e3 * (record.start_seconds or float("nan"))


def _profile_ms(record: Record) -> float:
    return 1e3 * record.profile.setup_seconds if record.profile else float("nan")


def _tracking_ms(folder: Path, ready: Ready, records: list[Record]) -> list[float]:
    log = open_store(None, folder).sweep(
        "harness", profile="harness", environment=ready.environment, dataset=ready.dataset
    )
    log.reconcile([])  # as every sweep begins
    seconds = []
    for seed, record in enumerate(records):
        cell = replace(record.cell, seed=seed)
        own = replace(record, cell=cell, cell_hash=cell.hash)
        start = time.perf_counter()
        log.log(own)
        seconds.append(time.perf_counter() - start)
    return [1e3 * one for one in seconds]


def _seconds(*arguments: str) -> float:
    """Return how long a fresh interpreter takes, start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


_PARTS: dict[str, Callable[[Path, argparse.Namespace], list[Figure]]] = {
    "cost": _cost,
    "sweep": lambda folder, _: busy.figures(folder),
    "scale": lambda folder, _: scale.figures(folder),
    "memory": _memory,
    "recomputation": _recomputation,
    "bare": _bare,
    "speed": _speed,
    "recommend": _recommend,
    "aa": partial(_identical, busy=False),
    "ab": partial(_slowed, busy=False),
    "aa-busy": partial(_identical, busy=True),
    "ab-busy": partial(_slowed, busy=True),
}


if __name__ == "__main__":
    main()
