"""Sweeps in a store, what a test logs into them and reads back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow

from sample_records import (
    STARTED_AT,
    sample_cell,
    sample_dataset,
    sample_environment,
    sample_record,
)

if TYPE_CHECKING:
    import pandas as pd
    import pytest
    from mlflow.entities import Run

    from cnnbench.record import Record
    from cnnbench.tracking import SweepLog, Tracker


SWEEP_ID = "quick-0123456789ab"


def open_sweep(tracker: Tracker, **changes: Any) -> SweepLog:
    context = {"environment": sample_environment(), "dataset": sample_dataset(), **changes}
    return tracker.sweep(SWEEP_ID, profile="quick", **context)


def three_records() -> list[Record]:
    cells = [sample_cell(batch_size=size) for size in (64, 128, 256)]
    return [
        sample_record(
            cell=cell, started_at=STARTED_AT + 10 * n, finished_at=STARTED_AT + 10 * n + 8
        )
        for n, cell in enumerate(cells)
    ]


def search(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, condition: str = "tags.kind = 'cell'"
) -> pd.DataFrame:
    """Return what a user's own `mlflow.search_runs` finds, oldest first."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    found: pd.DataFrame = mlflow.search_runs(
        experiment_names=["cnnbench/quick"],
        filter_string=condition,
        order_by=["attributes.start_time ASC"],
    )
    return found


def all_runs(sweep: SweepLog) -> list[Run]:
    return list(sweep.tracker.client.search_runs([sweep.experiment_id]))


def kinds(sweep: SweepLog) -> list[tuple[str, str]]:
    return sorted((run.data.tags["kind"], run.info.status) for run in all_runs(sweep))


def artifact(sweep: SweepLog, run_id: str, name: str, folder: Path) -> bytes:
    return Path(sweep.tracker.client.download_artifacts(run_id, name, str(folder))).read_bytes()


def leave_half_written(sweep: SweepLog, record: Record, *, kind: str = "cell") -> str:
    """Do what a parent does that is killed after MLflow's first call."""
    tags = {"kind": kind, "sweep_id": SWEEP_ID, "cell_hash": record.cell_hash}
    run = sweep.tracker.client.create_run(
        sweep.experiment_id,
        start_time=round(record.started_at * 1000),
        tags=tags,
        run_name=record.cell.name,
    )
    return str(run.info.run_id)
