"""How fast the step itself is: fed against not fed, bfloat16 against float32, and near the device's limit.

What feeding costs is measured window by window in one process, bfloat16 against float32 in pairs of
processes that take turns; roofline fractions are of cells one after the other, with peaks measured just
before. Run by `make bench-harness ARGS="--only speed"`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from bench.figures import figure, ratio_figure
from bench.preflight import preflight
from bench.side_by_side import by_turns
from bench.trust import TIMING, job_of, words_of
from cnnbench.analysis.paired import compare_pairs
from cnnbench.cell import Cell, Recipe
from cnnbench.job import PeaksJob
from cnnbench.stats import compare
from cnnbench.sweep.interleave import interleaved
from cnnbench.sweep.run import check, find_peaks, run_job

if TYPE_CHECKING:
    from bench.figures import Figure
    from bench.trust import Bench
    from cnnbench.record import Record
    from cnnbench.stats import Comparison

NUM_PAIRS = 8
NUM_CELLS = 3
MIN_FED = 0.97
SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A cell that is held against its roofline, and how near it is to come."""

    architecture: str
    precision: str
    batch_size: int
    at_least: float
    compile: str = "off"
    image_size: int = SIZE


CPU_FED = (("simple_cnn", 64), ("resnet(width=16,depth=1)", 64))
CUDA_FED = (("resnet", 512), ("mbconv_net", 512))
CPU_PRECISIONS = (("simple_cnn", 256, 1.7), ("mbconv_net(width=0.25,depth=0.25)", 64, None))
CUDA_PRECISIONS = (("resnet", 512, None), ("mbconv_net", 512, None))
CPU_LIMITS = (
    Limit(architecture="simple_cnn", precision="fp32", batch_size=64, at_least=0.65),
    Limit(architecture="resnet", precision="fp32", batch_size=32, at_least=0.85),
)
_RESNET50 = Limit(
    architecture="torchvision:resnet50",
    precision="bf16",
    batch_size=256,
    at_least=0.75,
    image_size=224,
)
CUDA_LIMITS = (
    _RESNET50,
    replace(_RESNET50, compile="default", at_least=0.95),
    Limit(architecture="mbconv_net", precision="bf16", batch_size=512, at_least=0.6),
)


def figures(bench: Bench) -> list[Figure]:
    """Return the ratios and the fractions, some ten minutes on two processors."""
    cuda = bench.ready.environment.device_type == "cuda"
    found = [_fed(bench, *one) for one in (CUDA_FED if cuda else CPU_FED)]
    found += [_halved(bench, *one) for one in (CUDA_PRECISIONS if cuda else CPU_PRECISIONS)]
    return found + [_near_the_limit(bench, one) for one in (CUDA_LIMITS if cuda else CPU_LIMITS)]


def _fed(bench: Bench, architecture: str, batch_size: int) -> Figure:
    """Compare training on fresh, augmented batches with training on one batch again and again."""
    cell = _cell(architecture, "bf16", batch_size, augmentation="flip+crop")
    pairs = by_turns(cell, num_processes=NUM_PAIRS, against="repeating")
    return _figure(
        bench,
        compare(pairs, delta=bench.delta),
        "fed_ratio",
        f"{cell.name}: images/s with fresh augmented batches over those with one batch for ever",
        at_least=MIN_FED,
    )


def _halved(bench: Bench, architecture: str, batch_size: int, at_least: float | None) -> Figure:
    plain, halved = (
        job_of(bench.ready, _cell(architecture, precision, batch_size))
        for precision in ("fp32", "bf16")
    )
    pairs = interleaved(
        bench.workers,
        (plain, halved),
        bench.ready.environment,
        num_pairs=NUM_PAIRS,
        interchangeable=True,
    )
    return _figure(
        bench,
        compare_pairs(list(pairs), delta=bench.delta),
        "bf16_ratio",
        f"{halved.cell.name}: images/s over those in fp32",
        at_least=at_least,
    )


def _figure(
    bench: Bench, found: Comparison, name: str, workload: str, *, at_least: float | None
) -> Figure:
    click.echo(f"  {workload}: {words_of(found)}", err=True)
    return ratio_figure(name, workload, found, device=bench.device, at_least=at_least)


def _near_the_limit(bench: Bench, limit: Limit) -> Figure:
    cell = replace(
        _cell(limit.architecture, limit.precision, limit.batch_size, image_size=limit.image_size),
        compile=limit.compile,
    )
    asked = preflight(cell.architecture, cell.dataset, bench.folder)
    job = job_of(check(bench.workers[0], asked), cell)
    question = PeaksJob(
        device=job.device, device_uuid=job.device_uuid, precisions=(limit.precision,)
    )
    fractions = []
    for _ in range(NUM_CELLS):
        peaks = find_peaks(bench.workers[0], question)
        record = run_job(bench.workers[0], replace(job, peaks=peaks), bench.ready.environment)
        fractions.append(_fraction(record))
    return figure(
        "roofline_fraction",
        f"{cell.name}: the least time that its operators could take one by one, over that taken",
        fractions,
        "x",
        device=bench.device,
        at_least=limit.at_least,
    )


def _fraction(record: Record) -> float:
    fraction = record.row()["roofline_fraction"]
    if fraction is None:
        msg = f"{record.cell.name} has no roofline: {record.error or record.unknowns}"
        raise RuntimeError(msg)
    return float(fraction)


def _cell(
    architecture: str,
    precision: str,
    batch_size: int,
    *,
    augmentation: str = "none",
    image_size: int = SIZE,
) -> Cell:
    return Cell(
        architecture=architecture,
        precision=precision,
        batch_size=batch_size,
        memory_format="channels_last",
        dataset=f"synthetic(image_size={image_size},num_classes=10)",
        recipe=Recipe(weights="none", augmentation=augmentation),
        timing=replace(TIMING, limit_seconds=10.0),
    )
