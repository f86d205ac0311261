"""What one change does with everything else equal: pairs of cells that differ in a single axis."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.best import images_per_second, is_measured, ratio_of_peaks
from cnnbench.analysis.settings import recipe_key
from cnnbench.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnbench.record import Record


CELL_FIELDS = tuple(field.name for field in fields(Cell))
BASELINES = {"precision": "fp32", "checkpointing": "none"}


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Two measured cells that differ in `factor` alone: `variant` is changed, `baseline` is not."""

    factor: str
    baseline: Record
    variant: Record

    @property
    def change(self) -> str:
        """Return the change in words, such as `bf16 instead of fp32`."""
        name = "checkpoint " if self.factor == "checkpointing" else ""
        return (
            f"{name}{getattr(self.variant.cell, self.factor)} instead of {BASELINES[self.factor]}"
        )

    @property
    def throughput_ratio(self) -> float:
        """Return the variant's images per second over the baseline's."""
        return images_per_second(self.variant) / images_per_second(self.baseline)

    @property
    def memory_ratio(self) -> float | None:
        """Return the variant's peak of allocated memory over the baseline's."""
        return ratio_of_peaks(self.variant, self.baseline)


def one_factor_effects(records: Iterable[Record]) -> list[Effect]:
    """Return every pair of measured cells that differ in one factor alone, on the same environment.

    The training's length is no part of a profiled step, so it may differ.
    """
    measured = {_key(record): record for record in records if is_measured(record)}
    effects = []
    for factor, base in BASELINES.items():
        place = CELL_FIELDS.index(factor)
        for key, record in measured.items():
            baseline = measured.get((*key[:place], base, *key[place + 1 :]))
            if baseline is not None and key[place] != base:
                effects.append(Effect(factor=factor, baseline=baseline, variant=record))
    return effects


def _key(record: Record) -> tuple[Any, ...]:
    """Return the cell's own fields in their order, then what else must be equal.

    Making cells to look others up by would check each anew, which takes far longer than comparing.
    """
    cell = record.cell
    own = (
        recipe_key(cell.recipe) if name == "recipe" else getattr(cell, name) for name in CELL_FIELDS
    )
    return (*own, record.environment_hash, record.device)
