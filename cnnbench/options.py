"""The settings of a sweep as a user gives them: options, axes and recipe, told apart and put in words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cnnbench.amounts import parse_bytes
from cnnbench.cell import AXES, Recipe
from cnnbench.errors import InvalidValueError, miss
from cnnbench.job import EXTRAS
from cnnbench.results import RESULTS_DIR

DATA_DIR = "~/.cache/cnnbench"
AUTO = "auto"
RECIPE = tuple(f.name for f in fields(Recipe))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a sweep runs; what it runs is its cells' business."""

    dataset: str | None = None
    data_dir: str | Path = DATA_DIR
    download: bool | None = None
    device: str = AUTO
    tracking_uri: str | None = None
    results_dir: str | Path = RESULTS_DIR
    isolation: str = "forkserver"
    cell_timeout: float | None = None
    fresh: bool = False
    retry_failed: bool = False
    trace: bool = False
    layers: bool = False
    memory_budget: str | int | None = None

    @property
    def budget_bytes(self) -> int | None:
        """Return the memory budget in bytes.

        Raises:
            InvalidValueError: it is no amount of memory.
        """
        budget = self.memory_budget
        return parse_bytes(budget) if isinstance(budget, str) else budget

    @property
    def extras(self) -> tuple[str, ...]:
        """Return what every cell is asked for besides its numbers."""
        return tuple(name for name in EXTRAS if getattr(self, name))


def sort_settings(settings: dict[str, Any]) -> tuple[Options, dict[str, list[Any]], dict[str, Any]]:
    """Tell options, axes and recipe apart; a single value of an axis becomes a list.

    Raises:
        InvalidValueError: a name that is none of them, with the nearest.
    """
    options = [f.name for f in fields(Options)]
    for name in settings:
        if name not in {*options, *AXES, *RECIPE}:
            raise InvalidValueError(miss("setting", name, [*options, *AXES, *RECIPE]))
    given = {name: value for name, value in settings.items() if value is not None}
    axes = {
        name: list(value) if isinstance(value, list | tuple | range) else [value]
        for name, value in given.items()
        if name in AXES
    }
    recipe = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if name in RECIPE
    }
    return Options(**{n: v for n, v in given.items() if n in options}), axes, recipe


def command_line(profile: str, settings: dict[str, Any]) -> str:
    """Return the command that runs the same sweep.

    >>> command_line("quick", {"precision": ["fp32", "bf16"], "epochs": 0, "dataset": None})
    'cnnbench run --profile quick --precision fp32,bf16 --epochs 0'
    """
    words = ["cnnbench", "run", *(["--profile", profile] if profile != AUTO else [])]
    # These do not change the cells, and a report that is handed on should not tell local paths.
    elsewhere = ("data_dir", "results_dir", "tracking_uri", "fresh", "retry_failed")
    usual = {field.name: field.default for field in fields(Options)}
    for name, value in settings.items():
        if value is None or name in elsewhere or value == usual.get(name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list | tuple | range) else [value]
            words += [f"--{flag}", ",".join(map(str, values))]
    return shlex.join(words)
