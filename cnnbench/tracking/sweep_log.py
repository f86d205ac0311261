"""Where the cells of one sweep are logged: one flat run a cell, and one of the sweep's own."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cnnbench import clock, notes, views
from cnnbench.cell import plain_text
from cnnbench.record import PARAM_COLUMNS, STATUSES
from cnnbench.tracking.datasets import dataset_input
from cnnbench.tracking.encoding import json_bytes, milliseconds
from cnnbench.tracking.files import cell_files
from cnnbench.tracking.metrics import curves, final_metrics
from cnnbench.tracking.refusals import refusals
from cnnbench.tracking.runs import all_runs, is_to_supersede, runs_in_database, stands, tells_of
from cnnbench.tracking.tags import MAX_TAG_CHARACTERS, cell_tags, owner_of, owner_tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import mlflow
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from cnnbench.environment import DatasetInfo, Environment
    from cnnbench.record import Record
    from cnnbench.tracking.tracker import Tracker

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


@dataclass(kw_only=True)
class _Seen:
    """The cells that the store may have a run of; only once `is_complete` need no others be looked for."""

    cell_hashes: set[str] = field(default_factory=set)
    is_complete: bool = False

    def may_have(self, cell_hash: str) -> bool:
        return not self.is_complete or cell_hash in self.cell_hashes


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
    _seen: _Seen = field(default_factory=_Seen, init=False)

    def log(self, record: Record) -> str:
        """Write `record` as one run and return its id; a former run of the same cell is superseded.

        Raises:
            StoreError: the store refuses; whatever was written is superseded by the next attempt.
        """
        with refusals(self.tracker.uri):
            if self._seen.may_have(record.cell_hash):
                # By the hash alone: in a store of many runs each condition more costs milliseconds.
                for run in self._runs(f"tags.cell_hash = '{record.cell_hash}'"):
                    if run.data.tags.get("sweep_id") == self.sweep_id and is_to_supersede(run):
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
        with refusals(self.tracker.uri):
            for run in self._sweep_runs():
                cell_hash = run.data.tags.get("cell_hash", "")
                self._seen.cell_hashes.add(cell_hash)
                if run.data.tags.get("kind") == "sweep":
                    is_finished = tells_of(run, latest.values())
                elif stands(run, latest.get(cell_hash)) and cell_hash not in kept:
                    kept.add(cell_hash)
                elif is_to_supersede(run):
                    self._supersede(run)
                    superseded.append(str(run.info.run_id))
            self._seen.is_complete = True
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
        now = milliseconds(clock.now())
        with refusals(self.tracker.uri):
            run = self._sweep_run(milliseconds(started))
            run_id = str(run.info.run_id)
            self._client.log_batch(
                run_id,
                metrics=[Metric(name, value, now, 0) for name, value in counts.items()],
                synchronous=True,
            )
            artifacts = self._artifacts_of(run)
            self._log_files(artifacts, {})
            if report_dir is not None:
                artifacts.log_artifacts(str(report_dir), artifact_path="report")
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
        now = milliseconds(clock.now())
        with refusals(self.tracker.uri):
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

    def _sweep_run(self, start_time: int) -> Run:
        for run in self._runs(f"tags.sweep_id = '{self.sweep_id}' and tags.kind = 'sweep'"):
            return run
        tags = {**self._shared_tags(), "kind": "sweep", "device": self.environment.device}
        tags |= owner_tags()
        return self._client.create_run(
            self.experiment_id, start_time=start_time, tags=tags, run_name=self.sweep_id
        )

    def _runs(self, condition: str) -> list[Run]:
        """Return the experiment's runs that meet `condition`."""
        return all_runs(self._client, [self.experiment_id], condition)

    def _close_orphans(self) -> Iterator[str]:
        """End what dead processes have left RUNNING in this experiment, and yield the ids of cells' runs."""
        for run in self._runs("attributes.status = 'RUNNING'"):
            owner = owner_of(run)
            if owner is None or not owner.is_dead():
                continue
            if run.data.tags.get("kind") == "sweep":  # another call of the same sweep takes it up
                self._client.set_terminated(run.info.run_id, "KILLED")
            else:
                self._supersede(run)
                yield str(run.info.run_id)

    def _sweep_runs(self) -> list[Run]:
        """Return all runs of this sweep; of those from a database the tags alone."""
        engine = self.tracker.engine
        if engine is None:
            return self._runs(f"tags.sweep_id = '{self.sweep_id}'")
        return runs_in_database(engine, self.experiment_id, self.sweep_id)

    def _supersede(self, run: Run) -> None:
        # The tag first: a kill between the two leaves no run of kind=cell that looks complete.
        self._client.set_tag(run.info.run_id, "kind", "superseded")
        self._client.set_terminated(run.info.run_id, "KILLED", run.info.end_time)

    def _write(self, record: Record) -> str:
        """Create the run, fill it and, last of all, end it: only then is it complete."""
        self._seen.cell_hashes.add(record.cell_hash)
        run = self._client.create_run(
            self.experiment_id,
            start_time=milliseconds(record.started_at),
            tags={**self._shared_tags(), **cell_tags(record), **owner_tags()},
            run_name=record.cell.name,
        )
        run_id = str(run.info.run_id)
        artifacts = self._artifacts_of(run)
        self._log_files(artifacts, cell_files(record))
        for path in self._left_by(record):
            artifacts.log_artifact(str(path))
        row = record.row()
        self._client.log_batch(
            run_id,
            metrics=[*final_metrics(record), *curves(record)],
            params=[Param(name, plain_text(row[name])) for name in PARAM_COLUMNS],
            synchronous=True,
        )
        if self.dataset is not None:
            self._log_dataset(run_id, self.dataset)
        status = "FAILED" if record.status in _FAILED_STATUSES else "FINISHED"
        self._client.set_terminated(run_id, status, milliseconds(record.finished_at))
        return run_id

    def _log_dataset(self, run_id: str, info: DatasetInfo) -> None:
        inputs = [dataset_input(info)]
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

    def _artifacts_of(self, run: Run) -> ArtifactRepository:
        """Return where the files of `run` go; the client would read the whole run back to learn it."""
        return get_artifact_repository(run.info.artifact_uri, tracking_uri=self.tracker.uri)

    def _log_files(self, artifacts: ArtifactRepository, files: dict[str, bytes]) -> None:
        """Write `files` and the environment as the run's artifacts, in one call."""
        with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
            for name, content in {
                **files,
                "environment.json": json_bytes(self.environment),
            }.items():
                (Path(folder) / name).write_bytes(content)
            artifacts.log_artifacts(folder)
