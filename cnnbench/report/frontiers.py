"""What is given for what: speed against memory, against energy, and accuracy against time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cnnbench.analysis.best import best_settings, is_measured
from cnnbench.analysis.pareto import frontier
from cnnbench.report.charts import (
    INK,
    MUTED,
    batch_size_area,
    checkpointing_shape,
    few_panels,
    figure,
    grouped,
    hollow_if_suspect,
    log_x,
    measured,
    panels,
    precision_scale,
    thinned,
)
from cnnbench.report.rows import is_accuracy_meaningful, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record
    from cnnbench.report.charts import Figure, Panel, Rows

LINE_SENTENCE = "On the dashed line nothing beats a setting in both."


def throughput_against_memory(records: Sequence[Record]) -> Figure | None:
    """Return images per second against peak memory, by architecture; `None` without data."""
    rows = [row for r in records if is_measured(r) and (row := measured(r))["peak"]]
    return _tradeoff(
        "throughput-memory",
        "How much speed for how much memory",
        "Higher is faster, further left needs less memory. The ring marks the fastest setting.",
        _with_best(rows, records),
        records,
        x=("peak", "peak memory of a step (MiB)"),
        y=alt.Y("rate:Q", title="images per second"),
    )


def throughput_against_energy(records: Sequence[Record]) -> Figure | None:
    """Return images per second against energy, by architecture; `None` where none was measured."""
    rows = []
    for record in records:
        joules = record.metrics().get("joules_per_image") if is_measured(record) else None
        if joules:
            rows.append({**measured(record), "joules": joules})
    return _tradeoff(
        "throughput-energy",
        "How much speed for how much energy",
        "Higher is faster, further left takes less energy, the idle draw included. The ring marks"
        " the fastest setting.",
        _with_best(rows, records),
        records,
        x=("joules", "energy (joules per image)"),
        y=alt.Y("rate:Q", title="images per second"),
    )


def accuracy_against_time(records: Sequence[Record]) -> Figure | None:
    """Return the best validation accuracy against the training time that it took; `None` without data."""
    rows = [row for record in records if (row := _trained(record))]
    for group in grouped(rows, "panel").values():
        top = max(group, key=lambda row: (row["accuracy"], -row["seconds"]))
        for row in group:
            row["best"] = row is top
    return _tradeoff(
        "accuracy-time",
        "How much accuracy for how much time",
        "Of each training run the best epoch, and the training time up to its end. The ring marks"
        " the highest accuracy, of equals the quickest.",
        rows,
        records,
        x=("seconds", "training time (s), validation left out"),
        y=alt.Y(
            "accuracy:Q",
            title="best validation accuracy",
            axis=alt.Axis(format="%"),
            scale=alt.Scale(zero=False, nice=True),
        ),
        gain="accuracy",
    )


def _with_best(rows: Rows, records: Sequence[Record]) -> Rows:
    fastest = {best.record.cell_hash for best in best_settings(records).values()}
    return [{**row, "best": row["cell"] in fastest} for row in rows]


def _trained(record: Record) -> dict[str, Any] | None:
    fit = record.fit
    if fit is None or fit.best is None or record.status != "completed":
        return None
    seconds = sum(e.train_seconds for e in fit.epochs[: fit.epochs.index(fit.best) + 1])
    if not (is_accuracy_meaningful(record) and seconds > 0):
        return None
    cell = record.cell
    return {
        "cell": record.cell_hash,
        "panel": one_line(cell.architecture),
        "accuracy": fit.best.val_accuracy,
        "seconds": seconds,
        "precision": cell.precision,
        "checkpointing": cell.checkpointing,
        "batch": cell.batch_size,
        "suspect": record.validity == "suspect",
    }


def _tradeoff(
    name: str,
    title: str,
    caption: str,
    rows: Rows,
    records: Sequence[Record],
    *,
    x: tuple[str, str],
    y: alt.Y,
    gain: str = "rate",
) -> Figure | None:
    """Return points of cost `x` and gain, with the line of those that nothing beats."""
    cost, cost_title = x
    line = []
    rows, left_out = few_panels(rows)
    for row in rows:
        row["on_frontier"] = False
    for group in grouped(rows, "panel").values():
        for row in frontier(group, cost=lambda r: r[cost], gain=lambda r: r[gain]):
            row["on_frontier"] = True
            line.append({"panel": row["panel"], cost: row[cost], gain: row[gain]})
    rows, chosen = thinned(rows, "on_frontier")

    def panel(shown: Rows) -> Panel:
        along = log_x(cost, [row[cost] for row in shown], title=cost_title)
        base = alt.Chart().encode(x=along, y=y)
        only = alt.FieldEqualPredicate(field="panel", equal=shown[0]["panel"])
        beyond = (
            alt.Chart(alt.NamedData(name="frontier"))
            .transform_filter(only)
            .mark_line(interpolate="step-after", color=MUTED, strokeDash=[4, 3], strokeWidth=1.2)
            .encode(x=along, y=y)
        )
        ring = base.mark_point(size=430, stroke=INK, strokeWidth=1.4, opacity=1)
        points = base.mark_point(strokeWidth=2, opacity=1).encode(
            stroke=precision_scale(rows, alt.Stroke),
            fill=precision_scale(rows, alt.Fill),
            fillOpacity=hollow_if_suspect(0.5),
            shape=checkpointing_shape(rows),
            size=batch_size_area(rows),
        )
        return alt.layer(points, beyond, ring.transform_filter("datum.best"))

    said = f"{caption} {LINE_SENTENCE}{left_out}{chosen}"
    return figure(name, title, said, panels(rows, panel), records, rows=rows, frontier=line)
