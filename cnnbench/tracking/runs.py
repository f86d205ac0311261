"""Runs as they lie in the store: found, and judged complete, half-written or another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from mlflow.entities import LifecycleStage, Run, RunData, RunInfo, RunTag
from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

from cnnbench.owner import this_process
from cnnbench.tracking.encoding import milliseconds
from cnnbench.tracking.tags import owner_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import mlflow

    from cnnbench.record import Record

RUNS_PER_PAGE = 1000

_COMPLETE = ("FINISHED", "FAILED")


def all_runs(client: mlflow.MlflowClient, experiment_ids: list[str], condition: str) -> list[Run]:
    """Return the experiments' runs that meet `condition`, page by page."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiment_ids, condition, max_results=RUNS_PER_PAGE, page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def runs_in_database(engine: sqlalchemy.Engine, experiment_id: str, sweep_id: str) -> list[Run]:
    """Return all runs of one sweep, with their tags alone.

    They are read directly: MLflow would bring every parameter and metric of every run, 2 ms for each.
    `open_store` has seen that the schema is the one that is read here.
    """
    run: Any = SqlRun
    tag: Any = SqlTag
    ours = sqlalchemy.select(tag.run_uuid).where(tag.key == "sweep_id", tag.value == sweep_id)
    infos = sqlalchemy.select(run.run_uuid, run.status, run.start_time, run.end_time).where(
        run.experiment_id == int(experiment_id),
        run.lifecycle_stage == LifecycleStage.ACTIVE,
        run.run_uuid.in_(ours),
    )
    tags = sqlalchemy.select(tag.run_uuid, tag.key, tag.value).where(tag.run_uuid.in_(ours))
    found: dict[str, list[RunTag]] = {}
    with engine.connect() as connection:
        for run_id, key, value in connection.execute(tags):
            found.setdefault(run_id, []).append(RunTag(key, value))
        return [
            Run(
                RunInfo(run_id, experiment_id, "", status, start, end, "active"),
                RunData(tags=found.get(run_id, [])),
            )
            for run_id, status, start, end in connection.execute(infos)
        ]


def stands(run: Run, record: Record | None) -> bool:
    """Return whether `run` is complete, and the run of `record` where there is one."""
    if run.data.tags.get("kind") != "cell" or run.info.status not in _COMPLETE:
        return False
    return record is None or run.info.start_time == milliseconds(record.started_at)


def is_to_supersede(run: Run) -> bool:
    """Say whether a run of a cell that does not count is still to be marked so, and by us."""
    kind = run.data.tags.get("kind")
    if run.info.status == "RUNNING" and _is_written_elsewhere(run):
        return False
    return kind == "cell" or (kind == "superseded" and run.info.status != "KILLED")


def _is_written_elsewhere(run: Run) -> bool:
    """Say whether another process of this machine, one that lives, is about to complete `run`."""
    owner = owner_of(run)
    here = this_process()
    return owner is not None and owner != here and owner.host == here.host and not owner.is_dead()


def tells_of(run: Run, records: Iterable[Record]) -> bool:
    """Say whether the sweep's own run was completed after the last of `records` had ended."""
    last = max((record.finished_at for record in records), default=0.0)
    is_over = run.info.status == "FINISHED"
    return bool(is_over and run.info.end_time >= milliseconds(last))
