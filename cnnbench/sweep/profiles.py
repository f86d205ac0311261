"""Profiles: TOML files that say which grids of cells a sweep has, how they train and are timed."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.cell import AXES, Cell, Recipe, Timing, grid, union
from cnnbench.errors import InvalidValueError, ProfileError, UnknownNameError, miss

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = Path(__file__).parent.parent / "profiles"
PROFILES = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}

_TOP_KEYS = ("description", "dataset", "download", "recipe", "timing", "grid")
_RECIPE_KEYS = tuple(f.name for f in fields(Recipe))
_TIMING_KEYS = tuple(f.name for f in fields(Timing))
_GRID_KEYS = (*AXES, "recipe")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a profile file says, checked: every value has a name that exists."""

    name: str
    description: str = ""
    dataset: str = "digits"
    download: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    grids: tuple[dict[str, Any], ...] = ()

    def cells(
        self,
        *,
        axes: Mapping[str, list[Any]] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> list[Cell]:
        """Return the cells of all grids, `axes` and `recipe` replacing what the profile says.

        Raises:
            InvalidValueError: an impossible value, or an empty grid.
        """
        cells: list[Cell] = []
        for own in self.grids:
            spanned = {name: values for name, values in own.items() if name != "recipe"}
            base = {
                "dataset": self.dataset,
                "recipe": Recipe(**{**self.recipe, **own.get("recipe", {}), **(recipe or {})}),
                "timing": Timing(**self.timing),
            }
            cells.extend(grid({**spanned, **(axes or {})}, base=base))
        return union(cells)


def load_profile(name_or_file: str) -> Profile:
    """Return the profile of that name, or the one in that TOML file.

    Raises:
        UnknownNameError: neither a profile's name nor a file.
        ProfileError: the file cannot be read, or says something unknown; names line and key.
    """
    path = PROFILES.get(name_or_file, Path(name_or_file))
    if path.suffix != ".toml":
        raise UnknownNameError(miss("profile", name_or_file, PROFILES) + " Or pass a .toml file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        msg = f"cannot read the profile {name_or_file}: {reason}"
        raise ProfileError(msg) from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{path.name} is no TOML: {error}"
        raise ProfileError(msg) from error
    return _checked(path, text, table)


def _checked(path: Path, text: str, table: dict[str, Any]) -> Profile:
    for key, known, where in _keys(path, text, table):
        if key not in known:
            msg = f"{path.name}, line {_line_of(text, key)}: {miss(f'key in {where}', key, known)}"
            raise ProfileError(msg)
    profile = Profile(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem),
        description=_typed(path, table, "description", default=""),
        dataset=_typed(path, table, "dataset", default="digits"),
        download=_typed(path, table, "download", default=False),
        recipe=table.get("recipe", {}),
        timing=table.get("timing", {}),
        grids=tuple(_listed(own) for own in table.get("grid", [])),
    )
    try:
        cells = profile.cells()
    except (InvalidValueError, TypeError) as error:
        msg = f"{path.name}: {error}"
        raise ProfileError(msg) from error
    if not cells:
        msg = f"{path.name} has no [[grid]]: there is nothing to run."
        raise ProfileError(msg)
    return profile


def _keys(
    path: Path, text: str, table: dict[str, Any]
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield every key with the keys that its table may have."""
    yield from ((key, _TOP_KEYS, "a profile") for key in table)
    for name, known in (("recipe", _RECIPE_KEYS), ("timing", _TIMING_KEYS)):
        yield from ((key, known, f"[{name}]") for key in _subtable(path, text, table, name))
    grids = table.get("grid", [])
    if not isinstance(grids, list) or not all(isinstance(own, dict) for own in grids):
        msg = f"{path.name}, line {_line_of(text, 'grid')}: write each grid as [[grid]]."
        raise ProfileError(msg)
    for own in grids:
        yield from ((key, _GRID_KEYS, "[[grid]]") for key in own)
        yield from (
            (k, _RECIPE_KEYS, "[grid.recipe]") for k in _subtable(path, text, own, "recipe")
        )


def _subtable(path: Path, text: str, table: dict[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        msg = f"{path.name}, line {_line_of(text, name)}: {name!r} must be a table, [{name}]."
        raise ProfileError(msg)
    return value


def _typed(path: Path, table: dict[str, Any], key: str, *, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, type(default)):
        msg = f"{path.name}: {key} = {value!r} must be a {type(default).__name__}."
        raise ProfileError(msg)
    return value


def _listed(own: dict[str, Any]) -> dict[str, Any]:
    """Return the grid with every axis as a list; one value may stand without brackets."""
    return {
        key: value if key == "recipe" or isinstance(value, list) else [value]
        for key, value in own.items()
    }


def _line_of(text: str, key: str) -> int:
    """Return the number of the first line that sets `key` or opens the table of that name."""
    pattern = re.compile(rf"^\s*(\[+.*\b)?[\"']?{re.escape(key)}[\"']?\s*(=|\]|\.)")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1
