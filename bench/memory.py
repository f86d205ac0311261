"""Forecast peak memory against what the profiler sees of a step's allocations, for every kind of model.

Run by `make bench-harness ARGS="--only memory"`. Forecast and measurement share no code but the step
itself: the one adds up fake tensors, the other is torch's profiler in a worker that runs real ones.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from bench.figures import Figure
from bench.preflight import preflight
from bench.trust import job_of
from cnnbench.architectures import ARCHITECTURES
from cnnbench.cell import Cell, Recipe
from cnnbench.forecast import questions
from cnnbench.job import ForecastJob
from cnnbench.max_batch import TRY_TIMING
from cnnbench.record import MIB
from cnnbench.sweep.foresight import foresee
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.run import check, run_job
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cnnbench.job import Ready
    from cnnbench.sweep.workers import Launcher

MAX_ERROR_PERCENT = 10.0
BATCH_SIZE = 32
PRECISIONS = ("fp32", "bf16")
CHECKPOINTINGS = ("none", "stage", "block", "activations")
MEMORY_FORMATS = ("nchw", "channels_last")


def forecasts(folder: Path) -> list[Figure]:
    """Return how far each forecast is off, writing only into `folder`: some minutes."""
    with launcher("forkserver") as workers:
        ready = check(workers, preflight("simple_cnn(width=4)", "digits", folder))
        figures = []
        for architecture in ARCHITECTURES:
            cells = [resolve(cell, ready.dataset) for cell in _cells(architecture)]
            figures += _compare(workers, ready, cells)
        return figures


def _cells(architecture: str) -> list[Cell]:
    recipe = Recipe(weights="none", augmentation="none")
    return [
        Cell(
            architecture=architecture,
            precision=precision,
            batch_size=BATCH_SIZE,
            checkpointing=checkpointing,
            memory_format=memory_format,
            recipe=recipe,
            timing=TRY_TIMING,
        )
        for precision, checkpointing, memory_format in itertools.product(
            PRECISIONS, CHECKPOINTINGS, MEMORY_FORMATS
        )
    ]


def _compare(workers: Launcher, ready: Ready, cells: Sequence[Cell]) -> list[Figure]:
    """Return a figure for each of `cells`, which are of one architecture."""
    data = ready.dataset
    asked = ForecastJob(
        questions=questions(cells), num_classes=data.num_classes, image_size=data.image_size
    )
    outlooks = {outlook.setting: outlook for outlook in foresee(workers, [asked])}
    figures = []
    for cell, question in zip(cells, asked.questions, strict=True):
        outlook = outlooks[question.setting]
        forecast = outlook.at(cell.batch_size)
        if forecast is None:
            msg = f"{cell.name} was not forecast: {outlook.reason}"
            raise RuntimeError(msg)
        figures.append(_figure(cell, forecast.total, _measure(workers, ready, cell), ready))
    return figures


def _measure(workers: Launcher, ready: Ready, cell: Cell) -> int:
    job = job_of(ready, cell)
    record = run_job(workers, job, ready.environment)
    if record.memory is None or record.memory.peak_allocated_bytes is None:
        msg = f"{cell.name} was not measured: {record.error}"
        raise RuntimeError(msg)
    return record.memory.peak_allocated_bytes


def _figure(cell: Cell, forecast: int, measured: int, ready: Ready) -> Figure:
    error = 100 * (forecast / measured - 1)
    return Figure(
        name=f"forecast_{cell.name}",
        workload=f"forecast {forecast / MIB:.1f} MiB, measured {measured / MIB:.1f} MiB",
        device=ready.environment.device,
        value=error,
        low=error,
        high=error,
        unit="%",
        target=MAX_ERROR_PERCENT,
        met=abs(error) <= MAX_ERROR_PERCENT,
    )
