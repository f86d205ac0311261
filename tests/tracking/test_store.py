"""Where a store lies, how it is made, and the sweep's own run in it."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cnnbench.environment import Environment
from cnnbench.errors import StoreError
from cnnbench.tracking import Reconciled, SweepLog, Tracker, open_store
from sample_records import (
    sample_cell,
    sample_environment,
    sample_record,
)
from tracked import SWEEP_ID, artifact, kinds, open_sweep


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


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cnnbench run"):
        open_store(None, tmp_path / "results", create=False)
    assert list(tmp_path.iterdir()) == []
