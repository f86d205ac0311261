"""Verdicts as charts: each effect with its interval beside what was claimed, and all studies at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cnnbench.report.charts import INK, MUTED, PAPER, Figure, chart_config, log_x
from cnnbench.study import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnbench.report.charts import Panel
    from cnnbench.study import Study, Verdict

OUTCOME_COLOURS = {
    "confirmed": "#009E73",
    "refuted": "#D55E00",
    "inconclusive": "#E69F00",
    "not_measured": "#B7BFC9",
}
OUTCOME_SHAPES = {
    "confirmed": "circle",
    "refuted": "cross",
    "inconclusive": "diamond",
    "not_measured": "stroke",
}
WIDTH, LINE_HEIGHT = 420, 30
SQUARE = 22
AXIS_TITLES = {
    "x": "variant over baseline (1: no change)",
    "points": "variant less baseline, in points of 100 (0: no change)",
    "cells": "variant less baseline (1: the variant fits and the baseline does not)",
}


def effects_figure(study: Study, verdicts: Sequence[Verdict]) -> Figure | None:
    """Return what each claim's effect was, with its interval; `None` where nothing was measured."""
    rows = [_row(one) for one in verdicts if one.effect is not None]
    if not rows:
        return None
    units = list(dict.fromkeys(row["unit"] for row in rows))
    panels = [_panel([row for row in rows if row["unit"] == unit], unit) for unit in units]
    devices = ", ".join(dict.fromkeys(one.device for one in verdicts))
    caption = (
        "Dot and bar: the effect and its interval. Tick: what was claimed, at the least"
        " (of sameness: at the most)."
    )
    return _figure(
        study.name,
        study.title,
        [caption, f"{devices}, {verdicts[0].dataset}"],
        alt.vconcat(*panels, spacing=26),
    )


def overview_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return all verdicts, a square each, study by study.

    Args:
        rows: the columns of `verdicts.csv`.
    """
    squares: list[dict[str, Any]] = []
    ordered = sorted(rows, key=lambda row: OUTCOMES.index(row["outcome"]))
    counts: dict[str, int] = {}
    for row in ordered:
        counts[row["study"]] = counts.get(row["study"], 0) + 1
        outcome = row["outcome"]
        squares.append(
            {"study": row["study"], "position": counts[row["study"]], "outcome": _said(outcome)}
        )
    names = list(dict.fromkeys(row["study"] for row in rows))
    chart = (
        alt.Chart(alt.InlineData(values=squares))
        .mark_square(size=SQUARE**2 * 0.6, opacity=1)
        .encode(
            x=alt.X("position:O", title="verdicts", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("study:N", title=None, sort=names, axis=alt.Axis(ticks=False, domain=False)),
            color=_outcome_scale(alt.Color, OUTCOME_COLOURS),
        )
        .properties(width=SQUARE * max(counts.values(), default=1), height=SQUARE * len(names))
    )
    devices = ", ".join(dict.fromkeys(str(row["device"]) for row in rows))
    return _figure(
        "overview", "The documented advice, measured", ["A square is one verdict.", devices], chart
    )


def _row(one: Verdict) -> dict[str, Any]:
    return {
        "line": f"{one.variant}: {one.claim}",
        "effect": one.effect,
        "low": one.low,
        "high": one.high,
        "unit": one.unit,
        "outcome": _said(one.outcome),
        "thresholds": _thresholds(one),
    }


def _thresholds(one: Verdict) -> list[float]:
    if one.direction != "same":
        return [one.threshold]
    return [one.threshold, 1 / one.threshold if one.unit == "x" else -one.threshold]


def _panel(rows: list[dict[str, Any]], unit: str) -> Panel:
    neutral = 1.0 if unit == "x" else 0.0
    ticks = [{"line": row["line"], "effect": value} for row in rows for value in row["thresholds"]]
    title = AXIS_TITLES.get(unit, f"variant less baseline, {unit}")
    reach = [neutral, *(tick["effect"] for tick in ticks)]
    reach += [row[key] for row in rows for key in ("effect", "low", "high")]
    if unit == "x":
        x = log_x("effect", reach, title=title)
    else:
        x = alt.X("effect:Q", title=title, scale=alt.Scale(zero=True, nice=True))
    lines = list(dict.fromkeys(row["line"] for row in rows))
    y = alt.Y("line:N", title=None, sort=lines, axis=alt.Axis(ticks=False, domain=False, grid=True))
    data = alt.InlineData(values=[{k: v for k, v in r.items() if k != "thresholds"} for r in rows])
    base = alt.Chart(data).encode(y=y)
    colour = _outcome_scale(alt.Color, OUTCOME_COLOURS)
    even = alt.Chart(alt.InlineData(values=[{"effect": neutral}])).mark_rule(
        color=MUTED, strokeDash=[4, 3]
    )
    claimed = alt.Chart(alt.InlineData(values=ticks)).mark_tick(
        thickness=2.4, height=18, color=INK, opacity=1
    )
    bounds = {"x": x, "y": y}
    bars = base.mark_rule(strokeWidth=3).encode(x=_renamed(x, "low:Q"), x2="high:Q", color=colour)
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x, color=colour, shape=_outcome_scale(alt.Shape, OUTCOME_SHAPES)
    )
    return alt.layer(even.encode(x=x), claimed.encode(**bounds), bars, dots).properties(
        width=WIDTH, height=LINE_HEIGHT * len(lines)
    )


def _renamed(x: alt.X, field: str) -> alt.X:
    """Return the same axis for another field."""
    same = x.copy()
    same.shorthand = field
    return same


def _outcome_scale(channel: Any, looks: Mapping[str, Any]) -> Any:
    scale = alt.Scale(domain=[_said(name) for name in looks], range=list(looks.values()))
    return channel("outcome:N", title=None, scale=scale)


def _said(outcome: str) -> str:
    return outcome.replace("_", " ")


def _figure(name: str, title: str, caption: list[str], chart: Any) -> Figure:
    heading = alt.Title(title, subtitle=caption)
    looked = chart.properties(title=heading, background=PAPER, padding=16, config=chart_config())
    return Figure(name=name, title=title, caption=caption[0], plain=looked)
