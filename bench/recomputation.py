"""What each granularity of checkpointing saves and costs, beside a plain step and by turns with it."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bench.figures import Figure, figure, ratio_figure
from bench.trust import TIMING, job_of, words_of
from cnnbench.analysis.paired import compare_pairs
from cnnbench.cell import CHECKPOINTINGS, Cell, Recipe
from cnnbench.noise import CPU_CELL
from cnnbench.sweep.interleave import interleaved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.trust import Bench
    from cnnbench.record import Record

NUM_PAIRS = 4
CPU_MODELS = (("resnet(width=16,depth=1)", 64), ("mbconv_net(width=0.25,depth=0.25)", 64))
CUDA_MODELS = (("resnet", 256), ("mbconv_net", 256))


def recomputation(bench: Bench) -> list[Figure]:
    """Return, for each model and granularity, the rate and the peak memory over those of a plain step."""
    on_cuda = bench.ready.environment.device_type == "cuda"
    figures = []
    for architecture, batch_size in CUDA_MODELS if on_cuda else CPU_MODELS:
        plain = _cell(architecture, batch_size)
        for granularity in CHECKPOINTINGS[1:]:
            figures += _beside(bench, plain, replace(plain, checkpointing=granularity))
    return figures


def _cell(architecture: str, batch_size: int) -> Cell:
    return Cell(
        architecture=architecture,
        batch_size=batch_size,
        memory_format="channels_last",
        dataset=CPU_CELL.dataset,
        recipe=Recipe(weights="none", augmentation="none"),
        timing=TIMING,
    )


def _beside(bench: Bench, plain: Cell, ours: Cell) -> list[Figure]:
    jobs = (job_of(bench.ready, plain), job_of(bench.ready, ours))
    runs = list(
        interleaved(
            bench.workers, jobs, bench.ready.environment, num_pairs=NUM_PAIRS, interchangeable=True
        )
    )
    found = compare_pairs(runs, delta=bench.delta)
    click.echo(f"  {ours.name} over the plain step: {words_of(found)}", err=True)
    peaks = [[_peak(record) for record in arm] for arm in zip(*runs, strict=True)]
    text = f"{ours.name} (plain: {_mib(peaks[0])}, so: {_mib(peaks[1])})"
    return [
        ratio_figure(
            "checkpointing_rate",
            f"{ours.name}: images/s over those of a plain step",
            found,
            device=bench.device,
        ),
        figure(
            "checkpointing_memory",
            f"{text}: peak memory over that of a plain step",
            [one / other for other, one in zip(*peaks, strict=True)],
            "x",
            device=bench.device,
        ),
    ]


def _peak(record: Record) -> int:
    if record.memory is None or record.memory.peak_allocated_bytes is None:
        msg = f"{record.cell.name} was not measured: {record.error}"
        raise RuntimeError(msg)
    return record.memory.peak_allocated_bytes


def _mib(peaks: Sequence[int]) -> str:
    return f"{statistics.median(peaks) / 2**20:.1f} MiB"
