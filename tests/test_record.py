"""Every column, computed again from raw values by other means than the record's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from cnnbench.cell import Cell, Recipe
from cnnbench.measurement import Memory, Profile, Window
from cnnbench.record import (
    COLUMNS,
    METRIC_COLUMNS,
    PARAM_COLUMNS,
    STATUSES,
    Epoch,
    Fit,
    Record,
)
from cnnbench.stats import median_interval
from sample_records import sample_record

# As the contract writes them, the recipe's names and those of later work among them.
CONTRACT = """
sweep_id, cell_hash, status, validity, validity_reasons, device, architecture, precision,
effective_precision, batch_size, checkpointing, memory_format, compile, loader, dataset,
image_size, num_classes, optimizer, learning_rate, schedule, augmentation, weight_decay, dropout,
label_smoothing, patience, train_subset, weights, target_accuracy, seed, num_parameters,
environment_hash, images_per_second, images_per_second_low, images_per_second_high,
step_ms_median, step_ms_p95, num_windows, stop_reason, peak_allocated_mib, peak_reserved_mib,
process_mib, num_alloc_retries, model_gflops_per_image, mfu, roofline_fraction, joules_per_image,
data_wait_fraction, setup_seconds, compile_seconds, epochs_run, train_accuracy, val_accuracy,
best_val_accuracy, test_accuracy, val_loss, time_to_accuracy_seconds, skipped_steps, error
"""

SECONDS = [0.21, 0.2, 0.22, 0.3, 0.205, 0.24, 0.2, 0.2, 0.23, 0.28, 0.21]
WINDOWS = tuple(
    Window(seconds=s, num_steps=7, data_seconds=s / 100, foreign_fraction=0.0) for s in SECONDS
)
LOW, HIGH = median_interval([s / 7 for s in SECONDS])
PROFILE = Profile(
    windows=WINDOWS,
    rejected_windows=WINDOWS[:2],
    low_step_seconds=LOW,
    high_step_seconds=HIGH,
    stop_reason="half_width",
    num_warmup_steps=5,
    setup_seconds=1.5,
    compile_seconds=0.75,
)
MEMORY = Memory(
    peak_allocated_bytes=3 * 2**20,
    peak_reserved_bytes=5 * 2**20,
    process_bytes=2**30,
    setup_peak_bytes=2**31,
    data_bytes=2**19,
    num_alloc_retries=0,
)


def epoch(val_accuracy: float, **changes: float) -> Epoch:
    plain = Epoch(
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=1.25,
        val_accuracy=val_accuracy,
        learning_rate=0.001,
        train_seconds=2.0,
        val_seconds=100.0,
    )
    return replace(plain, **changes)


FIT = Fit(
    epochs=(epoch(0.5), epoch(0.75), epoch(0.75, train_loss=9.0), epoch(0.625, val_loss=0.5)),
    num_train_images=1000,
    test_accuracy=0.7,
    skipped_steps=2,
    final_loss_scale=32768.0,
)


def record(**changes: Any) -> Record:
    cell = Cell(architecture="resnet", batch_size=96, recipe=Recipe(epochs=4, target_accuracy=0.7))
    plain = Record(
        sweep_id="quick-0",
        cell=cell,
        cell_hash=cell.hash,
        environment_hash="e" * 16,
        status="completed",
        device="a device",
        effective_precision="fp32",
        num_parameters=1234,
        profile=PROFILE,
        memory=MEMORY,
        fit=FIT,
    )
    return replace(plain, **changes)


def test_the_contracts_columns_are_all_there() -> None:
    contract = [name.strip() for name in CONTRACT.replace("\n", " ").split(",")]
    assert set(contract) <= set(COLUMNS)
    assert tuple(record().row()) == COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_rates_come_from_the_median_window_and_its_interval() -> None:
    row = record().row()
    steps = np.array(SECONDS) / 7
    assert row["images_per_second"] == pytest.approx(96 / np.median(steps))
    assert row["images_per_second_low"] == pytest.approx(96 / HIGH)
    assert row["images_per_second_high"] == pytest.approx(96 / LOW)
    assert row["images_per_second_total"] == pytest.approx(96 * 7 * len(SECONDS) / sum(SECONDS))
    assert row["step_ms_median"] == pytest.approx(1e3 * np.median(steps))
    assert row["step_ms_p95"] == pytest.approx(1e3 * np.percentile(steps, 95))
    assert row["data_wait_fraction"] == pytest.approx(0.01)
    assert (row["num_windows"], row["num_rejected_windows"]) == (11, 2)
    assert (row["setup_seconds"], row["compile_seconds"]) == (1.5, 0.75)
    assert row["stop_reason"] == "half_width"


@pytest.mark.parametrize("number", range(1, 9))
def test_p95_is_numpys(number: int) -> None:
    profile = replace(PROFILE, windows=WINDOWS[:number])
    expected = np.percentile(np.array(SECONDS[:number]) / 7, 95)
    assert profile.p95_step_seconds == pytest.approx(expected)


def test_the_total_counts_steps_of_windows_of_any_length() -> None:
    windows = (Window(seconds=1.0, num_steps=10), Window(seconds=3.0, num_steps=2))
    profile = replace(PROFILE, windows=windows)
    assert profile.total_steps_per_second == pytest.approx(3.0)
    assert profile.median_step_seconds == pytest.approx((0.1 + 1.5) / 2)


def test_memory_is_in_mib() -> None:
    row = record().row()
    assert row["peak_allocated_mib"] == 3
    assert row["peak_reserved_mib"] == 5
    assert row["process_mib"] == 1024
    assert row["data_mib"] == 0.5
    assert row["num_alloc_retries"] == 0


def test_accuracies_come_from_the_last_and_the_best_epoch() -> None:
    row = record().row()
    assert FIT.best is FIT.epochs[1], "of equals the first"
    assert row["best_val_accuracy"] == 0.75
    assert (row["train_accuracy"], row["val_accuracy"], row["val_loss"]) == (0.5, 0.625, 0.5)
    assert (row["test_accuracy"], row["epochs_run"], row["skipped_steps"]) == (0.7, 4, 2)


def test_time_to_accuracy_counts_training_up_to_the_first_epoch_that_reached_it() -> None:
    assert record().row()["time_to_accuracy_seconds"] == 4.0
    assert FIT.seconds_to(0.5) == 2.0
    assert FIT.seconds_to(0.75) == 4.0
    assert FIT.seconds_to(0.76) is None


def test_a_diverged_cell_claims_no_accuracy() -> None:
    row = record(status="diverged").row()
    known = {name for name in row if name in {f"{s}_accuracy" for s in ("train", "val", "test")}}
    assert known
    assert {row[name] for name in known} == {None}
    assert row["best_val_accuracy"] is None
    assert row["val_loss"] is None
    assert row["time_to_accuracy_seconds"] is None
    assert (row["epochs_run"], row["skipped_steps"]) == (4, 2)


@pytest.mark.parametrize("status", STATUSES)
def test_what_was_not_measured_is_unknown_and_never_zero(status: str) -> None:
    bare = record(
        status=status,
        effective_precision=None,
        num_parameters=None,
        profile=None,
        memory=None,
        fit=None,
    )
    assert {bare.row()[name] for name in METRIC_COLUMNS} == {None}
    assert bare.row()["effective_precision"] is None
    assert bare.row()["stop_reason"] is None
    assert bare.row()["validity_reasons"] is None


def test_unknown_parts_stay_unknown_among_known_ones() -> None:
    windows = (*WINDOWS, Window(seconds=0.2, num_steps=7, data_seconds=None))
    profile = replace(PROFILE, windows=windows, compile_seconds=None)
    fit = replace(FIT, test_accuracy=None, skipped_steps=None)
    row = record(profile=profile, memory=Memory(process_bytes=0), fit=fit).row()
    for name in (
        "data_wait_fraction",
        "compile_seconds",
        "peak_allocated_mib",
        "peak_reserved_mib",
        "data_mib",
        "num_alloc_retries",
        "test_accuracy",
        "skipped_steps",
        "mfu",
        "joules_per_image",
    ):
        assert row[name] is None, name
    assert row["process_mib"] == 0


def test_without_a_target_there_is_no_time_to_it() -> None:
    cell = Cell(architecture="resnet", recipe=Recipe(epochs=4))
    assert record(cell=cell).row()["time_to_accuracy_seconds"] is None


def test_a_training_without_epochs_claims_nothing() -> None:
    row = record(fit=Fit(epochs=(), num_train_images=10)).row()
    assert row["epochs_run"] == 0
    assert row["best_val_accuracy"] is None


def test_the_row_says_what_was_asked_for() -> None:
    row = record(validity="suspect", validity_reasons=("one", "two")).row()
    params = record().cell.params()
    assert {name: row[name] for name in PARAM_COLUMNS} == params
    assert set(params) == set(PARAM_COLUMNS)
    assert row["validity_reasons"] == "one; two"


@pytest.mark.parametrize(
    "original",
    [record(), sample_record(), record(profile=None, memory=None, fit=None, error="no")],
)
def test_a_record_survives_json(original: Record) -> None:
    again = msgspec.json.decode(msgspec.json.encode(original), type=Record)
    assert again == original
    assert again.row() == original.row()
    assert again.cell.hash == original.cell_hash
