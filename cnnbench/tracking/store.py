"""The store: a database on this machine, made on first use, or a server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import mlflow

from cnnbench.tracking.addresses import is_database, sqlite_path, sqlite_uri
from cnnbench.tracking.database import open_database, sql_store
from cnnbench.tracking.refusals import refusals
from cnnbench.tracking.tracker import Tracker

if TYPE_CHECKING:
    from pathlib import Path


def open_store(uri: str | None, results_dir: Path, *, create: bool = True) -> Tracker:
    """Open the tracking store at `uri`, by default `<results_dir>/mlflow.db`, made on first use.

    Where the store is a database, artifacts go to `<results_dir>/mlartifacts`; a server decides
    for itself.

    Args:
        uri: a database (`sqlite:///...`, `postgresql://...`) or a server (`http://...`).
        results_dir: the folder of the default store and of the artifacts.
        create: make a SQLite file that is not there; otherwise its absence is an error.

    Raises:
        StoreError: it cannot be read, written or reached, or another version of MLflow wrote it.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # What it would say, with a traceback, is raised and becomes the one line of a StoreError.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL + 1)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    results_dir = results_dir.absolute()
    uri = uri or sqlite_uri(results_dir / "mlflow.db")
    artifacts = results_dir / "mlartifacts"
    with refusals(uri):
        if not is_database(uri):
            client = mlflow.MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
            return Tracker(uri=uri, client=client)
        uri = open_database(uri, artifacts, create=create)
        store = sql_store(uri, artifacts)
        # MLflow pools connections for each address, for as long as the process lives: one to a
        # file that was deleted meanwhile would go on writing to it.
        store.engine.dispose()
        client = mlflow.MlflowClient(tracking_uri=uri)
        return Tracker(uri=uri, client=client, artifacts=artifacts, engine=store.engine)


def check_store(uri: str | None, results_dir: Path) -> None:
    """Refuse a store that `open_store` would refuse, writing nothing; a SQLite file may be missing.

    Raises:
        StoreError: saying what is wrong with it.
    """
    path = sqlite_path(uri or sqlite_uri(results_dir.absolute() / "mlflow.db"))
    if path is None or path.exists():
        open_store(uri, results_dir, create=False).close()
