"""Everything that speaks to MLflow: the store, one flat run per cell, and the UI on them."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import sqlite3
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy

# MLflow reads its telemetry switch while it is imported; the others bound what one call may cost and keep
# stdout ours. By default a server that is gone holds a call for four minutes, and one that is overloaded
# for as long as it says.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

# ruff: noqa: E402 - the imports below must find the switches above set
import mlflow
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from cnnbench import clock, notes, views
from cnnbench.cell import plain_text
from cnnbench.environment import masked
from cnnbench.errors import StoreError
from cnnbench.measurement import GpuReading, Window
from cnnbench.owner import Owner, this_process
from cnnbench.record import METRIC_COLUMNS, PARAM_COLUMNS, STATUSES, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnnbench.environment import DatasetInfo, Environment
    from cnnbench.record import Epoch

EXPERIMENT_KIND_TAG = "mlflow.experimentKind"
EXPERIMENT_KIND = "custom_model_development"

MAX_TAG_CHARACTERS = 5000
MAX_DIGEST_CHARACTERS = 36
MAX_REASON_CHARACTERS = 300
RUNS_PER_PAGE = 1000
LOCK_SECONDS = 20

WINDOW_COLUMNS = tuple(field.name for field in fields(Window) if field.name != "gpu")
GPU_COLUMNS = tuple(field.name for field in fields(GpuReading))

_REFUSALS = (
    MlflowException,
    sqlalchemy.exc.SQLAlchemyError,
    CommandError,
    json.JSONDecodeError,  # a web server that is not MLflow's answers with a page
    OSError,
)
_COMPLETE = ("FINISHED", "FAILED")
_FAILED_STATUSES = ("failed", "timeout")


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What it took to make the store equal to the journal.

    `logged` holds the names of the cells that the store lacked, `superseded` the ids of the runs
    that were half-written or out of date. `is_finished` says that the sweep's own run is there and tells
    of all records.
    """

    logged: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    is_finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Ui:
    """How to see a store's runs: start `command` with `environment` added, then open `address`.

    `command` is empty where the store is a server already. `health` answers once `address` will.
    `address` is the prepared comparison where the UI is known to read it, else `plain_address`, the
    list of runs.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    health: str
    address: str
    plain_address: str


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
    uri = uri or _sqlite_uri(results_dir / "mlflow.db")
    artifacts = results_dir / "mlartifacts"
    with _refusals(uri):
        if not _is_database(uri):
            client = mlflow.MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
            return Tracker(uri=uri, client=client)
        uri = _open_database(uri, artifacts, create=create)
        store = _sql_store(uri, artifacts)
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
    path = _sqlite_path(uri or _sqlite_uri(results_dir.absolute() / "mlflow.db"))
    if path is None or path.exists():
        open_store(uri, results_dir, create=False).close()


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """An open store. Made by `open_store`; nothing runs in the background.

    `artifacts` and `engine` are those of a database; a server has its own.
    """

    uri: str
    client: mlflow.MlflowClient
    artifacts: Path | None = None
    engine: sqlalchemy.Engine | None = None

    def sweep(
        self,
        sweep_id: str,
        *,
        profile: str,
        environment: Environment,
        dataset: DatasetInfo | None = None,
        study: str | None = None,
        artifacts_dir: Path | None = None,
    ) -> SweepLog:
        """Return where the cells of one sweep are logged, in the experiment `cnnbench/<profile>`.

        `artifacts_dir` is where cells left files of their own, in a folder named by the cell's hash.

        Raises:
            StoreError: the store refuses.
        """
        with _refusals(self.uri):
            experiment_id = self._experiment(profile)
        return SweepLog(
            tracker=self,
            experiment_id=experiment_id,
            sweep_id=sweep_id,
            environment=environment,
            dataset=dataset,
            study=study,
            artifacts_dir=artifacts_dir,
        )

    def ui(self, *, port: int, profile: str | None = None, architecture: str | None = None) -> Ui:
        """Return how to see the runs of `profile`, by default of the latest sweep, on 127.0.0.1.

        `architecture` opens the comparison of its cells alone.

        Raises:
            StoreError: the store refuses, or holds no cell of that architecture.
        """
        with _refusals(self.uri):
            experiment_id = self._experiment_id(profile)
            key = self._view_key(experiment_id, architecture)
        # Without the workflow type the page opens for language models and shows no runs.
        runs = f"/{experiment_id}/runs?workflowType=machine_learning" if experiment_id else ""
        local = self.artifacts is not None
        # A browser asks for the name and the password itself.
        address = masked(self.uri).replace("//***@", "//").rstrip("/")
        server = f"http://127.0.0.1:{port}" if local else address
        plain = f"{server}/#/experiments{runs}"
        return Ui(
            command=_ui_command(port) if local else (),
            environment=_ui_environment(self.uri, self.artifacts) if local else {},
            health=f"{server}/health",
            address=f"{plain}&compareRunsMode=CHART&viewStateShareKey={key}" if key else plain,
            plain_address=plain,
        )

    def read(self, sweep_id: str | None = None) -> tuple[list[Record], bytes]:
        """Return the records of one sweep, by default the latest, and its environment as JSON.

        Raises:
            StoreError: there is no such sweep, the store refuses, or a record cannot be read.
        """
        condition = f"tags.sweep_id = '{sweep_id}'" if sweep_id else "tags.kind = 'sweep'"
        with _refusals(self.uri), tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
            ours = self.client.search_experiments(filter_string="name LIKE 'cnnbench/%'")
            ids = [str(experiment.experiment_id) for experiment in ours]
            order = ["attributes.end_time DESC"]
            # Without experiments MLflow would search all there are.
            found = ids and self.client.search_runs(ids, condition, max_results=1, order_by=order)
            if not found:
                which = f"no sweep {sweep_id!r}" if sweep_id else "no sweep"
                msg = f"there is {which} in the MLflow store {_shown(self.uri)}."
                raise StoreError(msg)
            same = f"tags.sweep_id = '{found[0].data.tags['sweep_id']}' and tags.kind = 'cell'"
            runs = _all_runs(self.client, [str(found[0].info.experiment_id)], same)
            files = [_artifact(self.client, run, "record.json", folder) for run in runs]
            surroundings = _artifact(self.client, found[0], "environment.json", folder)
            try:
                records = [msgspec.json.decode(content, type=Record) for content in files]
            except msgspec.DecodeError as error:
                msg = f"a record in the MLflow store {_shown(self.uri)} cannot be read: {error}"
                raise StoreError(msg) from error
        return records, surroundings

    def close(self) -> None:
        """Close the connections; a SQLite store is one file again."""
        if self.engine is not None:
            self.engine.dispose()

    def _view_key(self, experiment_id: str | None, architecture: str | None) -> str | None:
        """Return the key of the view to open, once it is there; `None` where only the list works."""
        view = views.one_architecture(architecture) if architecture else views.all_settings()
        if architecture and not (view and experiment_id and self._holds(experiment_id, view)):
            msg = f"the latest sweep's experiment has no cell of the architecture {architecture!r}."
            raise StoreError(msg)
        if view is None or experiment_id is None or not views.is_known(self._ui_version()):
            return None
        try:
            self.prepare_views(experiment_id, views.views([architecture] if architecture else []))
        except MlflowException:  # such as: this user may read here and no more
            return None
        return view.key

    def _holds(self, experiment_id: str, view: views.View) -> bool:
        condition = view.state["searchFilter"]
        return bool(self.client.search_runs([experiment_id], condition, max_results=1))

    def _ui_version(self) -> str:
        """Return the version of the UI that shows this store; empty where a server does not say."""
        if self.artifacts is not None:
            return str(mlflow.__version__)
        try:
            host = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]  # MLflow's
            answer = http_request(host, "/version", "GET")  # type: ignore[no-untyped-call]  # too
        except MlflowException:
            return ""
        return answer.text.strip() if answer.ok else ""

    def prepare_views(self, experiment_id: str, prepared: Iterable[views.View]) -> None:
        """Save those of the `prepared` views that the experiment has not got."""
        tags = self.client.get_experiment(experiment_id).tags
        now = _milliseconds(clock.now())
        for view in prepared:
            if not view.is_saved_as(tags.get(view.tag)):
                self.client.set_experiment_tag(experiment_id, view.tag, view.envelope(now))

    def _experiment_id(self, profile: str | None) -> str | None:
        if profile is not None:
            found = self.client.get_experiment_by_name(_experiment_name(profile))
            return None if found is None else str(found.experiment_id)
        ours = self.client.search_experiments(filter_string="name LIKE 'cnnbench/%'")
        ids = [str(experiment.experiment_id) for experiment in ours]
        if not ids:
            return None
        latest = self.client.search_runs(
            ids, "tags.kind = 'sweep'", max_results=1, order_by=["attributes.end_time DESC"]
        )
        return str(latest[0].info.experiment_id) if latest else ids[0]

    def _experiment(self, profile: str) -> str:
        """Return the id of the profile's experiment: made, or brought back if a user deleted it."""
        name = _experiment_name(profile)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(
                    self.client.create_experiment(
                        name,
                        artifact_location=self._artifact_location(profile),
                        tags={
                            EXPERIMENT_KIND_TAG: EXPERIMENT_KIND,
                            notes.NOTE_TAG: notes.experiment_note(profile),
                        },
                    )
                )
            except MlflowException:
                found = self.client.get_experiment_by_name(name)
                if found is None:  # otherwise another sweep has just made it
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if EXPERIMENT_KIND_TAG not in found.tags:
            self.client.set_experiment_tag(
                found.experiment_id, EXPERIMENT_KIND_TAG, EXPERIMENT_KIND
            )
        return str(found.experiment_id)

    def _artifact_location(self, profile: str) -> str | None:
        if self.artifacts is None:
            return None
        folder = "".join(c if c.isalnum() or c in "-_" else "-" for c in profile)
        return (self.artifacts / folder).as_uri()


@dataclass(frozen=True, kw_only=True)
class SweepLog:
    """Where the cells of one sweep are logged. Made by `Tracker.sweep`.

    A run is RUNNING until all of it is written, and FINISHED or FAILED once it is complete.
    """

    tracker: Tracker
    experiment_id: str
    sweep_id: str
    environment: Environment
    dataset: DatasetInfo | None
    study: str | None
    artifacts_dir: Path | None = None

    def log(self, record: Record) -> str:
        """Write `record` as one run and return its id; a former run of the same cell is superseded.

        Raises:
            StoreError: the store refuses; whatever was written is superseded by the next attempt.
        """
        with _refusals(self.tracker.uri):
            # By the hash alone: in a store of many runs each condition more costs milliseconds.
            for run in self._runs(f"tags.cell_hash = '{record.cell_hash}'"):
                if run.data.tags.get("sweep_id") == self.sweep_id and _is_to_supersede(run):
                    self._supersede(run)
            return self._write(record)

    def reconcile(self, records: Iterable[Record]) -> Reconciled:
        """Log those of the journal's `records` that the store lacks; supersede half-written runs.

        Of several records of one cell the last counts. A run of a cell without a record stays. What a
        dead process of another sweep has left RUNNING is closed as well.

        Raises:
            StoreError: the store refuses.
        """
        latest = {record.cell_hash: record for record in records}
        kept: set[str] = set()
        superseded = []
        is_finished = False
        with _refusals(self.tracker.uri):
            for run in self._sweep_runs():
                cell_hash = run.data.tags.get("cell_hash", "")
                if run.data.tags.get("kind") == "sweep":
                    is_finished = _tells_of(run, latest.values())
                elif _stands(run, latest.get(cell_hash)) and cell_hash not in kept:
                    kept.add(cell_hash)
                elif _is_to_supersede(run):
                    self._supersede(run)
                    superseded.append(str(run.info.run_id))
            superseded += self._close_orphans()
            missing = [record for cell_hash, record in latest.items() if cell_hash not in kept]
            for record in missing:
                self._write(record)
        return Reconciled(
            logged=tuple(record.cell.name for record in missing),
            superseded=tuple(superseded),
            is_finished=is_finished and not missing,
        )

    def finish(self, records: Sequence[Record], *, report_dir: Path | None = None) -> str:
        """Write the sweep's own run (environment, report, counts by status) and return its id.

        A second call updates the run that is there.

        Raises:
            StoreError: the store refuses.
        """
        counts = {"num_cells": len(records)}
        for status in STATUSES:
            counts[f"num_{status}"] = sum(record.status == status for record in records)
        started = min((record.started_at for record in records), default=clock.now())
        now = _milliseconds(clock.now())
        with _refusals(self.tracker.uri):
            run_id = self._sweep_run(_milliseconds(started))
            self._client.log_batch(
                run_id,
                metrics=[Metric(name, value, now, 0) for name, value in counts.items()],
                synchronous=True,
            )
            self._log_files(run_id, {})
            if report_dir is not None:
                self._client.log_artifacts(run_id, str(report_dir), artifact_path="report")
            self._client.set_tag(
                run_id, notes.NOTE_TAG, notes.sweep_note(records, self.environment)
            )
            self._client.set_terminated(run_id, "FINISHED", now)
            with suppress(MlflowException):  # the records matter; the page can do without
                names = dict.fromkeys(record.cell.architecture for record in records)
                self.tracker.prepare_views(self.experiment_id, views.views(names))
        return run_id

    def log_verdicts(
        self, tags: dict[str, str], metrics: dict[str, float], files: Sequence[Path]
    ) -> str:
        """Write the study's own run (what came of each claim, and its pages) and return its id.

        A second call updates the run that is there.

        Raises:
            StoreError: the store refuses.
        """
        now = _milliseconds(clock.now())
        with _refusals(self.tracker.uri):
            condition = f"tags.study = '{self.study}' and tags.kind = 'study'"
            runs = [run for run in self._runs(condition) if self._is_ours(run)]
            shared = {**self._shared_tags(), "kind": "study", "device": self.environment.device}
            if runs:
                run_id = str(runs[0].info.run_id)
            else:
                run = self._client.create_run(
                    self.experiment_id, start_time=now, tags=shared, run_name=self.study
                )
                run_id = str(run.info.run_id)
            for name, value in tags.items():
                self._client.set_tag(run_id, name, value[:MAX_TAG_CHARACTERS])
            points = [Metric(name, value, now, 0) for name, value in metrics.items()]
            self._client.log_batch(run_id, metrics=points, synchronous=True)
            for path in files:
                self._client.log_artifact(run_id, str(path))
            self._client.set_terminated(run_id, "FINISHED", now)
        return run_id

    def _is_ours(self, run: Run) -> bool:
        return bool(run.data.tags.get("sweep_id") == self.sweep_id)

    @property
    def _client(self) -> mlflow.MlflowClient:
        return self.tracker.client

    def _shared_tags(self) -> dict[str, str]:
        tags = {
            "sweep_id": self.sweep_id,
            "git_commit": self.environment.git_commit,
            "study": self.study,
        }
        return {name: value for name, value in tags.items() if value}

    def _sweep_run(self, start_time: int) -> str:
        for run in self._runs(f"tags.sweep_id = '{self.sweep_id}' and tags.kind = 'sweep'"):
            return str(run.info.run_id)
        tags = {**self._shared_tags(), "kind": "sweep", "device": self.environment.device}
        tags |= _owner_tags()
        run = self._client.create_run(
            self.experiment_id, start_time=start_time, tags=tags, run_name=self.sweep_id
        )
        return str(run.info.run_id)

    def _runs(self, condition: str) -> list[Run]:
        """Return the experiment's runs that meet `condition`."""
        return _all_runs(self._client, [self.experiment_id], condition)

    def _close_orphans(self) -> Iterator[str]:
        """End what dead processes have left RUNNING in this experiment, and yield the ids of cells' runs."""
        for run in self._runs("attributes.status = 'RUNNING'"):
            owner = _owner(run)
            if owner is None or not owner.is_dead():
                continue
            if run.data.tags.get("kind") == "sweep":  # another call of the same sweep takes it up
                self._client.set_terminated(run.info.run_id, "KILLED")
            else:
                self._supersede(run)
                yield str(run.info.run_id)

    def _sweep_runs(self) -> list[Run]:
        """Return all runs of this sweep, with their tags alone.

        From a database they are read directly: MLflow would bring every parameter and metric of every
        run, 2 ms for each. `open_store` has seen that the schema is the one that is read here.
        """
        engine = self.tracker.engine
        if engine is None:
            return self._runs(f"tags.sweep_id = '{self.sweep_id}'")
        run: Any = SqlRun
        tag: Any = SqlTag
        ours = sqlalchemy.select(tag.run_uuid).where(
            tag.key == "sweep_id", tag.value == self.sweep_id
        )
        infos = sqlalchemy.select(run.run_uuid, run.status, run.start_time, run.end_time).where(
            run.experiment_id == int(self.experiment_id),
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
                    RunInfo(run_id, self.experiment_id, "", status, start, end, "active"),
                    RunData(tags=found.get(run_id, [])),
                )
                for run_id, status, start, end in connection.execute(infos)
            ]

    def _supersede(self, run: Run) -> None:
        # The tag first: a kill between the two leaves no run of kind=cell that looks complete.
        self._client.set_tag(run.info.run_id, "kind", "superseded")
        self._client.set_terminated(run.info.run_id, "KILLED", run.info.end_time)

    def _write(self, record: Record) -> str:
        """Create the run, fill it and, last of all, end it: only then is it complete."""
        run = self._client.create_run(
            self.experiment_id,
            start_time=_milliseconds(record.started_at),
            tags={**self._shared_tags(), **_cell_tags(record), **_owner_tags()},
            run_name=record.cell.name,
        )
        run_id = str(run.info.run_id)
        # First, for MLflow then reads the whole run back to learn where its artifacts are.
        self._log_files(run_id, _cell_files(record))
        for path in self._left_by(record):
            self._client.log_artifact(run_id, str(path))
        row = record.row()
        self._client.log_batch(
            run_id,
            metrics=[*_final_metrics(record), *_curves(record)],
            params=[Param(name, plain_text(row[name])) for name in PARAM_COLUMNS],
            synchronous=True,
        )
        if self.dataset is not None:
            self._log_dataset(run_id, self.dataset)
        status = "FAILED" if record.status in _FAILED_STATUSES else "FINISHED"
        self._client.set_terminated(run_id, status, _milliseconds(record.finished_at))
        return run_id

    def _log_dataset(self, run_id: str, info: DatasetInfo) -> None:
        inputs = [_dataset_input(info)]
        try:
            self._client.log_inputs(run_id, datasets=inputs)
        except MlflowException:
            # Of two sweeps that bring the same data set at once, PostgreSQL refuses one: by now the
            # data set is there.
            self._client.log_inputs(run_id, datasets=inputs)

    def _left_by(self, record: Record) -> Iterator[Path]:
        """Yield the files that the cell itself left, those that are still there."""
        if self.artifacts_dir is not None:
            folder = self.artifacts_dir / record.cell_hash
            # A journal may come from elsewhere: no name in it may reach another folder's files.
            inside = self.artifacts_dir.resolve() / record.cell_hash
            for path in (folder / name for name in record.artifacts):
                if path.is_file() and path.resolve() == inside / path.name:
                    yield path

    def _log_files(self, run_id: str, files: dict[str, bytes]) -> None:
        """Write `files` and the environment as the run's artifacts, in one call."""
        with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
            for name, content in {**files, "environment.json": _json(self.environment)}.items():
                (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(run_id, folder)


def _all_runs(client: mlflow.MlflowClient, experiment_ids: list[str], condition: str) -> list[Run]:
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


def _artifact(client: mlflow.MlflowClient, run: Run, name: str, folder: str) -> bytes:
    """Return the content of one of the run's files, fetched by way of `folder`."""
    return Path(client.download_artifacts(run.info.run_id, name, folder)).read_bytes()


def _ui_command(port: int) -> tuple[str, ...]:
    options = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    return (sys.executable, "-m", "mlflow", "ui", *options)


def _ui_environment(uri: str, artifacts: Path | None) -> dict[str, str]:
    """Return what the server must know; not as arguments, for an address may hold a password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Jobs evaluate language models: three more processes, of no use here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _open_database(uri: str, artifacts: Path, *, create: bool) -> str:
    """Return `uri` made absolute, once its database is there and of this MLflow's version."""
    path = _sqlite_path(uri)
    if path is not None:
        uri = _sqlite_uri(path)
        if not path.exists():
            if not create:
                msg = f"there is no MLflow store {path} yet: run `cnnbench run` first."
                raise StoreError(msg)
            _create_sqlite(path, artifacts)
    _check_schema(uri)
    return uri


def _create_sqlite(path: Path, artifacts: Path) -> None:
    """Build the store beside `path` and move it there whole: a kill leaves none half-made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        fresh = Path(folder) / "mlflow.db"
        with closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        _sql_store(_sqlite_uri(fresh), artifacts).engine.dispose()
        with suppress(FileExistsError):  # another sweep was quicker: its store is as good
            path.hardlink_to(fresh)


def _sql_store(uri: str, artifacts: Path) -> SqlAlchemyStore:
    """Return MLflow's store on the database `uri`; an empty one gets its tables."""
    return SqlAlchemyStore(uri, str(artifacts))  # type: ignore[no-untyped-call]  # MLflow's


def _check_schema(uri: str) -> None:
    """Refuse a database that is not this MLflow's, before MLflow migrates or retries anything."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # As patient as MLflow; takes the write lock, so what cannot be written shows here.
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        tables = sqlalchemy.inspect(connection).get_table_names()
        revision = MigrationContext.configure(connection).get_current_revision()
    if not tables:
        return
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    head = scripts.get_current_head()
    if revision == head:
        return
    shown = _shown(uri)
    if revision is None:
        msg = f"the database {shown} holds other tables than MLflow's: give MLflow one of its own."
        raise StoreError(msg)
    wrote = f"another version of MLflow wrote the store {shown} (schema {revision}, here {head})"
    if revision in {script.revision for script in scripts.walk_revisions()}:
        command = f"{sys.executable} -m mlflow db upgrade {shown}"
        msg = f"{wrote}: back it up, then run `{command}`."
    else:
        msg = f"{wrote}, a newer one: upgrade MLflow here, or choose another store."
    raise StoreError(msg)


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into one line that names the store."""
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f"the MLflow store {_shown(uri)} needs the Python package {error.name!r}: install it."
        raise StoreError(msg) from error
    except _REFUSALS as error:
        reason = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        # SQLAlchemy may say first on what occasion it flushed.
        lines = [
            line for line in reason.splitlines() if "autoflush" not in line
        ] or reason.splitlines()
        line = masked(lines[0])[:MAX_REASON_CHARACTERS].rstrip(".")
        msg = (
            f"cannot use the MLflow store {_shown(uri)}: {line}. "
            "Put that right, or choose another with --tracking-uri or --results-dir."
        )
        raise StoreError(msg) from error


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def _sqlite_uri(path: Path) -> str:
    uri = f"sqlite:///{path}"
    if "?" in uri or "%" in uri:  # MLflow and SQLAlchemy would each read it in their own way
        msg = f"the MLflow store {uri} has a '?' or '%' in its name: choose a folder without."
        raise StoreError(msg)
    return uri


def _sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite address, `None` for another database."""
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        msg = f"the MLflow store {uri} lives in memory and would be lost: name a file."
        raise StoreError(msg)
    return Path(uri.partition(":///")[2]).absolute()


def _shown(uri: str) -> str:
    """Return `uri` as a message may hold it: without who logs in, and how."""
    if _is_database(uri) and uri.startswith("sqlite"):
        return uri  # a file's path, in which an `@` is part of a name
    address, mark, _ = masked(uri).partition("?")
    return f"{address}?***" if mark else address


def _experiment_name(profile: str) -> str:
    return f"cnnbench/{profile}"


def _stands(run: Run, record: Record | None) -> bool:
    """Return whether `run` is complete, and the run of `record` where there is one."""
    if run.data.tags.get("kind") != "cell" or run.info.status not in _COMPLETE:
        return False
    return record is None or run.info.start_time == _milliseconds(record.started_at)


def _is_to_supersede(run: Run) -> bool:
    kind = run.data.tags.get("kind")
    if run.info.status == "RUNNING" and _is_written_elsewhere(run):
        return False
    return kind == "cell" or (kind == "superseded" and run.info.status != "KILLED")


def _is_written_elsewhere(run: Run) -> bool:
    """Say whether another process of this machine, one that lives, is about to complete `run`."""
    owner = _owner(run)
    here = this_process()
    return owner is not None and owner != here and owner.host == here.host and not owner.is_dead()


def _owner(run: Run) -> Owner | None:
    """Return the process that `run` says it is written by; `None` if it says none."""
    tags = run.data.tags
    try:
        return Owner(host=tags["host"], pid=int(tags["pid"]), start=tags["process_start"])
    except (KeyError, ValueError):
        return None


def _owner_tags() -> dict[str, str]:
    owner = this_process()
    return {"host": owner.host, "pid": str(owner.pid), "process_start": owner.start}


def _tells_of(run: Run, records: Iterable[Record]) -> bool:
    """Say whether the sweep's own run was completed after the last of `records` had ended."""
    last = max((record.finished_at for record in records), default=0.0)
    is_over = run.info.status == "FINISHED"
    return bool(is_over and run.info.end_time >= _milliseconds(last))


def _milliseconds(seconds: float) -> int:
    """Return MLflow's time; never 0, which MLflow takes for now."""
    return max(1, round(seconds * 1000))


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _dataset_input(info: DatasetInfo) -> DatasetInput:
    shape = {
        "num_rows": info.num_train + info.num_val + info.num_test,
        "num_train": info.num_train,
        "num_val": info.num_val,
        "num_test": info.num_test,
        "num_classes": info.num_classes,
        "image_shape": [info.num_channels, info.image_size, info.image_size],
    }
    dataset = Dataset(
        name=info.name,
        digest=info.digest[:MAX_DIGEST_CHARACTERS],
        source_type="external",
        source=msgspec.json.encode({"uri": info.source}).decode(),
        profile=msgspec.json.encode(shape).decode(),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])


def _cell_tags(record: Record) -> dict[str, str]:
    """Return the tags of one cell's run; what is unknown has none."""
    tags = {
        "kind": "cell",
        "cell_hash": record.cell_hash,
        "status": record.status,
        "validity": record.validity,
        "validity_reasons": "; ".join(record.validity_reasons),
        "device": record.device,
        "environment_hash": record.environment_hash,
        "effective_precision": record.effective_precision,
        "stop_reason": record.profile.stop_reason if record.profile else None,
        "diagnosis": record.diagnosis.kind if record.diagnosis else None,
        "unknowns": "; ".join(f"{what}: {why}" for what, why in record.unknowns.items()),
        "error": record.error,
        views.COLOUR_TAG: views.PRECISION_COLOURS.get(record.cell.precision),
        notes.NOTE_TAG: notes.run_note(record),
    }
    return {name: value[:MAX_TAG_CHARACTERS] for name, value in tags.items() if value}


def _final_metrics(record: Record) -> list[Metric]:
    row = record.row()
    timestamp = _milliseconds(record.finished_at)
    return [
        Metric(name, row[name], timestamp, 0)
        for name in METRIC_COLUMNS
        if row[name] is not None and math.isfinite(row[name])
    ]


def _curves(record: Record) -> Iterator[Metric]:
    """Yield the curves' points; the last epoch ended with the cell, the others before it."""
    epochs = record.fit.epochs if record.fit else ()
    trained = list(accumulate(epoch.train_seconds for epoch in epochs))
    seconds_after = 0.0
    for number, epoch in reversed(list(enumerate(epochs, start=1))):
        ended_at = max(record.started_at, record.finished_at - seconds_after)
        for name, value in {**_points(epoch), views.SECONDS: trained[number - 1]}.items():
            if math.isfinite(value):
                yield Metric(name, value, _milliseconds(ended_at), number)
        seconds_after += epoch.train_seconds + epoch.val_seconds


def _points(epoch: Epoch) -> dict[str, float]:
    return {
        "train/loss": epoch.train_loss,
        "train/accuracy": epoch.train_accuracy,
        "val/loss": epoch.val_loss,
        "val/accuracy": epoch.val_accuracy,
        "learning_rate": epoch.learning_rate,
    }


def _cell_files(record: Record) -> dict[str, bytes]:
    files = {"cell.json": _json(record.cell), "record.json": _json(record)}
    if record.profile is not None:
        files["windows.csv"] = _windows_csv(record)
    if record.stderr_tail:
        files["stderr.txt"] = record.stderr_tail.encode(errors="replace")
    return files


def _windows_csv(record: Record) -> bytes:
    """Return the raw windows, one a line; a `rejected` one was measured again."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["kind", *WINDOW_COLUMNS, *GPU_COLUMNS])
    profile = record.profile
    for kind, windows in (
        ("timed", profile.windows if profile else ()),
        ("rejected", profile.rejected_windows if profile else ()),
    ):
        for window in windows:
            values = [getattr(window, name) for name in WINDOW_COLUMNS]
            values += [getattr(window.gpu, name, None) for name in GPU_COLUMNS]
            table.writerow([kind, *map(plain_text, values)])
    return text.getvalue().encode()
