"""Settings: the records that differ in their seed alone, what they reached, and what they need."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cnnbench.cell import Cell, Recipe
from cnnbench.errors import InvalidValueError, lookup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnbench.record import Record

_UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 1e3, "MB": 1e6, "GB": 1e9}
MIB = 2**20
SETTING_FIELDS = tuple(f.name for f in fields(Cell) if f.name not in {"recipe", "seed", "timing"})
RECIPE_FIELDS = tuple(f.name for f in fields(Recipe) if f.name != "epochs")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a setting is chosen for: a column of the table, and whether more of it is better."""

    name: str
    column: str
    unit: str
    is_more_better: bool

    def value(self, record: Record) -> float | None:
        """Return what the record reached; `None` where that was not measured."""
        found = record.row()[self.column]
        return None if found is None else float(found)

    def gain(self, value: float, baseline: float) -> float:
        """Return how many times better `value` is than `baseline`."""
        return value / baseline if self.is_more_better else baseline / value


OBJECTIVES = {
    "throughput": Objective(
        name="throughput", column="images_per_second", unit="images/s", is_more_better=True
    ),
    "time-to-accuracy": Objective(
        name="time-to-accuracy",
        column="time_to_accuracy_seconds",
        unit="s to the target accuracy",
        is_more_better=False,
    ),
    "energy": Objective(
        name="energy", column="joules_per_image", unit="J/image", is_more_better=False
    ),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to train, by its sound records: one a seed. `value` is the median of what they reached."""

    records: tuple[Record, ...]
    value: float

    @property
    def cell(self) -> Cell:
        """Return a cell of the setting."""
        return self.records[0].cell

    @property
    def memory_mib(self) -> float | None:
        """Return what it needs at most, in MiB, of what `memory_kind` names; `None` where unknown."""
        known = [found[1] for record in self.records if (found := memory_of(record))]
        return max(known, default=None)

    @property
    def memory_kind(self) -> str | None:
        """Return the column that `memory_mib` is from."""
        return next((found[0] for record in self.records if (found := memory_of(record))), None)

    @property
    def is_valid(self) -> bool:
        """Say whether no doubt was cast on any of the records."""
        return all(record.validity == "valid" for record in self.records)


def settings_of(records: Iterable[Record], objective: Objective) -> list[Setting]:
    """Return the settings of which the objective was measured, in order of appearance.

    Invalid records do not count.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.status == "completed" and record.validity != "invalid":
            groups.setdefault(setting_key(record.cell), []).append(record)
    found = []
    for group in groups.values():
        values = [value for r in group if (value := objective.value(r)) is not None]
        if values:
            known = tuple(r for r in group if objective.value(r) is not None)
            found.append(Setting(records=known, value=statistics.median(values)))
    return found


def setting_key(cell: Cell) -> tuple[Any, ...]:
    """Return what makes a setting of a cell: all but seed, timing and the training's length."""
    return (*(getattr(cell, name) for name in SETTING_FIELDS), *recipe_key(cell.recipe))


def recipe_key(recipe: Recipe) -> tuple[Any, ...]:
    """Return the recipe's values without the training's length."""
    return tuple(getattr(recipe, name) for name in RECIPE_FIELDS)


def place_key(record: Record) -> tuple[Any, ...]:
    """Return what records must share before their settings can be held against each other."""
    return record.device, record.cell.dataset, *recipe_key(record.cell.recipe)


def memory_of(record: Record) -> tuple[str, float] | None:
    """Return which memory counts against a budget, and how much of it the cell took, in MiB.

    On a GPU what the driver charges the process with, context and libraries included, else what the
    allocator reserved; on a CPU the tensors' peak.
    """
    found = record.metrics()
    on_gpu = found.get("peak_reserved_mib") is not None
    names = ("process_mib", "peak_reserved_mib", "peak_allocated_mib")
    if not on_gpu:
        names = ("peak_allocated_mib", "process_mib", "peak_reserved_mib")
    for name in names:
        if found.get(name) is not None:
            return name, float(found[name])
    return None


def parse_budget(text: str) -> float:
    """Return an amount of memory such as `16GiB`, `800 MB` in MiB.

    >>> parse_budget("1.5GiB"), parse_budget("512 MiB")
    (1536.0, 512.0)

    Raises:
        InvalidValueError: it is no positive amount with a unit.
    """
    compact = "".join(text.split()).upper()
    number = compact.rstrip("KMGIB")
    factor = _UNITS.get(compact[len(number) :])
    try:
        amount = float(number) * factor / MIB if factor else -1.0
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        msg = f"memory budget {text!r}: write an amount with its unit, such as 16GiB or 800MB."
        raise InvalidValueError(msg)
    return amount


def objective_named(name: str) -> Objective:
    """Return the objective called so.

    Raises:
        UnknownNameError: naming those there are.
    """
    return lookup("objective", name, OBJECTIVES)
