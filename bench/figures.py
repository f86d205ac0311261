"""A measured figure, and the CSV of them that readers and scripts look at."""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from cnnbench.stats import median_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: its median over repeats, the 95 % interval of that, and what it should be.

    `target` and `met` are `None` where nothing is asked of it.
    """

    name: str
    workload: str
    device: str
    value: float
    low: float
    high: float
    unit: str
    target: float | None = None
    met: bool | None = None


def figure(
    name: str,
    workload: str,
    values: Sequence[float],
    unit: str,
    *,
    device: str,
    at_most: float | None = None,
) -> Figure:
    """Return the figure of repeated measurements; `at_most` is its target."""
    low, high = median_interval(values)
    value = statistics.median(values)
    return Figure(
        name=name,
        workload=workload,
        device=device,
        value=value,
        low=low,
        high=high,
        unit=unit,
        target=at_most,
        met=None if at_most is None else value <= at_most,
    )


def write_figures(figures: Iterable[Figure], path: Path) -> None:
    """Write one row a figure; what is unknown stays empty."""
    names = [field.name for field in fields(Figure)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(one, name) for name in names] for one in figures)
    partial.replace(path)


def describe(one: Figure) -> str:
    """Return the figure as a line of text."""
    text = f"{one.name:<28} {one.value:>9.3g} {one.unit:<3} [{one.low:.3g}, {one.high:.3g}]"
    if one.target is not None:
        text += f"  target <= {one.target:g}: {'met' if one.met else 'MISSED'}"
    return f"{text}  ({one.workload})"
