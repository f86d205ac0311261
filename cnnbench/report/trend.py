"""How the gate's measures moved from call to call: one line a test, relative to its first point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import altair as alt

from cnnbench.report.charts import INK, MUTED, Figure, png

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What is drawn, and what it is called.
MEASURES = {
    "images_per_second": "images per second",
    "peak_allocated_bytes": "allocated memory",
    "peak_reserved_bytes": "reserved memory",
    "process_bytes": "process memory",
    "accuracy": "accuracy",
}
WIDTH, HEIGHT = 360, 200
MAX_PANELS_A_ROW = 3


class Point(Protocol):
    """What is drawn of one call of the gate for one test."""

    @property
    def test(self) -> str:
        """Return the test's name."""

    @property
    def measured_at(self) -> str:
        """Return when, as ISO 8601."""


def trend_png(points: Sequence[Point], steps: Iterable[tuple[str, str, int]] = ()) -> bytes:
    """Return the figure of `points` as PNG; each of `steps` (test, measure, index) gets a ring."""
    return png(trend(points, steps).svg())


def trend(points: Sequence[Point], steps: Iterable[tuple[str, str, int]] = ()) -> Figure:
    """Return a panel a measure: every test over the calls, as a ratio to its first point."""
    rings = set(steps)
    rows = [
        row
        for measure in MEASURES
        for test in _tests(points)
        for row in _rows(test, measure, points, rings)
    ]
    panels = [
        _panel(measure, rows) for measure in MEASURES if any(r["measure"] == measure for r in rows)
    ]
    title = alt.Title(
        "What the gate measured, call by call",
        subtitle=["Each test relative to its first call; a ring marks a lasting change of level."],
        anchor="start",
        offset=14,
        color=INK,
        subtitleColor=MUTED,
    )
    columns = len(panels) if len(panels) <= MAX_PANELS_A_ROW else math.ceil(len(panels) / 2)
    chart = alt.concat(*panels, columns=columns, spacing=28)
    return Figure(
        name="regress-trend",
        title="What the gate measured, call by call",
        caption="Each test relative to its first call.",
        plain=chart.properties(title=title, background="white", padding=16),
        datasets={"rows": rows},
    )


def _tests(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.test for point in points))


def _rows(
    test: str, measure: str, points: Sequence[Point], rings: set[tuple[str, str, int]]
) -> list[dict[str, Any]]:
    values = [v for p in points if p.test == test and (v := getattr(p, measure))]
    return [
        {
            "test": test,
            "measure": measure,
            "call": number + 1,
            "ratio": value / values[0],
            "step": (test, measure, number) in rings,
        }
        for number, value in enumerate(values)
    ]


def _panel(measure: str, rows: Sequence[dict[str, Any]]) -> alt.LayerChart | alt.FacetChart:
    last = max(row["call"] for row in rows if row["measure"] == measure)
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        x=alt.X(
            "call:Q",
            title="call of the gate",
            axis=alt.Axis(format="d", tickMinStep=1),
            scale=alt.Scale(domain=[1, max(last, 2)], nice=False),
        ),
        y=alt.Y(
            "ratio:Q",
            title="to the first",
            axis=alt.Axis(
                labelFlush=True
            ),  # a label that stood out at the top would lift the title
            scale=alt.Scale(zero=False, nice=True),
        ),
        detail="test:N",
    )
    only = alt.FieldEqualPredicate(field="measure", equal=measure)
    base = base.transform_filter(only)
    lines = base.mark_line(strokeWidth=1.4, strokeOpacity=0.7, color="#0072B2")
    rings = base.mark_point(size=150, strokeWidth=2, color="#D55E00", opacity=1)
    return alt.layer(lines, rings.transform_filter("datum.step")).properties(
        width=WIDTH, height=HEIGHT, title=alt.Title(MEASURES[measure], anchor="start")
    )
