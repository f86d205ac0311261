"""Cells on the digits that end within a second or two, and what a worker is given to run one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.job import CellJob

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo

TINY_CNN = "simple_cnn(width=4,hidden=16)"

BRIEF = Timing(
    window_seconds=0.005,
    min_windows=3,
    max_windows=3,
    half_width=0.5,
    limit_seconds=0.5,
    warmup_steps=2,
)
UNTIMED = replace(BRIEF, max_windows=0)


def tiny_cell(architecture: str = TINY_CNN, *, recipe: Recipe | None = None, **axes: Any) -> Cell:
    """Return a cell as planning makes it: image size, classes and augmentation are written out."""
    settings: dict[str, Any] = {"batch_size": 32, "timing": BRIEF, **axes}
    return Cell(architecture=architecture, recipe=recipe or tiny_recipe(), **settings)


def tiny_recipe(**changes: Any) -> Recipe:
    """Return a recipe for 256 digits of 16 x 16 pixels."""
    recipe = Recipe(
        image_size=16, num_classes=10, augmentation="crop", train_subset=256, weights="none"
    )
    return replace(recipe, **changes)


def job(cell: Cell, dataset: DatasetInfo) -> CellJob:
    """Return what a worker is asked to do with `cell`."""
    return CellJob(
        cell=cell, dataset=dataset, device="cpu", sweep_id="test-0", environment_hash="e" * 16
    )
