"""What the gate measures: a TOML file of training steps, inference, data paths and short trainings."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench import architectures, data
from cnnbench.errors import CnnbenchError, ProfileError, miss
from cnnbench.sweep.profiles import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.cell import Cell

FOLDER = Path(__file__).parent / "suites"
ACCURACY = "accuracy"
# `training`, `inference` and `loading` are timed; `accuracy` trains, by seeds, and is not.
KINDS = ("training", "inference", "loading", ACCURACY)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing to measure: a cell, and what its windows are filled with."""

    kind: str
    cell: Cell

    @property
    def name(self) -> str:
        """Return a name such as `training/resnet-bf16-b64-block-channels_last`."""
        return f"{self.kind}/{self.cell.name}"

    @property
    def workload(self) -> str:
        """Return what a worker does in its windows; an accuracy is trained for without any."""
        return "training" if self.kind == ACCURACY else self.kind


def suite_path(device_type: str) -> Path:
    """Return the file that is measured on `cpu` or `cuda` unless another is named."""
    return FOLDER / f"{device_type}.toml"


def load_suite(path: Path) -> tuple[Subject, ...]:
    """Return the tests of a suite, in the order of the file, each with a name of its own.

    Raises:
        ProfileError: the file cannot be read, or says something unknown or impossible.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"cannot read the suite {path}: {reason}"
        raise ProfileError(msg) from error
    for key in table:
        if key not in (known := (*KINDS, "recipe", "timing")):
            msg = f"{path.name}: {miss('key in a suite', key, known)}"
            raise ProfileError(msg)
    for kind in KINDS:
        own = table.get(kind, [])
        if not isinstance(own, list) or not all(isinstance(one, dict) for one in own):
            msg = f"{path.name}: write each test of {kind} as [[{kind}]]."
            raise ProfileError(msg)
    try:
        tests = tuple(_tests(table))
    except (CnnbenchError, TypeError, AttributeError) as error:
        msg = f"{path.name}: {error}"
        raise ProfileError(msg) from error
    names = [test.name for test in tests]
    if not tests or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        msg = f"{path.name}: " + (f"{twice} is there twice." if twice else "it has no tests.")
        raise ProfileError(msg)
    return tests


def _tests(table: dict[str, Any]) -> Iterator[Subject]:
    for kind in KINDS:
        for own in table.get(kind, []):
            for cell in _cells(kind, own, table):
                architectures.check_name(cell.architecture)
                data.check_name(cell.dataset)
                yield Subject(kind=kind, cell=cell)


def _cells(kind: str, own: dict[str, Any], table: dict[str, Any]) -> list[Cell]:
    """Return the cells that one table of the file spans, as a profile's grid would."""
    listed = {
        key: value if isinstance(value, list | dict) else [value]
        for key, value in own.items()
        if key != "dataset"
    }
    timing = dict(table.get("timing", {}))
    if kind == ACCURACY:
        timing["max_windows"] = 0
    profile = Profile(
        name=kind,
        dataset=own.get("dataset", "digits"),
        recipe=table.get("recipe", {}),
        timing=timing,
        grids=(listed,),
    )
    return profile.cells()
