"""Records as charts: speed against memory and over batch size, accuracy, one-factor effects.

Colours are Okabe and Ito's for the colour-blind (https://jfly.uni-koeln.de/color/); checkpointing
is told by shape and dash. altair describes the charts and vl-convert draws them without a browser:
no other module imports the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

from cnnbench.analysis.best import best_settings, is_measured
from cnnbench.analysis.effects import one_factor_effects
from cnnbench.report.rows import (
    devices_text,
    is_accuracy_meaningful,
    one_line,
    other_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cnnbench.analysis.effects import Effect
    from cnnbench.record import Record

    Rows = list[dict[str, Any]]
    Panel = alt.LayerChart | alt.FacetChart

FIGURE_NAMES = ("throughput-memory", "throughput-batch", "accuracy-epoch", "one-change")

INK = "#1b2330"
MUTED = "#5a6675"
GRID = "#e3e7ec"
PAPER = "#ffffff"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

PRECISION_COLOURS = {"fp32": "#0072B2", "tf32": "#CC79A7", "bf16": "#D55E00", "fp16": "#009E73"}
CHECKPOINTING_SHAPES = {"none": "circle", "stage": "triangle-up", "block": "square"}
CHECKPOINTING_DASHES = {"none": [1, 0], "stage": [7, 3], "block": [2, 3]}
BATCH_DASHES = ([1, 0], [7, 3], [2, 3], [7, 3, 2, 3])
VERDICT_COLOURS = {"better": "#0072B2", "same": MUTED, "worse": "#D55E00"}
LIGHTER = {"#0072B2": "#3E9BD9"}
SAME_WITHIN = 0.02
SPEED, MEMORY = "images per second, ratio", "peak memory, ratio"

PANEL_WIDTH, PANEL_HEIGHT = 390, 250
PANELS_A_ROW = 2
EFFECT_WIDTH, EFFECT_LINE_HEIGHT = 320, 26
MAX_TICKS = 7
PNG_SCALE = 2


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, the name of its file, and its title and explanation in words."""

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin

    def svg(self) -> str:
        """Return the chart as SVG on a white ground; nothing is fetched from anywhere."""
        version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
        return vl_convert.vegalite_to_svg(
            self.chart.to_dict(), vl_version=version, allowed_base_urls=[]
        )


def png(svg: str) -> bytes:
    """Return an SVG figure as PNG, two pixels to one of its units."""
    return vl_convert.svg_to_png(svg, scale=PNG_SCALE)


def figures(records: Sequence[Record]) -> list[Figure]:
    """Return the figures that the records have data for."""
    made = (
        throughput_against_memory(records),
        throughput_over_batch_size(records),
        accuracy_by_epoch(records),
        effects_of_one_change(records),
    )
    return [figure for figure in made if figure is not None]


def throughput_against_memory(records: Sequence[Record]) -> Figure | None:
    """Return images per second against peak memory, by architecture; `None` without data."""
    fastest = {id(best.record) for best in best_settings(records).values()}
    rows = [
        {**row, "best": id(record) in fastest}
        for record in records
        if is_measured(record) and (row := _measured(record))["peak"]
    ]
    shape = alt.Shape(
        "checkpointing:N",
        title="checkpoint",
        scale=_scale(CHECKPOINTING_SHAPES, rows, "checkpointing"),
        legend=alt.Legend(symbolFillColor=MUTED, symbolStrokeColor=MUTED),
    )
    size = alt.Size(
        "batch:O",
        title="batch size",
        scale=alt.Scale(range=[40, 180], domain=sorted({row["batch"] for row in rows})),
        legend=alt.Legend(symbolFillColor=MUTED, symbolStrokeColor=MUTED),
    )

    def panel(shown: Rows) -> Panel:
        base = alt.Chart().encode(
            x=_log_x("peak", [row["peak"] for row in shown], title="peak memory of a step (MiB)"),
            y=alt.Y("rate:Q", title="images per second"),
        )
        ring = base.mark_point(size=430, stroke=INK, strokeWidth=1.4, opacity=1)
        points = base.mark_point(strokeWidth=2, opacity=1).encode(
            stroke=_precision(rows, alt.Stroke),
            fill=_precision(rows, alt.Fill),
            fillOpacity=_hollow_if_suspect(0.5),
            shape=shape,
            size=size,
        )
        return alt.layer(points, ring.transform_filter("datum.best"))

    return _figure(
        "throughput-memory",
        "How much speed for how much memory",
        "Higher is faster, further left needs less memory. The ring marks the fastest setting.",
        _panels(rows, panel),
        records,
        rows=rows,
    )


def throughput_over_batch_size(records: Sequence[Record]) -> Figure | None:
    """Return images per second over batch size; `None` where only one size was measured."""
    rows = [_measured(record) for record in records if is_measured(record)]
    for row in rows:
        row["panel"] = row["curve"]
    if len({row["batch"] for row in rows}) < 2:  # noqa: PLR2004 - a curve takes two points
        return None
    dash = alt.StrokeDash(
        "checkpointing:N",
        title="checkpoint",
        scale=_scale(CHECKPOINTING_DASHES, rows, "checkpointing"),
        legend=_dash_legend(),
    )

    def panel(shown: Rows) -> Panel:
        batches = sorted({row["batch"] for row in shown})
        base = alt.Chart().encode(
            x=alt.X(
                "batch:Q",
                title="batch size",
                scale=alt.Scale(type="log", base=2, nice=False, padding=18),
                axis=alt.Axis(values=batches, format="d", labelOverlap=True),
            ),
            stroke=_precision(rows, alt.Stroke),
            detail="seed:N",
        )
        rate = alt.Y("rate:Q", title="images per second", scale=alt.Scale(zero=True))
        lines = base.mark_line(strokeWidth=1.8).encode(y=rate, strokeDash=dash)
        bars = base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
        points = base.mark_point(size=26, strokeWidth=1.8, opacity=1).encode(
            y=rate, fill=_precision(rows, alt.Fill), fillOpacity=_hollow_if_suspect(1)
        )
        return alt.layer(lines, bars, points)

    return _figure(
        "throughput-batch",
        "What a larger batch buys",
        "Bars are 95 % intervals of the median window.",
        _panels(rows, panel),
        records,
        rows=rows,
    )


def accuracy_by_epoch(records: Sequence[Record]) -> Figure | None:
    """Return validation accuracy by epoch, the best epoch marked; `None` where nothing was trained.

    Diverged cells claim no accuracy, and where accuracy says nothing it is not drawn.
    """
    rows = [row for record in records if is_accuracy_meaningful(record) for row in _curve(record)]
    batches = sorted({row["batch"] for row in rows})

    def panel(shown: Rows) -> Panel:
        last = max(row["epoch"] for row in shown)
        base = alt.Chart().encode(
            x=alt.X(
                "epoch:Q",
                axis=alt.Axis(format="d", tickMinStep=1),
                scale=alt.Scale(domain=[1, max(last, 2)], nice=False),
            ),
            y=alt.Y(
                "accuracy:Q",
                title="validation accuracy",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(zero=False, nice=True),
            ),
            stroke=_precision(rows, alt.Stroke),
            detail="cell:N",
        )
        lines = base.mark_line(strokeWidth=1.6, strokeOpacity=0.85)
        if 1 < len(batches) <= len(BATCH_DASHES):
            scale = alt.Scale(domain=batches, range=BATCH_DASHES[: len(batches)])
            dash = alt.StrokeDash("batch:O", title="batch size", scale=scale, legend=_dash_legend())
            lines = lines.encode(strokeDash=dash)
        dots = base.mark_point(size=40, strokeWidth=1.8, fillOpacity=0.5, opacity=1)
        dots = dots.encode(fill=_precision(rows, alt.Fill))
        return alt.layer(lines, dots.transform_filter("datum.best"))

    return _figure(
        "accuracy-epoch",
        "How accuracy grows with training",
        "A dot marks each run's best epoch.",
        _panels(rows, panel),
        records,
        rows=rows,
    )


def effects_of_one_change(records: Sequence[Record]) -> Figure | None:
    """Return speed and memory ratios of pairs that differ in one setting; `None` without pairs."""
    effects = one_factor_effects(records)
    rows = [
        *(_dot(e, SPEED, e.throughput_ratio, is_more_better=True) for e in effects),
        *(_dot(e, MEMORY, e.memory_ratio, is_more_better=False) for e in effects if e.memory_ratio),
    ]
    columns = [_effect_column(shown) for shown in _grouped(rows, "measure").values()]
    caption = (
        "A dot is a pair of cells that differ in this alone, the bar their median."
        f" Same: within {100 * SAME_WITHIN:.0f} %."
    )
    return _figure(
        "one-change",
        "What one change does, everything else equal",
        caption,
        alt.hconcat(*columns, spacing=28) if columns else None,
        records,
        rows=rows,
        medians=_medians(rows),
    )


def _effect_column(rows: Rows) -> alt.VConcatChart:
    measure = rows[0]["measure"]
    x = _log_x("ratio", [*(row["ratio"] for row in rows), 1.0], title=measure)
    panels = [_effect_panel(shown, x) for shown in _grouped(rows, "change").values()]
    return alt.vconcat(*panels, spacing=14)


def _effect_panel(shown: Rows, x: alt.X) -> Panel:
    measure, change = shown[0]["measure"], shown[0]["change"]
    names = list(_grouped(shown, "architecture"))
    axis = alt.Axis(labels=measure == SPEED, ticks=False, domain=False, grid=True)
    y = alt.Y("architecture:N", title=None, sort=names, axis=axis)
    colour = alt.Color(
        "verdict:N",
        title=None,
        scale=alt.Scale(domain=list(VERDICT_COLOURS), range=list(VERDICT_COLOURS.values())),
    )
    even = alt.Chart(alt.InlineData(values=[{"ratio": 1}])).mark_rule(
        color=MUTED, strokeDash=[4, 3]
    )
    dots = alt.Chart(alt.NamedData(name="rows")).mark_circle(size=64, opacity=0.65)
    bars = alt.Chart(alt.NamedData(name="medians")).mark_tick(
        thickness=2.4, height=17, color=INK, opacity=1
    )
    for field, value in (("measure", measure), ("change", change)):
        only = alt.FieldEqualPredicate(field=field, equal=value)
        dots, bars = dots.transform_filter(only), bars.transform_filter(only)
    return alt.layer(
        even.encode(x=x), dots.encode(x=x, y=y, color=colour), bars.encode(x=x, y=y)
    ).properties(
        width=EFFECT_WIDTH,
        height=EFFECT_LINE_HEIGHT * len(names),
        title=_panel_title(change),
    )


def _medians(rows: Rows) -> Rows:
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = (row["measure"], row["change"], row["architecture"])
        groups.setdefault(key, []).append(row["ratio"])
    return [
        {"measure": measure, "change": change, "architecture": name, "ratio": median(ratios)}
        for (measure, change, name), ratios in groups.items()
    ]


def _dot(effect: Effect, measure: str, ratio: float, *, is_more_better: bool) -> dict[str, Any]:
    if abs(ratio - 1) <= SAME_WITHIN:
        verdict = "same"
    else:
        verdict = "better" if (ratio > 1) == is_more_better else "worse"
    return {
        "measure": measure,
        "change": effect.change,
        "architecture": one_line(effect.variant.cell.architecture),
        "ratio": ratio,
        "verdict": verdict,
    }


def _measured(record: Record) -> dict[str, Any]:
    """Return a profiled cell as a datum; `curve` tells apart what neither colour nor dash does."""
    found, cell = record.metrics(), record.cell
    name = one_line(cell.architecture)
    return {
        "panel": name,
        "curve": ", ".join([name, *other_settings(cell)]),
        "rate": found["images_per_second"],
        "low": found["images_per_second_low"],
        "high": found["images_per_second_high"],
        "peak": found.get("peak_allocated_mib"),
        "precision": cell.precision,
        "checkpointing": cell.checkpointing,
        "batch": cell.batch_size,
        "seed": cell.seed,
        "suspect": record.validity == "suspect",
    }


def _curve(record: Record) -> Rows:
    if record.fit is None or record.status == "diverged":
        return []
    return [
        {
            "panel": one_line(record.cell.architecture),
            "cell": record.cell_hash,
            "precision": record.cell.precision,
            "batch": record.cell.batch_size,
            "epoch": number,
            "accuracy": epoch.val_accuracy,
            "best": epoch is record.fit.best,
        }
        for number, epoch in enumerate(record.fit.epochs, 1)
    ]


def _panels(rows: Rows, panel: Callable[[Rows], Panel]) -> alt.ConcatChart | None:
    """Return a chart per value of `panel` in the rows, side by side; `None` without rows."""
    groups = _grouped(rows, "panel")
    if not groups:
        return None
    charts = [
        panel(shown)
        .transform_filter(alt.FieldEqualPredicate(field="panel", equal=name))
        .properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, title=_panel_title(name))
        for name, shown in groups.items()
    ]
    columns = min(PANELS_A_ROW, len(charts))
    return alt.concat(*charts, columns=columns, spacing=28, data=alt.NamedData(name="rows"))


def _grouped(rows: Rows, name: str) -> dict[Any, Rows]:
    groups: dict[Any, Rows] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def _panel_title(text: str) -> alt.Title:
    return alt.Title(text, anchor="start", frame="group", fontSize=13, offset=8)


def _precision(rows: Rows, channel: Any) -> Any:
    """Return the colour of the precision as a stroke or a fill."""
    return channel("precision:N", scale=_scale(PRECISION_COLOURS, rows, "precision"))


def _scale(looks: dict[str, Any], rows: Rows, name: str) -> alt.Scale:
    used = [key for key in looks if any(row[name] == key for row in rows)]
    return alt.Scale(domain=used, range=[looks[key] for key in used])


def _hollow_if_suspect(opacity: float) -> alt.FillOpacity:
    scale = alt.Scale(domain=[False, True], range=[opacity, 0])
    return alt.FillOpacity("suspect:N", scale=scale, legend=None)


def _dash_legend() -> alt.Legend:
    return alt.Legend(symbolType="stroke", symbolStrokeColor=MUTED, symbolSize=500)


def _log_x(name: str, values: Iterable[float], *, title: str) -> alt.X:
    """Return a logarithmic x axis that is no wider than its values and has few, round ticks."""
    low, high = min(values := list(values)), max(values)
    margin = 1.04 * (high / low) ** 0.05
    low, high = low / margin, high * margin
    axis = alt.Axis(values=round_ticks(low, high), format=",~g", labelOverlap=False)
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.X(f"{name}:Q", title=title, scale=scale, axis=axis)


def round_ticks(low: float, high: float) -> list[float]:
    """Return at most seven round numbers between `low` and `high`, the finest steps that allow it.

    >>> round_ticks(0.65, 1.55), round_ticks(15, 1200)
    ([0.7, 0.8, 0.9, 1.0, 1.2, 1.5], [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    series = (
        (1, 1.05, *(n / 10 for n in range(11, 100))),
        (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
        (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9),
        (1, 2, 3, 5, 7),
        (1, 2, 5),
        (1, 3),
        (1,),
    )
    for steps in series:
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= MAX_TICKS:
            break
    return ticks


def _figure(
    name: str,
    title: str,
    caption: str,
    chart: alt.ConcatChart | alt.HConcatChart | None,
    records: Sequence[Record],
    **datasets: Rows,
) -> Figure | None:
    if chart is None:
        return None
    if any(row.get("suspect") for row in datasets["rows"]):
        caption += " Hollow: suspect."
    heading = alt.Title(title, subtitle=[caption, devices_text(records)])
    looked = chart.properties(
        title=heading, background=PAPER, padding=16, datasets=datasets, config=_config()
    )
    return Figure(name=name, title=title, caption=caption, chart=looked)


def _config() -> alt.Config:
    return alt.Config(
        font=FONT,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=MUTED,
            titleColor=INK,
            domainColor=MUTED,
            tickColor=MUTED,
            gridColor=GRID,
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
            labelLimit=0,
        ),
        legend=alt.LegendConfig(
            labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=12, labelLimit=0
        ),
        title=alt.TitleConfig(
            anchor="start",
            color=INK,
            fontSize=17,
            offset=18,
            limit=0,
            subtitleColor=MUTED,
            subtitleFontSize=12,
            subtitlePadding=5,
        ),
    )
