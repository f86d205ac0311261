"""Records as a sweep on a CPU makes them, for tests that need some without running any cell."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import msgspec

from cnnbench.cell import Cell, Recipe
from cnnbench.environment import DatasetInfo, Environment
from cnnbench.measurement import Memory, Profile, Window
from cnnbench.record import Epoch, Fit, Record
from cnnbench.results import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

STARTED_AT = 1_760_000_000.125
GIT_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sample_environment(**changes: Any) -> Environment:
    """Return a plausible CPU machine with `changes`."""
    environment = Environment(
        device="Intel Xeon",
        device_type="cpu",
        cpu="Intel Xeon",
        num_cpus=2,
        memory_bytes=8 * 2**30,
        num_threads=2,
        operating_system="Linux 6.1",
        python="3.11.7",
        torch="2.11.0",
        torchvision="0.26.0",
        numpy="2.2.0",
        cnnbench="0.1.0",
        code_digest="a" * 16,
        git_commit=GIT_COMMIT,
        git_dirty=False,
    )
    return replace(environment, **changes)


def sample_dataset(**changes: Any) -> DatasetInfo:
    """Return what the digits' description looks like, with `changes`."""
    dataset = DatasetInfo(
        name="digits",
        digest="d" * 32,
        source="scikit-learn's load_digits",
        path="prepared/digits",
        image_size=32,
        num_channels=3,
        num_classes=10,
        num_train=1257,
        num_val=270,
        num_test=270,
        augmentation="crop",
        augmentations=("none", "crop"),
        mean=(0.3, 0.3, 0.3),
        std=(0.35, 0.35, 0.35),
    )
    return replace(dataset, **changes)


def sample_cell(**changes: Any) -> Cell:
    """Return a quick cell with `changes`."""
    recipe = Recipe(epochs=3, learning_rate=1e-5, target_accuracy=0.5)
    cell = Cell(architecture="resnet(width=16,depth=2)", precision="bf16", recipe=recipe)
    return replace(cell, **changes)


def sample_profile(**changes: Any) -> Profile:
    """Return ten steady windows and one that was measured again, with `changes`."""
    windows = tuple(
        Window(
            seconds=0.2 + 0.001 * number,
            num_steps=10,
            data_seconds=0.0004,
            foreign_fraction=0.01,
        )
        for number in range(10)
    )
    profile = Profile(
        windows=windows,
        rejected_windows=(Window(seconds=0.4, num_steps=10, foreign_fraction=0.31),),
        low_step_seconds=0.0202,
        high_step_seconds=0.0207,
        stop_reason="precise",
        num_warmup_steps=10,
        setup_seconds=0.7,
    )
    return replace(profile, **changes)


def sample_memory(**changes: Any) -> Memory:
    """Return the peaks of a CPU cell, with `changes`."""
    memory = Memory(
        peak_allocated_bytes=61 * 2**20 + 1,
        process_bytes=120 * 2**20,
        setup_peak_bytes=70 * 2**20,
        data_bytes=15 * 2**20,
    )
    return replace(memory, **changes)


def sample_fit(*, num_epochs: int = 3) -> Fit:
    """Return a training run that learns."""
    epochs = tuple(
        Epoch(
            train_loss=2.0 / number,
            train_accuracy=1 - 0.7 / number,
            val_loss=2.1 / number,
            val_accuracy=1 - 0.8 / number,
            learning_rate=1e-5,
            train_seconds=0.5,
            val_seconds=0.1,
        )
        for number in range(1, num_epochs + 1)
    )
    return Fit(epochs=epochs, num_train_images=1257, test_accuracy=0.7, skipped_steps=0)


def sample_record(**changes: Any) -> Record:
    """Return a completed cell with `changes`; the hash follows the cell unless given."""
    cell = changes.pop("cell", None) or sample_cell()
    record = Record(
        sweep_id="quick-0123456789ab",
        cell=cell,
        cell_hash=cell.hash,
        environment_hash="e" * 16,
        status="completed",
        device="Intel Xeon",
        effective_precision=cell.precision,
        num_parameters=175_258,
        num_trainable_parameters=175_258,
        profile=sample_profile(),
        memory=sample_memory(),
        fit=sample_fit(),
        started_at=STARTED_AT,
        finished_at=STARTED_AT + 8.5,
        start_seconds=0.02,
        stderr_tail="a warning\n",
    )
    return replace(record, **changes)


def write_surroundings(sweep: Path) -> None:
    """Write the `environment.json` of a sweep of these records."""
    surroundings = {
        **asdict(sample_environment()),
        "dataset": asdict(sample_dataset()),
        "command": "cnnbench run --profile quick",
        "profile": "quick",
    }
    (sweep / ENVIRONMENT).write_bytes(msgspec.json.encode(surroundings))
