"""The fastest setting of each architecture, and what it gains over the documented default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnbench.record import Record


DEFAULT = {
    "precision": "fp32",
    "checkpointing": "none",
    "memory_format": "nchw",
    "compile": "off",
    "loader": "device",
    "parallelism": "none",
}


@dataclass(frozen=True, kw_only=True)
class Best:
    """An architecture's fastest cell, and the same architecture as the document trains it.

    `baseline` is fp32 without checkpointing in the plain layout, uncompiled, at the smallest batch
    that was measured (same data, same device); `None` where no such cell was measured.
    """

    record: Record
    baseline: Record | None

    @property
    def architecture(self) -> str:
        """Return the architecture whose best this is."""
        return self.record.cell.architecture

    @property
    def speedup(self) -> float | None:
        """Return how many times the baseline's images per second the best setting has."""
        if self.baseline is None:
            return None
        return images_per_second(self.record) / images_per_second(self.baseline)

    @property
    def memory_ratio(self) -> float | None:
        """Return the best setting's peak of allocated memory over the baseline's."""
        return None if self.baseline is None else ratio_of_peaks(self.record, self.baseline)


def best_settings(records: Iterable[Record]) -> dict[str, Best]:
    """Return each architecture's setting with the most images per second, in order of appearance.

    Only cells that were completed, timed and not found invalid count. Of equals the smaller batch
    wins, then the first by name, so that the order of the records does not matter.
    """
    measured: dict[str, list[Record]] = {}
    for record in records:
        if is_measured(record):
            measured.setdefault(record.cell.architecture, []).append(record)
    return {name: _best(group) for name, group in measured.items()}


def is_measured(record: Record) -> bool:
    """Return whether the cell has a throughput that may be compared."""
    sound = record.status == "completed" and record.validity != "invalid"
    return sound and record.metrics().get("images_per_second") is not None


def images_per_second(record: Record) -> float:
    """Return a measured cell's images per second (of its median window)."""
    return float(record.metrics()["images_per_second"])


def ratio_of_peaks(record: Record, baseline: Record) -> float | None:
    """Return the peak of allocated memory over the baseline's, `None` where either is unknown."""
    ours, theirs = (r.metrics().get("peak_allocated_mib") for r in (record, baseline))
    return ours / theirs if ours and theirs else None


def _best(group: list[Record]) -> Best:
    record = min(group, key=lambda r: (-images_per_second(r), *_tie(r)))
    plain = [r for r in group if _is_default(r) and _place(r) == _place(record)]
    return Best(record=record, baseline=min(plain, key=_tie, default=None))


def _is_default(record: Record) -> bool:
    return all(getattr(record.cell, name) == value for name, value in DEFAULT.items())


def _place(record: Record) -> tuple[object, ...]:
    recipe = record.cell.recipe
    return record.device, record.cell.dataset, recipe.image_size, recipe.num_classes


def _tie(record: Record) -> tuple[int, str, str]:
    return record.cell.batch_size, record.cell.name, record.cell_hash
