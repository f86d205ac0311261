"""What a call of the gate leaves to read: a report in Markdown, and a figure of its history."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cnnbench.analysis.replacing import replacing
from cnnbench.errors import StoreError
from cnnbench.regress.baseline import REGRESS
from cnnbench.regress.show import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cnnbench.regress.history import Point, Step
    from cnnbench.regress.run import Outcome

REPORT = "report.md"
FIGURE = "trend.png"
MIN_POINTS = 2


def write_page(
    outcome: Outcome, points: Sequence[Point], steps: Sequence[Step], results_dir: Path
) -> Path:
    """Write `regress/report.md`, and `trend.png` beside it once there is a history; return the report.

    Raises:
        StoreError: the folder cannot be written to.
    """
    folder = results_dir / REGRESS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror}. Choose another --results-dir."
        raise StoreError(msg) from error
    figure = None
    if len({point.measured_at for point in points}) >= MIN_POINTS:
        trend = import_module("cnnbench.report.trend")
        marks = [(step.test, step.measure, step.index) for step in steps]
        with replacing(folder / FIGURE) as path:
            path.write_bytes(trend.trend_png(points, marks))
        figure = FIGURE
    with replacing(folder / REPORT) as path:
        path.write_text(markdown(outcome, steps, figure=figure), encoding="utf-8")
    return folder / REPORT
