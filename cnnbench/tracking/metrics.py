"""Metrics of one cell's run: the final values, and the curves by epoch."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

from mlflow.entities import Metric

from cnnbench import views
from cnnbench.record import METRIC_COLUMNS
from cnnbench.tracking.encoding import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.record import Epoch, Record


def final_metrics(record: Record) -> list[Metric]:
    """Return what came of the cell; what is unknown or not finite has no metric."""
    row = record.row()
    timestamp = milliseconds(record.finished_at)
    return [
        Metric(name, row[name], timestamp, 0)
        for name in METRIC_COLUMNS
        if row[name] is not None and math.isfinite(row[name])
    ]


def curves(record: Record) -> Iterator[Metric]:
    """Yield the curves' points; the last epoch ended with the cell, the others before it."""
    epochs = record.fit.epochs if record.fit else ()
    trained = list(accumulate(epoch.train_seconds for epoch in epochs))
    seconds_after = 0.0
    for number, epoch in reversed(list(enumerate(epochs, start=1))):
        ended_at = max(record.started_at, record.finished_at - seconds_after)
        for name, value in {**_points(epoch), views.SECONDS: trained[number - 1]}.items():
            if math.isfinite(value):
                yield Metric(name, value, milliseconds(ended_at), number)
        seconds_after += epoch.train_seconds + epoch.val_seconds


def _points(epoch: Epoch) -> dict[str, float]:
    return {
        "train/loss": epoch.train_loss,
        "train/accuracy": epoch.train_accuracy,
        "val/loss": epoch.val_loss,
        "val/accuracy": epoch.val_accuracy,
        "learning_rate": epoch.learning_rate,
    }
