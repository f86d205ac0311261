"""One cell in, one record out: profiled, trained, and nothing of the one in the other."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from cnnbench.architectures.resnet import ResNet
from cnnbench.checkpointing import FROZEN_NOTE
from cnnbench.execute import NOT_MEANINGFUL, execute
from cnnbench.record import Record
from executed import RESNET, TRAINS, curves, run
from sample_jobs import BRIEF, UNTIMED, job, tiny_cell, tiny_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Progress


def test_a_cell_is_profiled_and_trained(digits: DatasetInfo) -> None:
    told: list[Progress] = []
    cell = tiny_cell(RESNET, recipe=TRAINS, precision="bf16")
    record = execute(job(cell, digits), told.append)
    assert (record.status, record.error) == ("completed", None)
    assert (record.cell, record.cell_hash) == (cell, cell.hash)
    assert record.validity != "invalid"
    assert record.effective_precision == "bf16"
    assert record.num_parameters == record.num_trainable_parameters
    assert record.num_parameters == sum(p.numel() for p in ResNet(width=4, depth=1).parameters())
    assert record.started_at < record.finished_at
    profile, memory, fit = record.profile, record.memory, record.fit
    assert profile is not None
    assert memory is not None
    assert fit is not None
    assert profile.stop_reason in {"half_width", "max_windows", "limit_seconds"}
    assert profile.num_warmup_steps > BRIEF.warmup_steps
    assert profile.compile_seconds is None
    assert profile.low_step_seconds <= profile.median_step_seconds <= profile.high_step_seconds
    assert memory.peak_allocated_bytes is not None
    assert memory.peak_allocated_bytes > 4 * record.num_parameters
    # 256 + 270 + 270 grey images of 16 x 16 pixels, and a label of 8 bytes for each.
    assert memory.data_bytes == 796 * (16 * 16 + 8)
    assert len(fit.epochs) == 2
    assert fit.accuracy_note is None
    epochs = [(progress.epoch, progress.curves) for progress in told if progress.epoch]
    assert epochs == list(enumerate(fit.epochs, 1))
    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases == ["setting up", "warming up", "timing", "measuring memory", "training"]
    row = record.row()
    assert row["time_to_accuracy_seconds"] == fit.epochs[0].train_seconds
    assert all(row[name] is not None for name in ("images_per_second", "test_accuracy", "data_mib"))


def test_a_record_survives_json(digits: DatasetInfo) -> None:
    record = run(tiny_cell(recipe=TRAINS), digits)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


def test_a_cell_without_epochs_is_only_profiled(digits: DatasetInfo) -> None:
    record = run(tiny_cell(), digits)
    assert (record.status, record.fit) == ("completed", None)
    assert record.profile is not None


def test_a_cell_without_windows_is_only_trained(digits: DatasetInfo) -> None:
    record = run(tiny_cell(recipe=TRAINS, timing=UNTIMED), digits)
    assert record.status == "completed"
    assert (record.profile, record.memory) == (None, None)
    assert record.row()["images_per_second"] is None
    assert record.num_parameters is not None
    assert len(curves(record)) == 2


def test_a_cell_fed_by_workers_is_profiled_and_trained_and_its_waiting_measured(
    digits: DatasetInfo,
) -> None:
    record = run(tiny_cell(recipe=TRAINS, loader="workers"), digits)
    assert record.status == "completed", record.error
    assert record.profile is not None
    wait = record.profile.data_wait_fraction
    assert wait is not None
    assert 0 < wait < 1
    plain = run(tiny_cell(recipe=TRAINS), digits)
    assert record.fit is not None
    assert plain.fit is not None
    for ours, theirs in zip(record.fit.epochs, plain.fit.epochs, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
        assert ours.val_accuracy == pytest.approx(theirs.val_accuracy, abs=0.01)


def test_profiling_leaves_no_trace_in_the_training(digits: DatasetInfo) -> None:
    recipe = replace(TRAINS, dropout=0.2)
    both, alone = (
        run(tiny_cell(RESNET, recipe=recipe, timing=timing), digits) for timing in (BRIEF, UNTIMED)
    )
    assert curves(both) == curves(alone)


@pytest.mark.parametrize("checkpointing", ["none", "block"])
def test_the_profiled_model_is_gone_when_training_begins(
    digits: DatasetInfo, checkpointing: str
) -> None:
    alive: list[int] = []

    def count(progress: Progress) -> None:
        if progress.phase == "training" and progress.epoch is None:
            alive.append(sum(type(each) is ResNet for each in gc.get_objects()))

    gc.collect()
    before = sum(type(each) is ResNet for each in gc.get_objects())
    cell = tiny_cell(RESNET, recipe=TRAINS, checkpointing=checkpointing)
    execute(job(cell, digits), count)
    assert alive == [before]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_curve(digits: DatasetInfo, dropout: float) -> None:
    recipe = replace(TRAINS, dropout=dropout)
    records = [
        run(tiny_cell(RESNET, recipe=recipe, timing=UNTIMED, checkpointing=each), digits)
        for each in ("none", "stage", "block")
    ]
    assert [record.status for record in records] == ["completed"] * 3
    assert curves(records[0]) == curves(records[1]) == curves(records[2])
    tested = {record.fit.test_accuracy for record in records if record.fit}
    assert len(tested) == 1


def test_missing_weights_are_profiled_and_claim_no_accuracy(
    digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    recipe = tiny_recipe(epochs=1, weights="imagenet", image_size=32)
    record = run(tiny_cell("transfer_resnet50", recipe=recipe, batch_size=4), digits)
    assert record.status == "completed"
    assert record.profile is not None
    assert record.row()["images_per_second"] is not None
    assert record.fit is None
    assert record.row()["test_accuracy"] is None
    assert len(record.notes) == 1
    assert "no accuracy is claimed" in record.notes[0]
    assert "--download" in record.notes[0]
    assert str(tmp_path) in record.notes[0]


@pytest.mark.parametrize(
    ("architecture", "note"),
    [("transfer_resnet50", NOT_MEANINGFUL), ("transfer_resnet50(frozen=False)", None)],
)
def test_frozen_random_weights_mark_the_accuracy_as_not_meaningful(
    digits: DatasetInfo, architecture: str, note: str | None
) -> None:
    recipe = tiny_recipe(epochs=1, train_subset=16)
    cell = tiny_cell(
        architecture, recipe=recipe, timing=UNTIMED, batch_size=8, checkpointing="stage"
    )
    record = run(cell, digits)
    assert record.status == "completed"
    assert record.fit is not None
    assert record.fit.accuracy_note == note
    assert record.notes == ((FROZEN_NOTE,) if note else ())
    assert record.num_parameters == 23_528_522
    assert record.num_trainable_parameters == (20_490 if note else 23_528_522)
