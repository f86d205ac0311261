"""What all figures share: looks, axes, panels, and how a chart becomes a drawing.

Colours are Okabe and Ito's for the colour-blind (https://jfly.uni-koeln.de/color/); checkpointing
is told by shape and dash. altair describes the charts and vl-convert draws them without a browser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import altair as alt
import vl_convert

from cnnbench.report.rows import devices_text, one_line, other_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cnnbench.record import Record

    Rows: TypeAlias = list[dict[str, Any]]
    Panel: TypeAlias = alt.LayerChart | alt.FacetChart
    Joined: TypeAlias = alt.ConcatChart | alt.HConcatChart | alt.VConcatChart

INK = "#1b2330"
MUTED = "#5a6675"
GRID = "#e3e7ec"
PAPER = "#ffffff"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

PRECISION_COLOURS = {"fp32": "#0072B2", "tf32": "#CC79A7", "bf16": "#D55E00", "fp16": "#009E73"}
PRECISION_SHAPES = {"fp32": "circle", "tf32": "triangle-down", "bf16": "diamond", "fp16": "cross"}
CHECKPOINTING_SHAPES = {
    "none": "circle",
    "stage": "triangle-up",
    "block": "square",
    "activations": "diamond",
}
CHECKPOINTING_DASHES = {
    "none": [1, 0],
    "stage": [7, 3],
    "block": [2, 3],
    "activations": [7, 3, 2, 3],
}
LIGHTER = {"#0072B2": "#3E9BD9"}

PANEL_WIDTH, PANEL_HEIGHT = 390, 250
PANELS_A_ROW = 2
MAX_PANELS = 12
# More points than these hide each other, and take minutes to draw.
MAX_POINTS = 300
MAX_TICKS = 7
PNG_SCALE = 2


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, the name of its file, and its title and explanation in words.

    `datasets` is what it shows, row by row. Each row that is of one cell has its hash as `cell`.
    """

    name: str
    title: str
    caption: str
    plain: Joined = field(repr=False)
    datasets: dict[str, Rows] = field(repr=False, default_factory=dict)

    @property
    def chart(self) -> alt.TopLevelMixin:
        """Return the chart with its data, as a notebook shows it."""
        return self.plain.properties(datasets=self.datasets) if self.datasets else self.plain

    def spec(self) -> dict[str, Any]:
        """Return the Vega-Lite specification; its data is joined after the schema has checked the rest."""
        plain = self.plain.to_dict()
        return {**plain, "datasets": {**plain.get("datasets", {}), **self.datasets}}

    def svg(self) -> str:
        """Return the chart as SVG on a white ground; nothing is fetched from anywhere."""
        version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
        return vl_convert.vegalite_to_svg(self.spec(), vl_version=version, allowed_base_urls=[])


def png(svg: str) -> bytes:
    """Return an SVG figure as PNG, two pixels to one of its units."""
    return vl_convert.svg_to_png(svg, scale=PNG_SCALE)


def figure(
    name: str,
    title: str,
    caption: str,
    chart: Joined | None,
    records: Sequence[Record],
    **datasets: Rows,
) -> Figure | None:
    """Return the figure of a chart whose data are `datasets`; `None` without a chart."""
    if chart is None:
        return None
    if any(row.get("suspect") for row in datasets["rows"]):
        caption += " Hollow: suspect."
    heading = alt.Title(title, subtitle=[caption, devices_text(records)])
    looked = chart.properties(title=heading, background=PAPER, padding=16, config=chart_config())
    return Figure(name=name, title=title, caption=caption, plain=looked, datasets=datasets)


def measured(record: Record) -> dict[str, Any]:
    """Return a profiled cell as a datum; `curve` tells apart what neither colour nor dash does."""
    found, cell = record.metrics(), record.cell
    name = one_line(cell.architecture)
    return {
        "cell": record.cell_hash,
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


def panels(rows: Rows, panel: Callable[[Rows], Panel]) -> alt.ConcatChart | None:
    """Return a chart per value of `panel` in the rows, side by side; `None` without rows."""
    groups = grouped(rows, "panel")
    if not groups:
        return None
    charts = [
        panel(shown)
        .transform_filter(alt.FieldEqualPredicate(field="panel", equal=name))
        .properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, title=panel_title(name))
        for name, shown in groups.items()
    ]
    columns = min(PANELS_A_ROW, len(charts))
    return alt.concat(*charts, columns=columns, spacing=28, data=alt.NamedData(name="rows"))


def few_panels(rows: Rows) -> tuple[Rows, str]:
    """Return the rows of the first panels alone, and a sentence that says so where some are left out."""
    names = list(dict.fromkeys(row["panel"] for row in rows))
    if len(names) <= MAX_PANELS:
        return rows, ""
    kept = set(names[:MAX_PANELS])
    said = f" The first {MAX_PANELS} of {len(names):,} are drawn; the table has all."
    return [row for row in rows if row["panel"] in kept], said


def thinned(rows: Rows, keep: str, *, limit: int = MAX_POINTS) -> tuple[Rows, str]:
    """Return at most about `limit` rows a panel, and a sentence that says so where some are left out.

    Those stay whose field `keep` is true, and of the others every so many.
    """
    kept: Rows = []
    for group in grouped(rows, "panel").values():
        others = [row for row in group if not row[keep]]
        step = math.ceil(len(others) / limit) or 1
        chosen = {id(row) for row in others[::step]}
        kept += [row for row in group if row[keep] or id(row) in chosen]
    if len(kept) == len(rows):
        return rows, ""
    said = f" {len(kept):,} of {len(rows):,} cells are drawn, evenly chosen; the table has all."
    return kept, said


def grouped(rows: Rows, name: str) -> dict[Any, Rows]:
    """Return the rows by their value of `name`, in order of appearance."""
    groups: dict[Any, Rows] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def panel_title(text: str) -> alt.Title:
    """Return the heading of one panel."""
    return alt.Title(text, anchor="start", frame="group", fontSize=13, offset=8)


def precision_scale(rows: Rows, channel: Any) -> Any:
    """Return the colour of the precision as a stroke or a fill."""
    return channel("precision:N", scale=scale_of(PRECISION_COLOURS, rows, "precision"))


def scale_of(looks: dict[str, Any], rows: Rows, name: str) -> alt.Scale:
    """Return the scale that gives each value its look, with those alone that occur."""
    seen = {row[name] for row in rows}
    used = [key for key in looks if key in seen]
    return alt.Scale(domain=used, range=[looks[key] for key in used])


def checkpointing_shape(rows: Rows) -> alt.Shape:
    """Return the shape of a point by its checkpointing."""
    return alt.Shape(
        "checkpointing:N",
        title="checkpoint",
        scale=scale_of(CHECKPOINTING_SHAPES, rows, "checkpointing"),
        legend=alt.Legend(symbolFillColor=MUTED, symbolStrokeColor=MUTED),
    )


def batch_size_area(rows: Rows) -> alt.Size:
    """Return the area of a point by its batch size; of many sizes the legend names a few."""
    sizes = sorted({row["batch"] for row in rows})
    if len(sizes) > MAX_TICKS:
        return alt.Size(
            "batch:Q",
            title="batch size",
            scale=alt.Scale(type="log", range=[30, 180], domain=[sizes[0], sizes[-1]]),
            legend=alt.Legend(
                symbolFillColor=MUTED, symbolStrokeColor=MUTED, values=spread(sizes, 5)
            ),
        )
    return alt.Size(
        "batch:O",
        title="batch size",
        scale=alt.Scale(range=[40, 180], domain=sizes),
        legend=alt.Legend(symbolFillColor=MUTED, symbolStrokeColor=MUTED),
    )


def spread(values: Sequence[int], number: int) -> list[int]:
    """Return at most `number` of the ordered values, as evenly spaced on a logarithm as they allow.

    >>> spread([1, 2, 3, 4, 6, 8, 16], 4)
    [1, 3, 6, 16]
    """
    if len(values) <= number:
        return list(values)
    low, high = math.log(values[0]), math.log(values[-1])
    wanted = [low + (high - low) * n / (number - 1) for n in range(number)]
    return sorted({min(values, key=lambda v: abs(math.log(v) - one)) for one in wanted})


def hollow_if_suspect(opacity: float) -> alt.FillOpacity:
    """Return the opacity of a point's fill: none where its cell is suspect."""
    scale = alt.Scale(domain=[False, True], range=[opacity, 0])
    return alt.FillOpacity("suspect:N", scale=scale, legend=None)


def dash_legend() -> alt.Legend:
    """Return the legend of dashes."""
    return alt.Legend(symbolType="stroke", symbolStrokeColor=MUTED, symbolSize=500)


def log_x(name: str, values: Iterable[float], *, title: str) -> alt.X:
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


def chart_config() -> alt.Config:
    """Return the looks that all charts share."""
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
