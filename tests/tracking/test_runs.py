"""A cell's run: params, metrics, tags, curves and files, as MLflow reads them back."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from cnnbench.cell import Cell, plain_text
from cnnbench.environment import Environment
from cnnbench.record import METRIC_COLUMNS, PARAM_COLUMNS, STATUSES, Epoch, Fit, Record
from cnnbench.tracking.tags import MAX_TAG_CHARACTERS
from sample_records import (
    GIT_COMMIT,
    sample_cell,
    sample_environment,
    sample_fit,
    sample_record,
)
from tracked import artifact, open_sweep, search, three_records

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.tracking import SweepLog, Tracker


CURVES = {
    *("train/loss", "train/accuracy", "train/seconds", "val/loss", "val/accuracy"),
    "learning_rate",
}


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
