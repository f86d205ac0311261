"""Whether a recommendation keeps its promise: its snippet, run as printed, against the cell it is from.

A small sweep is measured, settings are recommended from it, and each snippet and the recommended cell take
turns, window by window. Run by `make bench-harness ARGS="--only recommend"`.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bench import trust
from bench.figures import Figure, ratio_figure
from bench.loop_launcher import LoopLauncher
from cnnbench.analysis.paired import compare_pairs
from cnnbench.analysis.recommend import recommend
from cnnbench.analysis.settings import OBJECTIVES, memory_of
from cnnbench.analysis.snippet import snippet
from cnnbench.cell import Cell, Recipe
from cnnbench.job import Request
from cnnbench.noise import CPU_CELL
from cnnbench.sweep.interleave import interleaved

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.record import Record

NUM_PAIRS = 8
MAX_SHORTFALL = 0.03
ARCHITECTURES = ("simple_cnn", "resnet(width=16,depth=1)")
# Where the memory allows no more than the leanest setting: then blocks are recomputed.
TIGHT = "resnet(width=16,depth=1)"


class Snippets(LoopLauncher):
    """Runs a cell's snippet in place of a worker."""

    def __init__(self, folder: Path) -> None:
        """Write the programs into `folder`."""
        self._folder = folder

    def command(self, cell: Cell) -> list[str]:
        """Return what runs the cell's program, and times its steps."""
        path = self._folder / f"{cell.hash}.py"
        path.write_text(snippet(cell), encoding="utf-8")
        return [sys.executable, "-m", "bench.snippet_loop", str(path)]


def promises(bench: trust.Bench, folder: Path) -> list[Figure]:
    """Return the images per second of snippets over those that the harness measures, by turns."""
    figures = []
    for name in ARCHITECTURES:
        records = [_measured(bench, cell) for cell in _cells(name)]
        figures.append(_promise(bench, folder, records, None))
        if name == TIGHT:
            needs = [found[1] for record in records if (found := memory_of(record))]
            figures.append(_promise(bench, folder, records, min(needs)))
    return figures


def _cells(architecture: str) -> list[Cell]:
    axes = itertools.product(("fp32", "bf16"), (32, 64), ("none", "block"))
    return [
        Cell(
            architecture=architecture,
            precision=precision,
            batch_size=batch_size,
            checkpointing=checkpointing,
            memory_format="channels_last",
            dataset=CPU_CELL.dataset,
            recipe=Recipe(weights="none", augmentation="none"),
            timing=trust.TIMING,
        )
        for precision, batch_size, checkpointing in axes
    ]


def _measured(bench: trust.Bench, cell: Cell) -> Record:
    job = trust.job_of(bench.ready, cell)
    workers, _ = bench.workers
    outcome = workers.run(Request(cell=job), on_progress=lambda _: None, timeout_seconds=None)
    if outcome.answer is None or outcome.answer.record is None:
        msg = f"the cell failed: {outcome.death}\n{outcome.stderr_tail}"
        raise RuntimeError(msg)
    return outcome.answer.record


def _promise(
    bench: trust.Bench, folder: Path, records: list[Record], budget_mib: float | None
) -> Figure:
    found = recommend(
        records, records[0].cell.architecture, OBJECTIVES["throughput"], budget_mib=budget_mib
    )
    cell = replace(found.best.cell, timing=replace(trust.TIMING, limit_seconds=10.0))
    job = trust.job_of(bench.ready, cell)
    pairs = interleaved(
        (bench.workers[0], Snippets(folder)),
        (job, job),
        bench.ready.environment,
        num_pairs=NUM_PAIRS,
    )
    kept = compare_pairs(list(pairs), delta=bench.delta)
    click.echo(f"  snippet of {cell.name}: {trust.words_of(kept)}", err=True)
    return ratio_figure(
        "snippet_ratio",
        f"{cell.name}: images/s of the recommendation's snippet over those promised",
        kept,
        device=bench.device,
        at_least=1 - MAX_SHORTFALL,
    )
