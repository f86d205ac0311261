"""Runs that MLflow itself reads back: from a SQLite file and from a real server."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import msgspec
import pytest
from alembic import command as alembic_command
from alembic.config import Config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialTables
from sqlalchemy import create_engine

from cnnbench import owner
from cnnbench.cell import Cell, plain_text
from cnnbench.environment import Environment
from cnnbench.errors import StoreError
from cnnbench.owner import Owner
from cnnbench.record import METRIC_COLUMNS, PARAM_COLUMNS, STATUSES, Epoch, Fit, Record
from cnnbench.tracking import Reconciled, SweepLog, Tracker, open_store
from cnnbench.tracking.addresses import shown as shown_address
from cnnbench.tracking.tags import MAX_TAG_CHARACTERS
from mlflow_server import free_port, mlflow_server
from sample_records import (
    GIT_COMMIT,
    STARTED_AT,
    sample_cell,
    sample_dataset,
    sample_environment,
    sample_fit,
    sample_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from mlflow.entities import Run

SWEEP_ID = "quick-0123456789ab"
CURVES = {
    *("train/loss", "train/accuracy", "train/seconds", "val/loss", "val/accuracy"),
    "learning_rate",
}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    open_store(None, folder).close()
    return folder / "mlflow.db"


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path) -> Iterator[Tracker]:
    shutil.copy(empty_store, tmp_path)  # a copy is had faster than MLflow makes one
    opened = open_store(None, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def sweep(tracker: Tracker) -> SweepLog:
    return open_sweep(tracker)


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


def test_each_cell_is_one_flat_run_with_exactly_the_names_of_the_contract(
    tracker: Tracker, sweep: SweepLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [*three_records(), sample_record(cell=sample_cell(seed=1), profile=None, fit=None)]
    for record in records:
        sweep.log(record)
    found = search(tracker, monkeypatch)
    assert len(found) == len(records)
    assert set(found["tags.mlflow.runName"]) == {record.cell.name for record in records}
    columns = set(found.columns)
    assert {c for c in columns if c.startswith("params.")} == {f"params.{p}" for p in PARAM_COLUMNS}
    known = {name for name in METRIC_COLUMNS if records[0].row()[name] is not None}
    assert {c for c in columns if c.startswith("metrics.")} == {
        f"metrics.{name}" for name in known | CURVES
    }
    assert {c for c in columns if c.startswith("tags.") and "mlflow." not in c} == {
        f"tags.{name}"
        for name in (
            *("kind", "sweep_id", "cell_hash", "status", "validity", "device", "git_commit"),
            *("environment_hash", "effective_precision", "stop_reason", "diagnosis"),
            *("host", "pid", "process_start"),
        )
    }
    assert "tags.mlflow.parentRunId" not in columns


def test_params_and_metrics_equal_the_table_number_for_number(
    tracker: Tracker, sweep: SweepLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = three_records()
    for record in records:
        sweep.log(record)
    found = search(tracker, monkeypatch)
    for (_, run), record in zip(found.iterrows(), records, strict=True):
        row = record.row()
        for name in PARAM_COLUMNS:
            assert run[f"params.{name}"] == plain_text(row[name])
        for name in METRIC_COLUMNS:
            if row[name] is not None:
                assert run[f"metrics.{name}"] == row[name]
        for name in ("sweep_id", "cell_hash", "status", "validity", "device", "environment_hash"):
            assert run[f"tags.{name}"] == row[name]


def test_params_are_plain_decimal_text_and_unknown_ones_are_empty(sweep: SweepLog) -> None:
    params = sweep.tracker.client.get_run(sweep.log(sample_record())).data.params
    assert params["learning_rate"] == "0.00001"
    assert params["batch_size"] == "64"
    assert params["image_size"] == ""


def test_a_run_has_the_cells_times_and_the_commit(sweep: SweepLog) -> None:
    record = sample_record()
    run = sweep.tracker.client.get_run(sweep.log(record))
    assert run.info.start_time == round(record.started_at * 1000)
    assert run.info.end_time == round(record.finished_at * 1000)
    assert run.data.tags["git_commit"] == GIT_COMMIT


def test_the_study_is_a_tag_only_where_there_is_one(tracker: Tracker) -> None:
    environment = sample_environment(git_commit=None)
    plain = open_sweep(tracker, environment=environment)
    tags = tracker.client.get_run(plain.log(sample_record())).data.tags
    assert "study" not in tags
    assert "git_commit" not in tags
    studied = open_sweep(tracker, study="batch-size")
    assert tracker.client.get_run(studied.log(sample_record())).data.tags["study"] == "batch-size"


def test_curves_count_epochs_from_one_at_times_within_the_cell(sweep: SweepLog) -> None:
    record = sample_record()
    assert record.fit is not None
    run_id = sweep.log(record)
    for name, values in {
        "train/loss": [epoch.train_loss for epoch in record.fit.epochs],
        "train/accuracy": [epoch.train_accuracy for epoch in record.fit.epochs],
        "train/seconds": [0.5, 1.0, 1.5],
        "val/loss": [epoch.val_loss for epoch in record.fit.epochs],
        "val/accuracy": [epoch.val_accuracy for epoch in record.fit.epochs],
        "learning_rate": [epoch.learning_rate for epoch in record.fit.epochs],
    }.items():
        points = sweep.tracker.client.get_metric_history(run_id, name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == values
        times = [point.timestamp for point in points]
        assert times == sorted(set(times))
        assert record.started_at * 1000 <= times[0]
        assert times[-1] == round(record.finished_at * 1000)


def test_final_metrics_have_one_value_each(sweep: SweepLog) -> None:
    run_id = sweep.log(sample_record())
    client = sweep.tracker.client
    assert len(client.get_metric_history(run_id, "images_per_second")) == 1
    assert len(client.get_metric_history(run_id, "val_loss")) == 1


def test_a_long_training_is_logged_whole(sweep: SweepLog) -> None:
    run_id = sweep.log(sample_record(fit=sample_fit(num_epochs=450)))
    for name in CURVES:
        points = sweep.tracker.client.get_metric_history(run_id, name)
        assert [point.step for point in points] == list(range(1, 451))


def test_what_is_unknown_or_not_finite_is_left_out(sweep: SweepLog) -> None:
    epoch = Epoch(
        train_loss=math.inf,
        train_accuracy=0.1,
        val_loss=math.nan,
        val_accuracy=0.1,
        learning_rate=0.1,
        train_seconds=1.0,
        val_seconds=0.1,
    )
    fit = Fit(epochs=(epoch,), num_train_images=100)
    record = sample_record(status="diverged", profile=None, memory=None, fit=fit)
    metrics = sweep.tracker.client.get_run(sweep.log(record)).data.metrics
    assert set(metrics) == {
        *("num_parameters", "epochs_run"),
        *("train/accuracy", "train/seconds", "val/accuracy", "learning_rate"),
    }
    completed = sample_record(fit=fit)
    metrics = sweep.tracker.client.get_run(sweep.log(completed)).data.metrics
    assert "val_accuracy" in metrics
    assert "val_loss" not in metrics


@pytest.mark.parametrize("status", STATUSES)
def test_only_a_cell_that_failed_is_a_failed_run(sweep: SweepLog, status: str) -> None:
    record = sample_record(status=status, profile=None, fit=None, error="it went wrong")
    run = sweep.tracker.client.get_run(sweep.log(record))
    assert run.info.status == ("FAILED" if status in ("failed", "timeout") else "FINISHED")
    assert run.data.tags["status"] == status
    assert run.data.tags["error"] == "it went wrong"


def test_reasons_are_tags_and_a_long_error_is_cut(sweep: SweepLog) -> None:
    record = sample_record(
        status="failed",
        validity="suspect",
        validity_reasons=("unstable", "foreign process"),
        error="x" * 20_000,
    )
    tags = sweep.tracker.client.get_run(sweep.log(record)).data.tags
    assert tags["validity_reasons"] == "unstable; foreign process"
    assert tags["error"] == "x" * MAX_TAG_CHARACTERS


def test_the_data_set_is_logged_with_its_digest(sweep: SweepLog) -> None:
    run = sweep.tracker.client.get_run(sweep.log(sample_record()))
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "d" * 32)
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}


def test_artifacts_give_the_whole_record_back(sweep: SweepLog, tmp_path: Path) -> None:
    record = sample_record()
    run_id = sweep.log(record)
    names = {file.path for file in sweep.tracker.client.list_artifacts(run_id)}
    assert names == {"cell.json", "environment.json", "record.json", "stderr.txt", "windows.csv"}
    files = {name: artifact(sweep, run_id, name, tmp_path) for name in names}
    assert msgspec.json.decode(files["record.json"], type=Record) == record
    assert msgspec.json.decode(files["cell.json"], type=Cell) == record.cell
    assert msgspec.json.decode(files["environment.json"], type=Environment) == sample_environment()
    assert files["stderr.txt"] == b"a warning\n"


def test_the_raw_windows_are_an_artifact_the_rejected_ones_marked(
    sweep: SweepLog, tmp_path: Path
) -> None:
    record = sample_record()
    assert record.profile is not None
    text = artifact(sweep, sweep.log(record), "windows.csv", tmp_path).decode()
    rows = list(csv.DictReader(text.splitlines()))
    kept = [float(row["seconds"]) for row in rows if row["kind"] == "timed"]
    assert kept == [window.seconds for window in record.profile.windows]
    assert [row["foreign_fraction"] for row in rows if row["kind"] == "rejected"] == ["0.31"]


def test_a_cell_without_windows_or_messages_has_no_such_artifacts(sweep: SweepLog) -> None:
    run_id = sweep.log(sample_record(status="out_of_memory", profile=None, stderr_tail=""))
    names = {file.path for file in sweep.tracker.client.list_artifacts(run_id)}
    assert names == {"cell.json", "environment.json", "record.json"}


def test_logging_a_cell_again_supersedes_its_former_run(sweep: SweepLog) -> None:
    first = sweep.log(sample_record())
    second = sweep.log(sample_record())
    client = sweep.tracker.client
    former = client.get_run(first)
    assert former.data.tags["kind"] == "superseded"
    assert former.info.status == "KILLED"
    assert former.info.end_time == round(sample_record().finished_at * 1000)
    assert client.get_run(second).data.tags["kind"] == "cell"


def test_logging_a_cell_leaves_other_sweeps_and_other_cells_alone(tracker: Tracker) -> None:
    other = tracker.sweep("quick-other", profile="quick", environment=sample_environment())
    other.log(sample_record(sweep_id="quick-other"))
    sweep = open_sweep(tracker)
    sweep.log(sample_record())
    sweep.log(sample_record(cell=sample_cell(seed=1)))
    assert kinds(sweep) == [("cell", "FINISHED")] * 3


def test_a_half_written_run_is_superseded_and_its_cell_logged(sweep: SweepLog) -> None:
    complete, half, missing = three_records()
    kept = sweep.log(complete)
    torn = leave_half_written(sweep, half)
    done = sweep.reconcile([complete, half, missing])
    assert done.superseded == (torn,)
    assert done.logged == (half.cell.name, missing.cell.name)
    assert kinds(sweep) == [("cell", "FINISHED")] * 3 + [("superseded", "KILLED")]
    assert sweep.tracker.client.get_run(kept).data.tags["kind"] == "cell"


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


def test_reconciling_twice_changes_nothing_the_second_time(sweep: SweepLog) -> None:
    records = three_records()
    leave_half_written(sweep, records[0])
    sweep.reconcile(records)
    before = kinds(sweep)
    assert sweep.reconcile(records) == Reconciled()
    assert kinds(sweep) == before


def test_a_kill_while_superseding_is_made_good(sweep: SweepLog) -> None:
    record = sample_record()
    leave_half_written(sweep, record, kind="superseded")
    sweep.reconcile([record])
    assert kinds(sweep) == [("cell", "FINISHED"), ("superseded", "KILLED")]


def test_a_later_record_of_a_cell_replaces_the_run_of_an_earlier_one(sweep: SweepLog) -> None:
    first = sample_record(status="failed", profile=None, fit=None, error="lost its worker")
    again = sample_record(started_at=STARTED_AT + 100, finished_at=STARTED_AT + 109)
    sweep.log(first)
    assert sweep.reconcile([first, again]).logged == (again.cell.name,)
    assert kinds(sweep) == [("cell", "FINISHED"), ("superseded", "KILLED")]


def test_reconciling_leaves_complete_runs_without_a_record_and_the_sweeps_run(
    sweep: SweepLog,
) -> None:
    record = sample_record()
    sweep.log(record)
    sweep.finish([record])
    assert sweep.reconcile([]) == Reconciled(is_finished=True)
    assert kinds(sweep) == [("cell", "FINISHED"), ("sweep", "FINISHED")]


def test_a_sweeps_own_run_must_have_ended_after_its_last_record(sweep: SweepLog) -> None:
    record = sample_record()
    assert not sweep.reconcile([record]).is_finished
    sweep.finish([record])
    assert sweep.reconcile([record]).is_finished
    later = sample_record(cell=sample_cell(seed=1), finished_at=time.time() + 1000)
    sweep.log(later)
    assert not sweep.reconcile([record, later]).is_finished


@pytest.fixture
def other_process() -> Iterator[Owner]:
    """A living process of this machine that is not this one."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = owner._start(process.pid)  # noqa: SLF001 (as that process would see itself)
        assert start
        yield Owner(host=socket.gethostname(), pid=process.pid, start=start)
        process.communicate(b"\n")


def leave_running(sweep: SweepLog, writer: Owner, *, sweep_id: str, kind: str = "cell") -> str:
    """Do what `writer` does that has begun to log a cell of `sweep_id`."""
    tags = {
        "kind": kind,
        "sweep_id": sweep_id,
        "cell_hash": sample_record().cell_hash,
        "host": writer.host,
        "pid": str(writer.pid),
        "process_start": writer.start,
    }
    run = sweep.tracker.client.create_run(sweep.experiment_id, tags=tags)
    return str(run.info.run_id)


def test_what_dead_processes_left_running_is_closed_and_what_living_ones_write_is_not(
    sweep: SweepLog, other_process: Owner
) -> None:
    dead = replace(other_process, start="another boot")
    far = replace(dead, host="elsewhere")
    left = leave_running(sweep, dead, sweep_id="quick-other")
    own = leave_running(sweep, dead, sweep_id="quick-other", kind="sweep")
    begun = leave_running(sweep, other_process, sweep_id="quick-other")
    here = leave_running(sweep, other_process, sweep_id=SWEEP_ID)
    away = leave_running(sweep, far, sweep_id="quick-other")
    assert sweep.reconcile([]).superseded == (left,)
    runs = {run.info.run_id: run for run in all_runs(sweep)}
    assert runs[left].info.status == runs[own].info.status == "KILLED"
    assert runs[left].data.tags["kind"] == "superseded"
    assert runs[own].data.tags["kind"] == "sweep"
    for run_id in (begun, here, away):
        assert runs[run_id].info.status == "RUNNING"
        assert runs[run_id].data.tags["kind"] == "cell"


def test_files_outside_a_cells_own_folder_are_never_logged(
    tracker: Tracker, tmp_path: Path
) -> None:
    record = sample_record(artifacts=("trace.json.gz", "../../secret", "link", "/etc/hostname"))
    folder = tmp_path / "artifacts" / record.cell_hash
    folder.mkdir(parents=True)
    (folder / "trace.json.gz").write_text("ours")
    (tmp_path / "secret").write_text("a secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    sweep = open_sweep(tracker, artifacts_dir=tmp_path / "artifacts")
    run_id = sweep.log(record)
    names = {file.path for file in tracker.client.list_artifacts(run_id)}
    assert names & {"trace.json.gz", "secret", "link", "hostname"} == {"trace.json.gz"}
    sweep = open_sweep(tracker, artifacts_dir=tmp_path / "artifacts" / record.cell_hash)
    run_id = sweep.log(replace(record, cell_hash="..", artifacts=("secret", "trace.json.gz")))
    names = {file.path for file in tracker.client.list_artifacts(run_id)}
    assert not names & {"trace.json.gz", "secret"}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://token@host:5000", "http://***@host:5000"),
        ("http://me:p@ss/w@host", "http://***@host"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://***@host/db?***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_what_it_holds_of_secrets(uri: str, shown: str) -> None:
    assert shown_address(uri) == shown


def test_reconciling_fills_an_empty_store_from_the_journal(sweep: SweepLog) -> None:
    records = three_records()
    assert len(sweep.reconcile(records).logged) == 3
    assert kinds(sweep) == [("cell", "FINISHED")] * 3


def test_reconciling_reads_every_page_of_runs(
    sweep: SweepLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.tracking.runs.RUNS_PER_PAGE", 2)
    records = three_records()
    sweep.reconcile(records)
    assert sweep.reconcile(records) == Reconciled()


def test_the_sweep_has_one_run_with_its_counts_environment_and_report(
    sweep: SweepLog, tmp_path: Path
) -> None:
    failed = sample_record(cell=sample_cell(seed=1), status="failed")
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("<p>the report")
    first = sweep.finish([sample_record()])
    second = sweep.finish([sample_record(), failed], report_dir=report)
    assert first == second
    assert kinds(sweep) == [("sweep", "FINISHED")]
    run = sweep.tracker.client.get_run(second)
    assert run.info.run_name == SWEEP_ID
    assert run.data.tags["sweep_id"] == SWEEP_ID
    counts = {name: value for name, value in run.data.metrics.items() if value}
    assert counts == {"num_cells": 2, "num_completed": 1, "num_failed": 1}
    assert artifact(sweep, second, "report/index.html", tmp_path) == b"<p>the report"
    environment = artifact(sweep, second, "environment.json", tmp_path)
    assert msgspec.json.decode(environment, type=Environment) == sample_environment()


def test_the_experiment_is_one_of_model_training_and_stays_the_same(tracker: Tracker) -> None:
    first, second = open_sweep(tracker), open_sweep(tracker)
    assert first.experiment_id == second.experiment_id
    experiment = tracker.client.get_experiment(first.experiment_id)
    assert experiment.name == "cnnbench/quick"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_an_experiment_that_a_user_deleted_comes_back_with_its_runs(tracker: Tracker) -> None:
    record = sample_record()
    deleted = open_sweep(tracker)
    deleted.log(record)
    tracker.client.delete_experiment(deleted.experiment_id)
    restored = open_sweep(tracker)
    assert restored.experiment_id == deleted.experiment_id
    assert restored.reconcile([record]) == Reconciled()
    assert kinds(restored) == [("cell", "FINISHED")]


def test_the_default_store_is_a_wal_file_beside_its_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    results = tmp_path / "results"
    tracker = open_store(None, results)
    assert tracker.uri == f"sqlite:///{results}/mlflow.db"
    assert results.is_absolute()
    open_sweep(tracker).log(sample_record())
    tracker.close()
    assert {path.name for path in results.iterdir()} == {"mlflow.db", "mlartifacts"}
    assert list(elsewhere.iterdir()) == []
    with closing(sqlite3.connect(results / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_relative_address_is_the_same_store_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = open_store("sqlite:///own.db", Path("results"))
    tracker.close()
    assert tracker.uri == f"sqlite:///{tmp_path}/own.db"
    assert (tmp_path / "own.db").is_file()


def test_folders_with_unusual_names_hold_a_store(tmp_path: Path) -> None:
    sweep = open_sweep(open_store(None, tmp_path / "a b#c é"))
    run_id = sweep.log(sample_record())
    assert artifact(sweep, run_id, "stderr.txt", tmp_path) == b"a warning\n"
    assert len(list((tmp_path / "a b#c é" / "mlartifacts" / "quick").iterdir())) == 1
    sweep.tracker.close()


def test_a_store_that_was_deleted_is_made_anew_in_the_same_process(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for _ in range(2):
        sweep = open_sweep(open_store(None, results))
        sweep.log(sample_record())
        assert kinds(sweep) == [("cell", "FINISHED")]
        shutil.rmtree(results)


def test_sweeps_that_start_at_once_make_one_store(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(3)
    starters = [fork.Process(target=_start_and_log, args=(tmp_path, barrier, n)) for n in range(3)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert [starter.exitcode for starter in starters] == [0, 0, 0]
    sweep = open_sweep(open_store(None, tmp_path))
    assert kinds(sweep) == [("cell", "FINISHED")] * 15
    sweep.tracker.close()


def test_a_kill_while_the_store_is_made_leaves_none_half_made(tmp_path: Path) -> None:
    starter = multiprocessing.get_context("fork").Process(target=open_store, args=(None, tmp_path))
    starter.start()
    while not list(tmp_path.glob(".mlflow-*/mlflow.db")):
        assert starter.is_alive()
    starter.kill()
    starter.join()
    assert not (tmp_path / "mlflow.db").exists()
    sweep = open_sweep(open_store(None, tmp_path))
    sweep.log(sample_record())
    assert kinds(sweep) == [("cell", "FINISHED")]
    sweep.tracker.close()


def _start_and_log(results: Path, barrier: Any, number: int) -> None:
    barrier.wait()
    tracker = open_store(None, results)
    sweep = open_sweep(tracker)
    assert sweep.reconcile([]).superseded == ()
    for seed in range(5):
        sweep.log(sample_record(cell=sample_cell(seed=10 * number + seed)))
    tracker.close()


def make_old_store(path: Path) -> None:
    """Make a store as an earlier MLflow did, by that MLflow's own migrations."""
    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    engine = create_engine(f"sqlite:///{path}")
    InitialTables.metadata.create_all(engine)
    engine.dispose()
    alembic_command.upgrade(config, "451aebb31d03")


def test_a_store_of_an_older_mlflow_is_refused_untouched_until_its_remedy_is_run(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mlflow.db"
    make_old_store(path)
    before = path.read_bytes()
    with pytest.raises(StoreError) as refusal:
        open_store(None, tmp_path)
    assert path.read_bytes() == before
    (message,) = str(refusal.value).splitlines()
    assert f"mlflow db upgrade sqlite:///{path}" in message
    remedy = message.split("`")[1].split()
    subprocess.run(remedy, check=True, capture_output=True)
    sweep = open_sweep(open_store(None, tmp_path))
    sweep.log(sample_record())
    assert kinds(sweep) == [("cell", "FINISHED")]
    sweep.tracker.close()


def test_a_store_of_an_unknown_mlflow_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
        connection.commit()
    with pytest.raises(StoreError, match="newer one: upgrade MLflow"):
        open_store(None, tmp_path)


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(StoreError, match="holds other tables"):
        open_store(None, tmp_path)


def test_a_corrupt_store_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="file is not a database") as refusal:
        open_store(None, tmp_path)
    assert str(tmp_path / "mlflow.db") in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_store_that_another_program_locks_is_refused(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.close()
    monkeypatch.setattr("cnnbench.tracking.database.LOCK_SECONDS", 0)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            open_store(None, tmp_path)


def test_a_results_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken") as refusal:
        open_store(None, tmp_path / "taken" / "results")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_may_not_be_written_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close()
    (tmp_path / "mlflow.db").chmod(0o444)
    with pytest.raises(StoreError, match="readonly"):
        open_store(None, tmp_path)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite://", "lives in memory"),
        ("sqlite:///what?.db", "in its name"),
        ("carrier-pigeon://loft", "carrier-pigeon"),
        ("sqlite:/one-slash.db", "cannot use the MLflow store"),
    ],
)
def test_an_address_that_is_none_is_refused_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=reason):
        open_store(uri, tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["what?", "100%41"])
def test_a_results_folder_that_no_address_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="in its name"):
        open_store(None, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cnnbench run"):
        open_store(None, tmp_path / "results", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_database_driver_is_named_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver in ("psycopg", "psycopg2"):  # as where neither is installed
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(StoreError, match="needs the Python package 'psycopg") as refusal:
        open_store("postgresql://me:secret@127.0.0.1/mlflow", tmp_path)
    assert "secret" not in str(refusal.value)
    assert "//***@127.0.0.1" in str(refusal.value)


@pytest.mark.timeout(60)
def test_a_server_that_refuses_is_named_before_long_and_no_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot use the MLflow store") as refusal:
        open_store(f"http://me:secret@127.0.0.1:{free_port()}", tmp_path)
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_web_server_that_is_not_mlflows_is_refused(tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that the base class calls
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a page</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(StoreError, match="cannot use the MLflow store"):
            open_store(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_gets_the_same_runs_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/served.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "served"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = tmp_path / "server.log"
    records = three_records()
    with mlflow_server(command, environment=environment, health=f"{address}/health", log=log):
        tracker = open_store(address, tmp_path / "results")
        sweep = open_sweep(tracker)
        sweep.log(records[0])
        run_id = sweep.log(records[0])
        torn = leave_half_written(sweep, records[1])
        done = sweep.reconcile(records)
        assert done.superseded == (torn,)
        assert done.logged == (records[1].cell.name, records[2].cell.name)
        sweep.finish(records)
        assert kinds(sweep) == [
            *[("cell", "FINISHED")] * 3,
            *[("superseded", "KILLED")] * 2,
            ("sweep", "FINISHED"),
        ]
        found = search(tracker, monkeypatch)
        for (_, run), record in zip(found.iterrows(), records, strict=True):
            row = record.row()
            assert [run[f"params.{name}"] for name in PARAM_COLUMNS] == [
                plain_text(row[name]) for name in PARAM_COLUMNS
            ]
            known = [name for name in METRIC_COLUMNS if row[name] is not None]
            assert [run[f"metrics.{name}"] for name in known] == [row[name] for name in known]
        assert (
            msgspec.json.decode(artifact(sweep, run_id, "record.json", tmp_path), type=Record)
            == records[0]
        )
        shown = tracker.ui(port=1)
        assert shown.command == ()
        assert shown.address.startswith(f"{address}/#/experiments/{sweep.experiment_id}/runs?")
    assert not (tmp_path / "results").exists()


def test_the_ui_opens_at_the_latest_sweep_on_this_machine_only(tracker: Tracker) -> None:
    assert tracker.ui(port=5001).address == "http://127.0.0.1:5001/#/experiments"
    full = tracker.sweep("full-1", profile="full", environment=sample_environment())
    quick = open_sweep(tracker)
    quick.finish([])
    full.finish([])
    shown = tracker.ui(port=5001)
    assert shown.command[shown.command.index("--host") + 1] == "127.0.0.1"
    assert f"/experiments/{full.experiment_id}/" in shown.address
    assert f"/experiments/{quick.experiment_id}/" in tracker.ui(port=5001, profile="quick").address


QUIET_SWEEP = """
import sys, threading
from pathlib import Path

seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen.append((event, arguments))
sys.addaudithook(watch)

from cnnbench.tracking import open_store
from sample_records import sample_dataset, sample_environment, sample_record

threads = threading.active_count()
tracker = open_store(None, Path(sys.argv[1]))
sweep = tracker.sweep(
    "s", profile="quick", environment=sample_environment(), dataset=sample_dataset()
)
sweep.log(sample_record(sweep_id="s"))
sweep.finish([])
tracker.close()
assert threading.active_count() == threads, threading.enumerate()
assert not seen, seen
"""


def test_a_sweep_prints_nothing_calls_nobody_and_leaves_no_thread(tmp_path: Path) -> None:
    # Not as under a test runner or a CI service, where MLflow sends nothing by itself.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
    }
    done = subprocess.run(
        [sys.executable, "-c", QUIET_SWEEP, str(tmp_path / "results")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert not (tmp_path / "home").exists()
