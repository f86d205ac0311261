"""Records read back from a store, and the environment of their sweep."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cnnbench.errors import StoreError
from cnnbench.record import Record
from cnnbench.tracking.addresses import shown
from cnnbench.tracking.experiments import all_ids
from cnnbench.tracking.runs import all_runs

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities import Run


def read_sweep(
    client: mlflow.MlflowClient, uri: str, sweep_id: str | None
) -> tuple[list[Record], bytes]:
    """Return the records of one sweep, by default the latest, and its environment as JSON.

    Raises:
        StoreError: there is no such sweep, or a record cannot be read.
    """
    condition = f"tags.sweep_id = '{sweep_id}'" if sweep_id else "tags.kind = 'sweep'"
    ids = all_ids(client)
    order = ["attributes.end_time DESC"]
    # Without experiments MLflow would search all there are.
    found = ids and client.search_runs(ids, condition, max_results=1, order_by=order)
    if not found:
        which = f"no sweep {sweep_id!r}" if sweep_id else "no sweep"
        msg = f"there is {which} in the MLflow store {shown(uri)}."
        raise StoreError(msg)
    same = f"tags.sweep_id = '{found[0].data.tags['sweep_id']}' and tags.kind = 'cell'"
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
        runs = all_runs(client, [str(found[0].info.experiment_id)], same)
        files = [_artifact(client, run, "record.json", folder) for run in runs]
        surroundings = _artifact(client, found[0], "environment.json", folder)
    try:
        records = [msgspec.json.decode(content, type=Record) for content in files]
    except msgspec.DecodeError as error:
        msg = f"a record in the MLflow store {shown(uri)} cannot be read: {error}"
        raise StoreError(msg) from error
    return records, surroundings


def _artifact(client: mlflow.MlflowClient, run: Run, name: str, folder: str) -> bytes:
    """Return the content of one of the run's files, fetched by way of `folder`."""
    return Path(client.download_artifacts(run.info.run_id, name, folder)).read_bytes()
