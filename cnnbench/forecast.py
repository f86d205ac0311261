"""What a training step is forecast to need: peak memory by parts, and how it grows with the batch.

Data only; `predict` makes it, from the model alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnbench.amounts import bytes_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cnnbench.cell import Cell

# Of a point between two others from the line through them: within this the batch explains the memory.
MAX_BEND = 0.01
# Of so many cells it is said one by one that they may not fit.
MAX_DOUBTS = 8

PARTS = ("parameters", "gradients", "optimizer", "activations", "workspace")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the memory of a step depends on besides the batch.

    `device_type` is `cpu` or `cuda`: a CPU's convolutions copy into layouts of their own. `image_size`
    `None` means the data set's own.
    """

    architecture: str
    precision: str = "fp32"
    checkpointing: str = "none"
    memory_format: str = "nchw"
    image_size: int | None = None
    optimizer: str = "adam"
    dropout: float = 0.0
    device_type: str = "cpu"

    @classmethod
    def of(cls, cell: Cell, device_type: str = "cpu") -> Setting:
        """Return the setting of `cell` on a device of that type."""
        return cls(
            architecture=cell.architecture,
            precision=cell.precision,
            checkpointing=cell.checkpointing,
            memory_format=cell.memory_format,
            image_size=cell.recipe.image_size,
            optimizer=cell.recipe.optimizer,
            dropout=cell.recipe.dropout,
            device_type=device_type,
        )


@dataclass(frozen=True, kw_only=True)
class Question:
    """One setting and the batch sizes to forecast it for; with a budget, also the largest that fits."""

    setting: Setting
    batch_sizes: tuple[int, ...]
    budget_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The memory of one training step at its worst moment, by what holds it, in bytes.

    `parameters` include the buffers (such as BatchNorm's statistics). `activations` are the batch and
    what forward passes made, recomputed ones too; `workspace` what the backward pass holds besides the
    parameters' `gradients`. It is what `peak_allocated_bytes` of a measured cell counts.
    """

    batch_size: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """Return the peak."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.workspace


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The forecasts of one setting, in the order of their batch sizes, or the `reason` for none.

    `is_linear` says that a third forecast was seen to lie on the line through two others.
    `largest_batch` is the largest that fits the budget asked about; 0 where not even one image does,
    `None` where nothing was asked or it is not known.
    """

    setting: Setting
    forecasts: tuple[Forecast, ...] = ()
    is_linear: bool = False
    largest_batch: int | None = None
    reason: str | None = None

    def at(self, batch_size: int) -> Forecast | None:
        """Return the forecast for `batch_size`, or `None` where there is none."""
        found = next((one for one in self.forecasts if one.batch_size == batch_size), None)
        if found is None and self.is_linear and batch_size >= self.forecasts[0].batch_size:
            return between(self.forecasts[0], self.forecasts[-1], batch_size)
        return found


def questions(
    cells: Iterable[Cell], budget_bytes: int | None = None, *, device_type: str = "cpu"
) -> tuple[Question, ...]:
    """Return what to ask about `cells` on a device of that type, each setting once."""
    batch_sizes: dict[Setting, set[int]] = {}
    for cell in cells:
        setting = Setting.of(cell, device_type)
        batch_sizes.setdefault(setting, set()).add(cell.batch_size)
    return tuple(
        Question(setting=setting, batch_sizes=tuple(sorted(sizes)), budget_bytes=budget_bytes)
        for setting, sizes in batch_sizes.items()
    )


def forecasts_of(cells: Iterable[Cell], outlooks: Iterable[Outlook]) -> dict[str, Forecast]:
    """Return the forecast of each of `cells` that has one, by the cell's hash.

    The `outlooks` are all for one device.
    """
    by_setting = {replace(outlook.setting, device_type=""): outlook for outlook in outlooks}
    found: dict[str, Forecast] = {}
    for cell in cells:
        outlook = by_setting.get(Setting.of(cell, ""))
        forecast = outlook.at(cell.batch_size) if outlook else None
        if forecast is not None:
            found[cell.hash] = forecast
    return found


def doubts(
    cells: Iterable[Cell], forecasts: Mapping[str, Forecast], memory_bytes: int
) -> tuple[str, ...]:
    """Say of which `cells` more memory is forecast than there is, the first `MAX_DOUBTS` by name."""
    doubtful = [
        f"{cell.name}: forecast {bytes_text(forecasts[cell.hash].total)}"
        f" of {bytes_text(memory_bytes)}: doubtful"
        for cell in cells
        if cell.hash in forecasts and forecasts[cell.hash].total > memory_bytes
    ]
    rest = len(doubtful) - MAX_DOUBTS
    more = (f"{rest} more cells are doubtful",) if rest > 0 else ()
    return (*doubtful[:MAX_DOUBTS], *more)


def between(low: Forecast, high: Forecast, batch_size: int) -> Forecast:
    """Return the forecast on the line through `low` and `high`."""
    share = (batch_size - low.batch_size) / (high.batch_size - low.batch_size)

    parts = {
        name: max(0, round((1 - share) * getattr(low, name) + share * getattr(high, name)))
        for name in PARTS
    }
    return Forecast(batch_size=batch_size, **parts)


def is_on_line(low: Forecast, high: Forecast, other: Forecast) -> bool:
    """Say whether `other` lies on the line through `low` and `high`, so that any batch is on it."""
    expected = between(low, high, other.batch_size).total
    return abs(other.total - expected) <= MAX_BEND * other.total


def batch_within(low: Forecast, high: Forecast, budget_bytes: int) -> int:
    """Return the largest batch whose total on the line through `low` and `high` is within the budget."""
    slope = (high.total - low.total) / (high.batch_size - low.batch_size)
    if slope <= 0:
        return high.batch_size if high.total <= budget_bytes else 0
    return max(0, low.batch_size + int((budget_bytes - low.total) // slope))
