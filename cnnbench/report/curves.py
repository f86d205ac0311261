"""How accuracy grows with training: one line a setting, its seeds as a band."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import altair as alt

from cnnbench.analysis.settings import setting_key
from cnnbench.report.charts import (
    PRECISION_COLOURS,
    dash_legend,
    few_panels,
    figure,
    grouped,
    panels,
    precision_scale,
)
from cnnbench.report.rows import is_accuracy_meaningful, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record
    from cnnbench.report.charts import Figure, Panel, Rows

BATCH_DASHES = ([1, 0], [7, 3], [2, 3], [7, 3, 2, 3])
MAX_CURVES = 16


def accuracy_by_epoch(records: Sequence[Record]) -> Figure | None:
    """Return validation accuracy by epoch, the best epoch marked; `None` where nothing was trained.

    Seeds of one setting are one line, their median, in a band from the lowest to the highest. Diverged
    cells claim no accuracy, and where accuracy says nothing it is not drawn.
    """
    settings: dict[Any, list[Record]] = {}
    for record in records:
        if is_accuracy_meaningful(record) and record.fit and record.status != "diverged":
            settings.setdefault(setting_key(record.cell), []).append(record)
    rows, left_out = few_panels([row for group in settings.values() for row in _curve(group)])
    rows, thinning = _few_curves(rows)
    batches = sorted({row["batch"] for row in rows})
    has_bands = any(row["low"] < row["high"] for row in rows)
    caption = "A dot marks each run's best epoch."
    if has_bands:
        caption = (
            "Lines are medians over seeds, bands span all of them; a dot marks the best epoch."
        )
    return figure(
        "accuracy-epoch",
        "How accuracy grows with training",
        caption + left_out + thinning,
        panels(rows, lambda shown: _panel(shown, rows, batches, has_bands=has_bands)),
        records,
        rows=rows,
    )


def _panel(shown: Rows, rows: Rows, batches: list[int], *, has_bands: bool) -> Panel:
    last = max(row["epoch"] for row in shown)
    base = alt.Chart().encode(
        x=alt.X(
            "epoch:Q",
            axis=alt.Axis(format="d", values=_whole_ticks(last)),
            scale=alt.Scale(domain=[1, max(last, 2)], nice=False),
        ),
        detail="setting:N",
    )
    y = alt.Y(
        "accuracy:Q",
        title="validation accuracy",
        axis=alt.Axis(format="%"),
        scale=alt.Scale(zero=False, nice=True),
    )
    lines = base.mark_line(strokeWidth=1.6, strokeOpacity=0.85).encode(
        y=y, stroke=precision_scale(rows, alt.Stroke)
    )
    if 1 < len(batches) <= len(BATCH_DASHES):
        scale = alt.Scale(domain=batches, range=BATCH_DASHES[: len(batches)])
        dash = alt.StrokeDash("batch:O", title="batch size", scale=scale, legend=dash_legend())
        lines = lines.encode(strokeDash=dash)
    dots = base.mark_point(size=40, strokeWidth=1.8, fillOpacity=0.5, opacity=1).encode(
        y=y, stroke=precision_scale(rows, alt.Stroke), fill=precision_scale(rows, alt.Fill)
    )
    layers = [lines, dots.transform_filter("datum.best")]
    if has_bands:
        layers = [*(_band(base, precision) for precision in grouped(shown, "precision")), *layers]
    return alt.layer(*layers)


def _band(base: alt.Chart, precision: str) -> alt.Chart:
    """Return the band of one precision, which the lines' legend explains."""
    only = alt.FieldEqualPredicate(field="precision", equal=precision)
    band: alt.Chart = (
        base.transform_filter(only)
        .mark_area(opacity=0.16, color=PRECISION_COLOURS[precision])
        .encode(y=alt.Y("low:Q", title="validation accuracy"), y2="high:Q")
    )
    return band


def _whole_ticks(last: int) -> list[int]:
    """Return at most ten whole numbers from 1 to `last`."""
    step = -(-last // 10)
    return list(range(step, last + 1, step)) if step > 1 else list(range(1, last + 1))


def _curve(group: list[Record]) -> Rows:
    """Return one datum an epoch for the records of one setting; shorter runs end earlier."""
    cell = group[0].cell
    fits = [record.fit for record in group if record.fit and record.fit.epochs]
    rows: Rows = []
    for number in range(max((len(fit.epochs) for fit in fits), default=0)):
        values = [f.epochs[number].val_accuracy for f in fits if number < len(f.epochs)]
        rows.append(
            {
                "panel": one_line(cell.architecture),
                "cells": [record.cell_hash for record in group],
                "setting": group[0].cell_hash,
                "precision": cell.precision,
                "batch": cell.batch_size,
                "epoch": number + 1,
                "accuracy": statistics.median(values),
                "low": min(values),
                "high": max(values),
                "best": False,
            }
        )
    if rows:
        max(rows, key=lambda row: row["accuracy"])["best"] = True
    return rows


def _few_curves(rows: Rows) -> tuple[Rows, str]:
    """Return the rows of at most so many curves a panel, evenly chosen."""
    kept: set[str] = set()
    total = 0
    for group in grouped(rows, "panel").values():
        names = list(grouped(group, "setting"))
        total += len(names)
        step = -(-len(names) // MAX_CURVES)
        kept.update(names[::step])
    if len(kept) == total:
        return rows, ""
    said = f" {len(kept):,} of {total:,} curves are drawn, evenly chosen; the table has all."
    return [row for row in rows if row["setting"] in kept], said
