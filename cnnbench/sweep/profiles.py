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
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        msg = f"cannot read the profile {name_or_file}: {reason}"
        raise ProfileError(msg) from error
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5000 digits, or 5000 brackets
        msg = f"{path.name} is no TOML: {error}"
        raise ProfileError(msg) from error
    return _checked(path, text, table)


def _checked(path: Path, text: str, table: dict[str, Any]) -> Profile:
    for key, known, where in _keys(path, text, table):
        if key not in known:
            line = _line_of(text, key, where)
            msg = f"{path.name}, line {line}: {miss(f'key in {where}', key, known)}"
            raise ProfileError(msg)
    profile = Profile(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem),
        description=_typed(path, table, "description", default=""),
        dataset=_typed(path, table, "dataset", default="digits"),
        download=_typed(path, table, "download", default=False),
        recipe=table.get("recipe", {}),
        timing=table.get("timing", {}),
        grids=tuple(_listed(path, own) for own in table.get("grid", [])),
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
        own = _subtable(path, text, table, name, "a profile")
        yield from ((key, known, f"[{name}]") for key in own)
    grids = table.get("grid", [])
    if not isinstance(grids, list) or not all(isinstance(own, dict) for own in grids):
        msg = f"{path.name}, line {_line_of(text, 'grid')}: write each grid as [[grid]]."
        raise ProfileError(msg)
    for own in grids:
        yield from ((key, _GRID_KEYS, "[[grid]]") for key in own)
        recipe = _subtable(path, text, own, "recipe", "[[grid]]")
        yield from ((key, _RECIPE_KEYS, "[grid.recipe]") for key in recipe)


def _subtable(
    path: Path, text: str, table: dict[str, Any], name: str, where: str
) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        line = _line_of(text, name, where)
        msg = f"{path.name}, line {line}: {name!r} in {where} must be a table."
        raise ProfileError(msg)
    return value


def _typed(path: Path, table: dict[str, Any], key: str, *, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, type(default)):
        msg = f"{path.name}: {key} = {value!r} must be a {type(default).__name__}."
        raise ProfileError(msg)
    return value


def _listed(path: Path, own: dict[str, Any]) -> dict[str, Any]:
    """Return the grid with every axis as a list; one value may stand without brackets."""
    if "architecture" not in own:
        msg = f"{path.name}: every [[grid]] needs an architecture."
        raise ProfileError(msg)
    listed = {}
    for key, value in own.items():
        listed[key] = value if key == "recipe" or isinstance(value, list) else [value]
        if any(isinstance(inner, list | dict) for inner in listed[key]):
            msg = f"{path.name}: {key} = {value!r} must be one value, or a list of them."
            raise ProfileError(msg)
    return listed


def _line_of(text: str, key: str, where: str = "a profile") -> int:
    """Return the number of the line that sets `key` in the table `where`, or opens a table so named.

    The parser tells no lines, so they are looked for; 1 where the key is written in a rare way.
    """
    table = where.strip("[]") if where.startswith("[") else ""
    path = f"{table}.{key}" if table else key
    name = f"[\"']?{re.escape(key)}[\"']?\\s*[=.]"
    plain = re.compile(rf"\s*{name}")
    inline = re.compile(rf"\s*{table.rpartition('.')[2]}\s*(=.*[{{,]|\.)\s*{name}")
    current = ""
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[+([^]]*)\]", line)
        if header:
            current = re.sub(r"[\s\"']", "", header[1])
            if current == path or current.startswith(f"{path}."):
                return number
        elif (current == table and plain.match(line)) or (table and inline.match(line)):
            return number
    return 1
