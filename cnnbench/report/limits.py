"""What bounds a step: the roofline plot, and memory by part, with what was forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cnnbench.analysis.best import is_measured
from cnnbench.cell import CHECKPOINTINGS, PRECISIONS
from cnnbench.record import MIB
from cnnbench.report.charts import (
    INK,
    MAX_PANELS,
    batch_size_area,
    checkpointing_shape,
    few_panels,
    figure,
    grouped,
    hollow_if_suspect,
    log_x,
    measured,
    panel_title,
    panels,
    precision_scale,
    scale_of,
    thinned,
)
from cnnbench.report.rows import one_line, other_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record
    from cnnbench.report.charts import Figure, Panel, Rows

GIGA = 1e9
MAX_BARS = 16
BAR_WIDTH, BAR_HEIGHT = 330, 24
BYTES_OF_FLOAT = 4
# Copies of the trained parameters that an optimizer keeps.
OPTIMIZER_STATES = {"adam": 2, "adamw": 2, "sgd": 1}
# Okabe and Ito's, and told apart by their order as well.
PART_COLOURS = {
    "parameters": "#0072B2",
    "gradients": "#009E73",
    "optimizer": "#E69F00",
    "activations and the rest": "#BFC7D1",
}


def roofline_plot(records: Sequence[Record]) -> Figure | None:
    """Return operations a second against operations per byte, under the measured roofs.

    `None` where no peaks were measured. Recomputed operations count: they are executed.
    """
    rows = [row for record in records if is_measured(record) and (row := _intensity(record))]
    rows, left_out = few_panels(rows)
    roofs = _roofs(rows)
    rows, chosen = thinned(rows, "extreme")

    def panel(shown: Rows) -> Panel:
        name = shown[0]["panel"]
        ends = [roof for roof in roofs if roof["panel"] == name]
        x = log_x(
            "intensity",
            [*(r["intensity"] for r in shown), *(r["intensity"] for r in ends)],
            title="operations per byte (FLOP / byte)",
        )
        y = alt.Y(
            "speed:Q",
            title="GFLOP per second",
            scale=alt.Scale(type="log", nice=True),
            axis=alt.Axis(format="~s", tickCount=5),
        )
        only = alt.FieldEqualPredicate(field="panel", equal=name)
        lines = (
            alt.Chart(alt.NamedData(name="roofs"))
            .transform_filter(only)
            .mark_line(strokeWidth=1.6)
            .encode(x=x, y=y, stroke=precision_scale(rows, alt.Stroke))
        )
        points = (
            alt.Chart()
            .mark_point(strokeWidth=2, opacity=1)
            .encode(
                x=x,
                y=y,
                stroke=precision_scale(rows, alt.Stroke),
                fill=precision_scale(rows, alt.Fill),
                fillOpacity=hollow_if_suspect(0.5),
                shape=checkpointing_shape(rows),
                size=batch_size_area(rows),
            )
        )
        return alt.layer(lines, points)

    return figure(
        "roofline",
        "How near the device's limits",
        "The lines are what this device did at most in a large copy (slope) and in large products"
        f" (flat), by precision. A step that fuses operators may lie above.{left_out}{chosen}",
        panels(rows, panel),
        records,
        rows=rows,
        roofs=roofs,
    )


def _intensity(record: Record) -> dict[str, Any] | None:
    roofline, profile = record.roofline, record.profile
    if roofline is None or profile is None or not roofline.hardware_flops:
        return None
    num_bytes = sum(kind.bytes for kind in roofline.operators)
    if not num_bytes:
        return None
    return {
        **measured(record),
        "intensity": roofline.hardware_flops / num_bytes,
        "speed": roofline.hardware_flops / profile.median_step_seconds / GIGA,
        "peak_speed": roofline.peak_flops_per_second / GIGA,
        "bandwidth": roofline.peak_bytes_per_second / GIGA,
        "extreme": False,
    }


def _roofs(rows: Rows) -> Rows:
    """Return the corners of each panel's roofs: slope, ridge, and the flat part up to the last cell."""
    found: Rows = []
    for name, shown in grouped(rows, "panel").items():
        max(shown, key=lambda row: row["speed"])["extreme"] = True
        first, last = (end(row["intensity"] for row in shown) for end in (min, max))
        for precision, group in grouped(shown, "precision").items():
            peak = max(row["peak_speed"] for row in group)
            bandwidth = max(row["bandwidth"] for row in group)
            ridge = peak / bandwidth
            left, right = min(first, ridge) / 1.5, max(last, ridge) * 1.5
            for intensity in (left, ridge, right):
                found.append(
                    {
                        "panel": name,
                        "precision": precision,
                        "intensity": intensity,
                        "speed": min(peak, bandwidth * intensity),
                    }
                )
    return found


def memory_by_part(records: Sequence[Record]) -> Figure | None:
    """Return the peak of a step by its parts, at the largest batch of each architecture.

    Parameters, gradients and the optimizer's states follow from the model; the rest of the measured peak
    is activations, the batch and workspace. `None` where no peak was measured.
    """
    rows: Rows = []
    forecasts: Rows = []
    for record in _largest_batches(records):
        made, forecast = _parts(record)
        rows += made
        forecasts += forecast
    if not rows:
        return None
    charts = [
        _bars(shown, rows, has_forecasts=bool(forecasts))
        for shown in grouped(rows, "panel").values()
    ]
    caption = (
        "Peak of a training step at the largest batch that every way was measured at. Parameters,"
        " gradients and optimizer follow from the model; the rest of the measured peak is"
        " activations, batch and workspace."
    )
    if forecasts:
        caption += " The mark is what was forecast."
    return figure(
        "memory-parts",
        "Where the memory goes",
        caption,
        alt.concat(*charts, columns=min(2, len(charts)), spacing=28),
        records,
        rows=rows,
        forecasts=forecasts,
    )


def _largest_batches(records: Sequence[Record]) -> list[Record]:
    """Return for each architecture its cells at the batch that most settings have, of those the largest."""
    by_name: dict[str, dict[int, dict[str, Record]]] = {}
    for record in records:
        known = record.metrics().get("peak_allocated_mib") is not None
        if record.status == "completed" and known and record.num_parameters:
            batches = by_name.setdefault(record.cell.architecture, {})
            group = batches.setdefault(record.cell.batch_size, {})
            group.setdefault(_setting(record), record)  # seeds need the same
    kept = []
    for batches in list(by_name.values())[:MAX_PANELS]:
        size = max(batches, key=lambda batch: (len(batches[batch]), batch))
        shown = sorted(batches[size].values(), key=_order)
        kept += shown[:MAX_BARS]
    return kept


def _order(record: Record) -> tuple[int, int, str]:
    cell = record.cell
    return (
        PRECISIONS.index(cell.precision),
        CHECKPOINTINGS.index(cell.checkpointing),
        _setting(record),
    )


def _setting(record: Record) -> str:
    cell = record.cell
    words = [cell.precision]
    if cell.checkpointing != "none":
        words.append(f"checkpoint {cell.checkpointing}")
    return ", ".join([*words, *other_settings(cell)])


def _parts(record: Record) -> tuple[Rows, Rows]:
    """Return a datum for each part of the record's peak, and one for its forecast where there is one."""
    found, cell = record.metrics(), record.cell
    peak = found["peak_allocated_mib"]
    trained = record.num_trainable_parameters or record.num_parameters or 0
    float_mib = BYTES_OF_FLOAT / MIB
    parts = {
        "parameters": (record.num_parameters or 0) * float_mib,
        "gradients": trained * float_mib,
        "optimizer": trained * float_mib * OPTIMIZER_STATES[cell.recipe.optimizer],
    }
    known = {
        "cell": record.cell_hash,
        "panel": one_line(cell.architecture),
        "batch": cell.batch_size,
        "setting": _setting(record),
    }
    rest = max(peak - sum(parts.values()), 0.0)
    parts["activations and the rest"] = rest
    rows, start = [], 0.0
    for number, (part, size) in enumerate(parts.items()):
        end = min(start + size, peak)
        rows.append(
            {**known, "part": part, "number": number, "start": start, "end": end, "peak": peak}
        )
        start = end
    forecast = found.get("forecast_mib")
    return rows, [] if forecast is None else [{**known, "forecast": forecast}]


def _bars(shown: Rows, rows: Rows, *, has_forecasts: bool) -> Panel:
    name = shown[0]["panel"]
    title = f"peak memory of a step (MiB), batch {shown[0]['batch']:,}"
    only = alt.FieldEqualPredicate(field="panel", equal=name)
    names = list(grouped(shown, "setting"))
    y = alt.Y("setting:N", title=None, sort=names, axis=alt.Axis(ticks=False, domain=False))
    bars = (
        alt.Chart(alt.NamedData(name="rows"))
        .transform_filter(only)
        .mark_bar(height=15, stroke=INK, strokeWidth=0.4)
        .encode(
            x=alt.X("start:Q", title=title),
            x2="end:Q",
            y=y,
            fill=alt.Fill(
                "part:N",
                title=None,
                scale=scale_of(PART_COLOURS, rows, "part"),
                legend=alt.Legend(orient="bottom", columns=4),
            ),
        )
    )
    layers: list[Any] = [bars]
    if has_forecasts:
        marks = alt.Chart(alt.NamedData(name="forecasts")).transform_filter(only)
        layers.append(
            marks.mark_tick(thickness=2.4, height=21, color=INK, opacity=1).encode(
                x=alt.X("forecast:Q", title=title), y=y
            )
        )
    return alt.layer(*layers).properties(
        width=BAR_WIDTH, height=BAR_HEIGHT * len(names), title=panel_title(name)
    )
