"""A measured figure, and the CSV of them that readers and scripts look at."""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from scipy.stats import binomtest

from cnnbench.stats import median_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cnnbench.stats import Comparison


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
    at_least: float | None = None,
) -> Figure:
    """Return the figure of repeated measurements; `at_most` or `at_least` is its target."""
    low, high = median_interval(values)
    value = statistics.median(values)
    target = at_most if at_least is None else at_least
    met = None
    if target is not None:
        met = value <= target if at_least is None else value >= target
    return Figure(
        name=name,
        workload=workload,
        device=device,
        value=value,
        low=low,
        high=high,
        unit=unit,
        target=target,
        met=met,
    )


def ratio_figure(
    name: str, workload: str, found: Comparison, *, device: str, at_least: float | None = None
) -> Figure:
    """Return how fast a candidate was over its baseline.

    Raises:
        RuntimeError: the two could not be compared, and why.
    """
    if found.ratio is None or found.low is None or found.high is None:
        msg = f"{workload} cannot be judged: {found.reason}"
        raise RuntimeError(msg)
    return Figure(
        name=name,
        workload=workload,
        device=device,
        value=found.ratio,
        low=found.low,
        high=found.high,
        unit="x",
        target=at_least,
        met=None if at_least is None else found.ratio >= at_least,
    )


def count_figure(
    name: str,
    workload: str,
    value: int,
    *,
    device: str,
    total: int,
    at_most: int | None = None,
    at_least: int | None = None,
) -> Figure:
    """Return how many of `total` came out so, with the binomial interval of that (Wilson 1927)."""
    interval = binomtest(value, total).proportion_ci(method="wilson")
    target = at_most if at_least is None else at_least
    met = None
    if target is not None:
        met = value <= target if at_least is None else value >= target
    return Figure(
        name=name,
        workload=workload,
        device=device,
        value=value,
        low=total * interval.low,
        high=total * interval.high,
        unit=f"of {total}",
        target=target,
        met=met,
    )


def read_figures(path: Path) -> list[Figure]:
    """Return the figures that an earlier call wrote; none where it wrote nothing."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_parse(row) for row in csv.DictReader(file)]


def _parse(row: dict[str, str]) -> Figure:
    return Figure(
        name=row["name"],
        workload=row["workload"],
        device=row["device"],
        value=float(row["value"]),
        low=float(row["low"]),
        high=float(row["high"]),
        unit=row["unit"],
        target=float(row["target"]) if row["target"] else None,
        met=row["met"] == "True" if row["met"] else None,
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
        text += f"  target {one.target:g}: {'met' if one.met else 'MISSED'}"
    return f"{text}  ({one.workload})"
