"""What a sweep will run: the profile's cells, resolved against the data set and given an identity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnbench.architectures import resolved_weights
from cnnbench.data import augmentation_for
from cnnbench.digest import digest
from cnnbench.errors import InvalidValueError
from cnnbench.job import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from cnnbench.cell import Cell
    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Ready
    from cnnbench.record import Record


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cells of one sweep in the order in which they run, and whose results still stand."""

    sweep_id: str
    cells: tuple[Cell, ...]
    environment_hashes: Mapping[str, str]

    def environment_hash(self, cell: Cell) -> str:
        """Return the hash of what a result of `cell` depends on besides the cell itself."""
        return self.environment_hashes[cell.architecture]

    def missing(
        self,
        records: Iterable[Record],
        *,
        retry_failed: bool,
        artifacts: AbstractSet[str] = frozenset(),
    ) -> list[Cell]:
        """Return the cells without a record that stands; failed and timed-out ones on request.

        A timed cell that has not left all of `artifacts` runs again: only of a running cell can a trace
        be taken.
        """
        done = {
            (record.cell_hash, record.environment_hash)
            for record in records
            if not (retry_failed and record.status in {"failed", "timeout"})
            and not (record.profile is not None and artifacts - _answered(record))
        }
        return [cell for cell in self.cells if (cell.hash, self.environment_hash(cell)) not in done]


def _answered(record: Record) -> set[str]:
    """Return the files that a cell has left, and those that it could not write."""
    refused = [name for extra in record.unknowns for name in EXTRAS.get(extra, ())]
    return {*record.artifacts, *refused}


def make_plan(profile_name: str, cells: Iterable[Cell], ready: Ready) -> Plan:
    """Return the plan of `cells` on the machine and the data that the preflight found.

    Raises:
        InvalidValueError: a cell asks for what this data set cannot give.
    """
    resolved = tuple(dict.fromkeys(resolve(cell, ready.dataset) for cell in cells))
    hashes = {
        name: ready.environment.hash_with(ready.dataset.digest, code)
        for name, code in ready.model_digests.items()
    }
    identity = digest([[(cell.hash, hashes[cell.architecture]) for cell in resolved]], length=12)
    return Plan(sweep_id=f"{profile_name}-{identity}", cells=resolved, environment_hashes=hashes)


def resolve(cell: Cell, dataset: DatasetInfo) -> Cell:
    """Return `cell` with everything it left to the data set or the architecture written out.

    Raises:
        InvalidValueError: naming what this data set cannot give.
    """
    recipe = cell.recipe
    if recipe.num_classes not in {None, dataset.num_classes}:
        msg = f"num_classes = {recipe.num_classes}, but {dataset.name} has {dataset.num_classes}."
        raise InvalidValueError(msg)
    if recipe.train_subset is not None and recipe.train_subset > dataset.num_train:
        msg = (
            f"train_subset = {recipe.train_subset}, but {dataset.name} has"
            f" {dataset.num_train} training images."
        )
        raise InvalidValueError(msg)
    num_images = recipe.train_subset or dataset.num_train
    if recipe.epochs and cell.batch_size > num_images:
        msg = (
            f"batch_size = {cell.batch_size} is more than the {num_images} training images of"
            f" {dataset.name}: take a smaller batch, or --epochs 0 to profile only."
        )
        raise InvalidValueError(msg)
    return replace(
        cell,
        recipe=replace(
            recipe,
            image_size=recipe.image_size or dataset.image_size,
            num_classes=dataset.num_classes,
            augmentation=augmentation_for(dataset, recipe.augmentation),
            weights=resolved_weights(cell.architecture, recipe.weights),
        ),
    )
