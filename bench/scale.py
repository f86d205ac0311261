"""Sweeps of 10,000 cells, made from recorded ones: `make bench-harness ARGS="--only scale"`.

What touches every cell must grow with their number and no faster, so each step is also timed with half
of them. Every size runs in a process of its own, whose peak memory is told; reconciling with MLflow is
told by run, for filling a store with so many takes long.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from bench.figures import Figure, figure
from cnnbench.analysis.frame import write_tables
from cnnbench.cell import Cell, grid, union
from cnnbench.comparing import compare_sources
from cnnbench.environment import DatasetInfo, Environment
from cnnbench.job import Ready
from cnnbench.report.tables import print_comparison
from cnnbench.results import ENVIRONMENT, Records, write_report
from cnnbench.sweep.journal import NAME, read_journal
from cnnbench.sweep.order import in_order
from cnnbench.sweep.plan import make_plan
from cnnbench.tracking import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.record import Record

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
NUM_CELLS = 10_000
NUM_RUNS = 500
NUM_REPEATS = 3
# Twice the cells may take twice the time, and a little noise.
MAX_GROWTH = 2.3
MAX_SECONDS = {
    "plan": 1.0,
    "resume": 1.0,
    "journal": 3.0,
    "table": None,
    "shown": None,
    "report": 20.0,
    "compare": None,
}
MAX_MEMORY_MIB = 1024.0
WORKLOADS = {
    "plan": "grid to ordered plan",
    "resume": "grid to what is missing, half of it done",
    "journal": "the journal read",
    "table": "cells.csv and cells.parquet",
    "shown": "the comparison printed",
    "report": "tables, figures and the page",
    "compare": "two such sweeps read and compared",
}


def figures(folder: Path) -> list[Figure]:
    """Return what each step takes with 10,000 cells, and by how much more than with half as many."""
    full, half = (
        _in_a_process(number, folder / str(number)) for number in (NUM_CELLS, NUM_CELLS // 2)
    )
    device = full["device"]
    found = []
    for name, seconds in full["seconds"].items():
        workload = f"{NUM_CELLS} cells: {WORKLOADS[name]}"
        found.append(
            figure(
                f"scale_{name}", workload, seconds, "s", device=device, at_most=MAX_SECONDS[name]
            )
        )
        growth = [one / min(half["seconds"][name]) for one in seconds]
        found.append(
            figure(
                f"scale_{name}_growth",
                f"{WORKLOADS[name]}: {NUM_CELLS} cells over {NUM_CELLS // 2}",
                [min(growth)],
                "x",
                device=device,
                at_most=MAX_GROWTH,
            )
        )
    workload = f"{NUM_CELLS} cells: peak of all these steps in one process"
    memory = [full["peak_mib"]]
    found.append(
        figure("scale_memory", workload, memory, "MiB", device=device, at_most=MAX_MEMORY_MIB)
    )
    workload = f"MLflow on SQLite: {NUM_RUNS} runs compared with the journal, by run"
    reconciled = _reconcile_ms(folder, *_recorded())
    return [*found, figure("scale_reconcile", workload, reconciled, "ms", device=device)]


def _in_a_process(number: int, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "bench.scale", str(number), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(number: int, folder: Path) -> dict[str, Any]:
    """Make a sweep of `number` cells in `folder` and time what is done with all of them."""
    ready, recorded = _recorded()
    _write_sweep(folder, number, ready, recorded)
    seconds = {
        "plan": _seconds(lambda: _plan(number, ready, recorded, [])),
        "journal": _seconds(lambda: read_journal(folder / NAME)),
    }
    seconds |= _with_records(number, folder, ready, recorded)
    seconds["report"] = _seconds(lambda: write_report(folder), 1)
    seconds["compare"] = _seconds(lambda: compare_sources(str(folder), str(folder)), 1)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"device": ready.environment.device, "seconds": seconds, "peak_mib": peak_mib}


def _with_records(
    number: int, folder: Path, ready: Ready, recorded: list[Record]
) -> dict[str, list[float]]:
    records = Records(read_journal(folder / NAME), folder)
    done = list(records[: number // 2])
    with (folder / "shown.txt").open("w", encoding="utf-8") as file:
        return {
            "resume": _seconds(lambda: _plan(number, ready, recorded, done)),
            "table": _seconds(lambda: write_tables(records, folder)),
            "shown": _seconds(lambda: print_comparison(records, Console(file=file))),
        }


def _seconds(step: Callable[[], object], num_repeats: int = NUM_REPEATS) -> list[float]:
    found = []
    for _ in range(num_repeats):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def _recorded() -> tuple[Ready, list[Record]]:
    """Return the recorded sweep with the most cells, and what it ran on."""
    journal = max(REFERENCE.glob(f"*/{NAME}"), key=lambda path: path.stat().st_size)
    records = read_journal(journal)
    table = msgspec.json.decode((journal.parent / ENVIRONMENT).read_bytes(), type=dict[str, Any])
    dataset = msgspec.convert({"path": "", **table["dataset"]}, DatasetInfo)
    digests = {record.cell.architecture: "" for record in records}
    environment = msgspec.convert(table, Environment)
    return Ready(environment=environment, dataset=dataset, model_digests=digests), records


def _cells(number: int, recorded: list[Record]) -> list[Cell]:
    """Return the recorded cells under as many seeds as make `number`."""
    num_seeds = -(-number // len(recorded))
    found: list[Cell] = []
    for record in recorded:
        cell = record.cell
        axes = {"architecture": [cell.architecture], "seed": range(num_seeds)}
        names = ("precision", "batch_size", "checkpointing", "memory_format", "recipe", "timing")
        found += grid(axes, base={name: getattr(cell, name) for name in names})
    return union(found)[:number]


def _plan(number: int, ready: Ready, recorded: list[Record], done: list[Record]) -> list[Cell]:
    plan = make_plan("scale", _cells(number, recorded), ready)
    return in_order(plan.missing(done, retry_failed=False))


def _write_sweep(folder: Path, number: int, ready: Ready, recorded: list[Record]) -> None:
    """Write journal and environment as a sweep leaves them."""
    plan = make_plan("scale", _cells(number, recorded), ready)
    by_cell = {replace(record.cell, seed=0): record for record in recorded}
    encoder = msgspec.json.Encoder()
    with (folder / NAME).open("wb") as file:
        for cell in plan.cells:
            record = replace(
                by_cell[replace(cell, seed=0)],
                sweep_id=plan.sweep_id,
                cell=cell,
                cell_hash=cell.hash,
                environment_hash=plan.environment_hash(cell),
            )
            file.write(encoder.encode(record) + b"\n")
    surroundings = {
        **msgspec.to_builtins(ready.environment),
        "dataset": ready.dataset,
        "command": "cnnbench run",
        "profile": "scale",
    }
    (folder / ENVIRONMENT).write_bytes(msgspec.json.encode(surroundings))


def _reconcile_ms(folder: Path, ready: Ready, recorded: list[Record]) -> list[float]:
    """Return how long it takes, by run, to see that a store has all that the journal has."""
    tracker = open_store(None, folder / "store")
    log = tracker.sweep(
        "scale", profile="scale", environment=ready.environment, dataset=ready.dataset
    )
    cells = zip(range(NUM_RUNS), cycle(recorded), strict=False)
    records = [_renamed(record, seed) for seed, record in cells]
    for record in records:
        log.log(record)
    seconds = _seconds(lambda: log.reconcile(records))
    tracker.close()
    return [1e3 * one / NUM_RUNS for one in seconds]


def _renamed(record: Record, seed: int) -> Record:
    cell = replace(record.cell, seed=seed)
    return replace(record, cell=cell, cell_hash=cell.hash)


if __name__ == "__main__":
    click.echo(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))))
