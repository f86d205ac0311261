"""The report's figures one by one, for a notebook: each is an altair chart that displays itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.errors import InvalidValueError
from cnnbench.report import figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from cnnbench.record import Record

__all__ = [
    "plot_accuracy_epoch",
    "plot_all",
    "plot_one_change",
    "plot_throughput_batch",
    "plot_throughput_memory",
]


def plot_all(records: Sequence[Record]) -> dict[str, alt.TopLevelMixin]:
    """Return every figure of the report that the records have data for, by its name."""
    return {figure.name: figure.chart for figure in figures.figures(records)}


def plot_throughput_memory(records: Sequence[Record]) -> alt.TopLevelMixin:
    """Return images per second against peak memory, by architecture.

    Raises:
        InvalidValueError: no record has both.
    """
    return _chart(figures.throughput_against_memory(records), "speed and peak memory")


def plot_throughput_batch(records: Sequence[Record]) -> alt.TopLevelMixin:
    """Return images per second over batch size, by architecture.

    Raises:
        InvalidValueError: fewer than two batch sizes were timed.
    """
    return _chart(figures.throughput_over_batch_size(records), "a second batch size")


def plot_accuracy_epoch(records: Sequence[Record]) -> alt.TopLevelMixin:
    """Return validation accuracy by epoch, by architecture.

    Raises:
        InvalidValueError: nothing was trained to a meaningful accuracy.
    """
    return _chart(figures.accuracy_by_epoch(records), "a meaningful accuracy")


def plot_one_change(records: Sequence[Record]) -> alt.TopLevelMixin:
    """Return what one change does to speed and memory, everything else equal.

    Raises:
        InvalidValueError: no two records differ in one setting alone.
    """
    return _chart(figures.effects_of_one_change(records), "a partner that differs in one setting")


def _chart(figure: figures.Figure | None, what: str) -> alt.TopLevelMixin:
    if figure is None:
        msg = f"there is nothing to draw: none of the records has {what}."
        raise InvalidValueError(msg)
    return figure.chart
