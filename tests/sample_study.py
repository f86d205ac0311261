"""A small study as a user writes it, and records as its cells leave them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnbench.record import Epoch, Fit, Record
from cnnbench.sweep.arms import Arm, make_cell
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.studies import load_study
from sample_records import sample_dataset, sample_memory, sample_profile, sample_record

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.study import Study

STUDY = """
title = "Wider networks"
advice = "Take a wider network."
section = "0"
factor = "width"
baseline = "narrow"
seeds = 3
max_seeds = 5

[cell]
architecture = "simple_cnn(width=4)"
batch_size = 64

[recipe]
epochs = 2
target_accuracy = 0.5
train_subset = 256

[timing]
window_seconds = 0.005
min_windows = 3
max_windows = 3
limit_seconds = 0.05
warmup_steps = 1

[[variant]]
name = "wide"
width = 8

[[claim]]
metric = "num_parameters"
direction = "up"
size = 0.2

[[claim]]
metric = "best_val_accuracy"
direction = "up"
size = 1.0
"""


def write_study(folder: Path, *changes: tuple[str, str], name: str = "wider.toml") -> Path:
    """Write the study with each `(old, new)` replaced, and return its path."""
    text = STUDY
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return path


def sample_study(folder: Path, *changes: tuple[str, str]) -> Study:
    """Return the study as it is read."""
    return load_study(str(write_study(folder, *changes)))


def arm_record(
    study: Study,
    name: str,
    seed: int,
    *,
    kind: str = "fit",
    accuracy: float = 0.8,
    seconds: float = 0.02,
    peak_mib: float = 60.0,
    **changes: Any,
) -> Record:
    """Return what a cell of the arm leaves: a training with that accuracy, or a profile."""
    cell = resolve(make_cell(study, Arm(name=name, kind=kind), seed=seed), sample_dataset())
    if kind == "fit":
        found: dict[str, Any] = {"fit": fit(accuracy), "profile": None, "memory": None}
    else:
        windows = tuple(
            replace(window, seconds=10 * seconds) for window in sample_profile().windows
        )
        profile = sample_profile(
            windows=windows, low_step_seconds=0.99 * seconds, high_step_seconds=1.01 * seconds
        )
        memory = sample_memory(peak_allocated_bytes=int(peak_mib * 2**20))
        found = {"fit": None, "profile": profile, "memory": memory}
    return sample_record(cell=cell, **{**found, **changes})


def fit(accuracy: float, *, num_epochs: int = 2) -> Fit:
    """Return a training that reaches `accuracy` in its last epoch."""
    epochs = tuple(
        Epoch(
            train_loss=1.0,
            train_accuracy=accuracy * number / num_epochs,
            val_loss=1.0,
            val_accuracy=accuracy * number / num_epochs,
            learning_rate=1e-3,
            train_seconds=0.1,
            val_seconds=0.1,
        )
        for number in range(1, num_epochs + 1)
    )
    return Fit(epochs=epochs, num_train_images=256, test_accuracy=accuracy)
