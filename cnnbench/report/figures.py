"""All figures of a sweep, in the order in which a reader meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.report.charts import GRID, INK, LIGHTER, MUTED, PAPER, Figure, png, round_ticks
from cnnbench.report.curves import accuracy_by_epoch
from cnnbench.report.effects import each_at_its_best, effects_of_one_change
from cnnbench.report.frontiers import (
    accuracy_against_time,
    throughput_against_energy,
    throughput_against_memory,
)
from cnnbench.report.limits import memory_by_part, roofline_plot
from cnnbench.report.scaling import throughput_over_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnbench.record import Record

__all__ = [
    "FIGURES",
    "FIGURE_NAMES",
    "GRID",
    "INK",
    "LIGHTER",
    "MUTED",
    "PAPER",
    "Figure",
    "accuracy_against_time",
    "accuracy_by_epoch",
    "each_at_its_best",
    "effects_of_one_change",
    "figures",
    "memory_by_part",
    "png",
    "roofline_plot",
    "round_ticks",
    "throughput_against_energy",
    "throughput_against_memory",
    "throughput_over_batch_size",
]

FIGURES: dict[str, Callable[[Sequence[Record]], Figure | None]] = {
    "throughput-memory": throughput_against_memory,
    "throughput-batch": throughput_over_batch_size,
    "one-change": effects_of_one_change,
    "each-best": each_at_its_best,
    "memory-parts": memory_by_part,
    "roofline": roofline_plot,
    "accuracy-epoch": accuracy_by_epoch,
    "accuracy-time": accuracy_against_time,
    "throughput-energy": throughput_against_energy,
}

FIGURE_NAMES = tuple(FIGURES)


def figures(records: Sequence[Record]) -> list[Figure]:
    """Return the figures that the records have data for."""
    made = (make(records) for make in FIGURES.values())
    return [figure for figure in made if figure is not None]
