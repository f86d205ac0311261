"""What one change does: everything else equal, and each way at its own best setting."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Any

import altair as alt

from cnnbench.analysis.best import images_per_second, is_measured
from cnnbench.analysis.effects import BASELINES, one_factor_effects
from cnnbench.report.charts import (
    CHECKPOINTING_SHAPES,
    INK,
    MUTED,
    PRECISION_COLOURS,
    figure,
    grouped,
    log_x,
    panel_title,
    scale_of,
)
from cnnbench.report.rows import one_line, setting_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.analysis.effects import Effect
    from cnnbench.record import Record
    from cnnbench.report.charts import Figure, Panel, Rows

VERDICT_COLOURS = {"better": "#0072B2", "same": MUTED, "worse": "#D55E00"}
SAME_WITHIN = 0.02
SPEED, MEMORY = "images per second, ratio", "peak memory, ratio"
EFFECT_WIDTH, EFFECT_LINE_HEIGHT = 320, 26
BEST_WIDTH = 420
MAX_ARCHITECTURES = 24
# Of one change and architecture: more pairs hide each other.
MAX_PAIRS = 60


def effects_of_one_change(records: Sequence[Record]) -> Figure | None:
    """Return speed and memory ratios of pairs that differ in one setting; `None` without pairs."""
    effects = one_factor_effects(records)
    rows = [
        *(_dot(e, SPEED, e.throughput_ratio, is_more_better=True) for e in effects),
        *(
            _dot(e, MEMORY, ratio, is_more_better=False)
            for e in effects
            if (ratio := e.memory_ratio)
        ),
    ]
    medians = _medians(rows)
    rows, said = _few(rows)
    medians = [row for row in medians if row["architecture"] in {r["architecture"] for r in rows}]
    columns = [_effect_column(shown) for shown in grouped(rows, "measure").values()]
    caption = (
        "A dot is a pair of cells that differ in this alone, the bar their median."
        f" Same: within {100 * SAME_WITHIN:.0f} %.{said}"
    )
    return figure(
        "one-change",
        "What one change does, everything else equal",
        caption,
        alt.hconcat(*columns, spacing=28) if columns else None,
        records,
        rows=rows,
        medians=medians,
    )


def each_at_its_best(records: Sequence[Record]) -> Figure | None:
    """Return the fastest setting of each precision and checkpointing; `None` where neither varies.

    At equal settings a change that saves memory only costs time; here it may spend what it saves on a
    larger batch, another layout or compilation.
    """
    rows: Rows = []
    for factor in BASELINES:
        rows += _bests(records, factor)
    if not rows:
        return None
    charts = [_best_panel(shown) for shown in grouped(rows, "factor").values()]
    return figure(
        "each-best",
        "What each way reaches at its own best",
        "The fastest setting of each, whatever batch, layout or other setting it takes, over the"
        " fastest with fp32, or without checkpointing.",
        alt.vconcat(*charts, spacing=20).resolve_scale(color="independent", shape="independent"),
        records,
        rows=rows,
    )


def _bests(records: Sequence[Record], factor: str) -> Rows:
    """Return the fastest record of each architecture and value of `factor`, over the plain value's."""
    fastest: dict[tuple[str, str], tuple[float, Record]] = {}
    for record in records:
        if is_measured(record):
            key = (record.cell.architecture, getattr(record.cell, factor))
            rate = images_per_second(record)
            if key not in fastest or rate > fastest[key][0]:
                fastest[key] = (rate, record)
    found: Rows = []
    for (architecture, value), (rate, record) in fastest.items():
        plain = fastest.get((architecture, BASELINES[factor]))
        if plain is not None:
            found.append(
                {
                    "factor": factor,
                    "value": value,
                    "architecture": one_line(architecture),
                    "cell": record.cell_hash,
                    "baseline": plain[1].cell_hash,
                    "rate": rate,
                    "ratio": rate / plain[0],
                    "setting": setting_text(record),
                }
            )
    kept = set(list(dict.fromkeys(row["architecture"] for row in found))[:MAX_ARCHITECTURES])
    varies = any(row["value"] != BASELINES[factor] for row in found)
    return [row for row in found if row["architecture"] in kept] if varies else []


def _best_panel(shown: Rows) -> Panel:
    factor = shown[0]["factor"]
    names = list(grouped(shown, "architecture"))
    is_precision = factor == "precision"
    looks = PRECISION_COLOURS if is_precision else CHECKPOINTING_SHAPES
    scale = scale_of(looks, shown, "value")
    x = log_x("ratio", [*(row["ratio"] for row in shown), 1.0], title=SPEED)
    y = alt.Y("architecture:N", title=None, sort=names, axis=_names_axis(with_labels=True))
    base = alt.Chart(alt.NamedData(name="rows")).transform_filter(
        alt.FieldEqualPredicate(field="factor", equal=factor)
    )
    marks = base.mark_point(size=110, filled=True, opacity=0.9, color=MUTED).encode(x=x, y=y)
    legend_title = "precision" if is_precision else "checkpoint"
    if is_precision:
        marks = marks.encode(color=alt.Color("value:N", title=legend_title, scale=scale))
    else:
        marks = marks.encode(shape=alt.Shape("value:N", title=legend_title, scale=scale))
    heading = "precision, each at its best" if is_precision else "checkpointing, each at its best"
    return alt.layer(_even().encode(x=x), marks).properties(
        width=BEST_WIDTH, height=EFFECT_LINE_HEIGHT * len(names), title=panel_title(heading)
    )


def _effect_column(rows: Rows) -> alt.VConcatChart:
    measure = rows[0]["measure"]
    x = log_x("ratio", [*(row["ratio"] for row in rows), 1.0], title=measure)
    columns = [_effect_panel(shown, x) for shown in grouped(rows, "change").values()]
    return alt.vconcat(*columns, spacing=14)


def _effect_panel(shown: Rows, x: alt.X) -> Panel:
    measure, change = shown[0]["measure"], shown[0]["change"]
    names = list(grouped(shown, "architecture"))
    y = alt.Y(
        "architecture:N", title=None, sort=names, axis=_names_axis(with_labels=measure == SPEED)
    )
    colour = alt.Color(
        "verdict:N",
        title=None,
        scale=alt.Scale(domain=list(VERDICT_COLOURS), range=list(VERDICT_COLOURS.values())),
    )
    dots = alt.Chart(alt.NamedData(name="rows")).mark_circle(size=64, opacity=0.65)
    bars = alt.Chart(alt.NamedData(name="medians")).mark_tick(
        thickness=2.4, height=17, color=INK, opacity=1
    )
    for name, value in (("measure", measure), ("change", change)):
        only = alt.FieldEqualPredicate(field=name, equal=value)
        dots, bars = dots.transform_filter(only), bars.transform_filter(only)
    return alt.layer(
        _even().encode(x=x), dots.encode(x=x, y=y, color=colour), bars.encode(x=x, y=y)
    ).properties(
        width=EFFECT_WIDTH, height=EFFECT_LINE_HEIGHT * len(names), title=panel_title(change)
    )


def _names_axis(*, with_labels: bool) -> alt.Axis:
    return alt.Axis(labels=with_labels, ticks=False, domain=False, grid=True)


def _even() -> alt.Chart:
    """Return the line at which nothing changes."""
    one = alt.Chart(alt.InlineData(values=[{"ratio": 1}]))
    line: alt.Chart = one.mark_rule(color=MUTED, strokeDash=[4, 3])
    return line


def _few(rows: Rows) -> tuple[Rows, str]:
    """Return at most so many pairs of each change and architecture, evenly chosen by their ratio."""
    names = list(dict.fromkeys(row["architecture"] for row in rows))[:MAX_ARCHITECTURES]
    groups: dict[tuple[str, str, str], Rows] = {}
    for row in rows:
        if row["architecture"] in names:
            key = (row["measure"], row["change"], row["architecture"])
            groups.setdefault(key, []).append(row)
    kept: Rows = []
    for group in groups.values():
        step = math.ceil(len(group) / MAX_PAIRS)
        if step == 1:
            kept += group
        else:
            kept += sorted(group, key=lambda row: row["ratio"])[::step]
    if len(kept) == len(rows):
        return rows, ""
    said = f" {len(kept):,} of {len(rows):,} dots are drawn, evenly chosen; medians are of all."
    return kept, said


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
        "cell": effect.variant.cell_hash,
        "baseline": effect.baseline.cell_hash,
        "measure": measure,
        "change": effect.change,
        "architecture": one_line(effect.variant.cell.architecture),
        "ratio": ratio,
        "verdict": verdict,
    }
