"""What a larger batch buys, up to where it no longer fits."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import altair as alt

from cnnbench.analysis.best import is_measured
from cnnbench.report.charts import (
    CHECKPOINTING_DASHES,
    INK,
    MAX_TICKS,
    PRECISION_SHAPES,
    dash_legend,
    few_panels,
    figure,
    hollow_if_suspect,
    measured,
    panels,
    precision_scale,
    scale_of,
    spread,
)
from cnnbench.report.rows import one_line, other_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record
    from cnnbench.report.charts import Figure, Panel, Rows

MAX_BATCHES = 32


def throughput_over_batch_size(records: Sequence[Record]) -> Figure | None:
    """Return images per second over batch size; `None` where only one size was measured.

    Seeds of one setting are one point, their median; its bar spans their intervals.
    """
    rows = _by_setting([measured(record) for record in records if is_measured(record)])
    rows, left_out = few_panels(rows)
    shown = {row["panel"] for row in rows}
    full = [row for r in records if (row := _out_of_memory(r)) and row["panel"] in shown]
    batches = {row["batch"] for row in (*rows, *full)}
    if len(batches) < 2:  # noqa: PLR2004 - a curve takes two points
        return None
    chosen, thinning = _few(batches)
    rows = [row for row in rows if row["batch"] in chosen]
    full = [row for row in full if row["batch"] in chosen]
    caption = "Bars are 95 % intervals of the median window."
    if any(len(row["cells"]) > 1 for row in rows):
        caption = "Medians over seeds; bars span the 95 % intervals of all of them."
    if full:
        caption += " A cross on the axis: out of memory."
    return figure(
        "throughput-batch",
        "What a larger batch buys",
        caption + left_out + thinning,
        panels(rows, lambda group: _panel(group, rows, full)),
        records,
        rows=rows,
        full=full,
    )


def _panel(shown: Rows, rows: Rows, full: Rows) -> Panel:
    name = shown[0]["panel"]
    lost = [row["batch"] for row in full if row["panel"] == name]
    batches = sorted({*(row["batch"] for row in shown), *lost})
    x = alt.X(
        "batch:Q",
        title="batch size",
        scale=alt.Scale(type="log", base=2, nice=False, padding=18),
        axis=alt.Axis(values=spread(batches, MAX_TICKS), format="d", labelOverlap=True),
    )
    base = alt.Chart().encode(x=x, stroke=precision_scale(rows, alt.Stroke))
    rate = alt.Y("rate:Q", title="images per second", scale=alt.Scale(zero=True))
    dash = alt.StrokeDash(
        "checkpointing:N",
        title="checkpoint",
        scale=scale_of(CHECKPOINTING_DASHES, rows, "checkpointing"),
        legend=dash_legend(),
    )
    lines = base.mark_line(strokeWidth=1.8).encode(y=rate, strokeDash=dash)
    bars = base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    points = base.mark_point(size=34, strokeWidth=1.8, opacity=1).encode(
        y=rate,
        fill=precision_scale(rows, alt.Fill),
        fillOpacity=hollow_if_suspect(1),
        shape=alt.Shape("precision:N", scale=scale_of(PRECISION_SHAPES, rows, "precision")),
    )
    layers = [lines, bars, points]
    if lost:
        only = alt.FieldEqualPredicate(field="panel", equal=name)
        crosses = alt.Chart(alt.NamedData(name="full")).transform_filter(only)
        layers.append(
            crosses.mark_text(text="✕", color=INK, fontSize=13, dy=-7).encode(x=x, y=alt.Y(datum=0))
        )
    return alt.layer(*layers)


def _by_setting(rows: Rows) -> Rows:
    """Return one row for the seeds of a setting; `cell` is the hash where there is only one."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        key = (row["curve"], row["precision"], row["checkpointing"], row["batch"])
        groups.setdefault(key, []).append(row)
    return [
        {
            "cells": [row["cell"] for row in group],
            "panel": curve,
            "precision": precision,
            "checkpointing": checkpointing,
            "batch": batch,
            "rate": statistics.median(row["rate"] for row in group),
            "low": min(row["low"] for row in group),
            "high": max(row["high"] for row in group),
            "suspect": all(row["suspect"] for row in group),
        }
        for (curve, precision, checkpointing, batch), group in groups.items()
    ]


def _out_of_memory(record: Record) -> dict[str, Any] | None:
    if record.status != "out_of_memory":
        return None
    cell = record.cell
    return {
        "cell": record.cell_hash,
        "panel": ", ".join([one_line(cell.architecture), *other_settings(cell)]),
        "precision": cell.precision,
        "checkpointing": cell.checkpointing,
        "batch": cell.batch_size,
    }


def _few(batches: set[int]) -> tuple[set[int], str]:
    """Return at most so many batch sizes, evenly chosen, and a sentence where some are left out."""
    ordered = sorted(batches)
    if len(ordered) <= MAX_BATCHES:
        return batches, ""
    last = len(ordered) - 1
    chosen = {ordered[round(n * last / (MAX_BATCHES - 1))] for n in range(MAX_BATCHES)}
    return chosen, f" {len(chosen)} of {len(ordered):,} batch sizes are drawn; the table has all."
