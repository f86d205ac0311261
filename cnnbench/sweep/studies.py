"""Studies: TOML files that put a piece of advice to the test, read and checked."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.cell import AXES, Cell, Recipe, Timing, parse_call
from cnnbench.errors import CnnbenchError, StudyError, UnknownNameError, miss
from cnnbench.study import AT, DIRECTIONS, METRICS, TIES, Claim, Study, Variant
from cnnbench.sweep.arms import Arm, make_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLDER = Path(__file__).parent.parent / "studies"
STUDIES = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
MIN_SEEDS = 3
MAX_SEEDS = 12

_TEXTS = ("title", "advice", "section")
_OPTIONAL = {"baseline": "baseline", "dataset": "digits", "notes": "", "download": False}
_TABLES = ("cell", "recipe", "timing")
_KEYS = (
    *_TEXTS,
    "factor",
    *_OPTIONAL,
    *_TABLES,
    *("seeds", "max_seeds", "batch_sizes", "tied", "variant", "claim", "gpu"),
)
_GPU_KEYS = ("dataset", "download", "batch_sizes", "variant", *_TABLES)
_CLAIM_KEYS = ("metric", "direction", "size", "variants", "baseline", "at")
_CELL_KEYS = tuple(name for name in AXES if name != "seed")
_RECIPE_KEYS = tuple(f.name for f in fields(Recipe))
_TIMING_KEYS = tuple(f.name for f in fields(Timing))


def load_study(name_or_file: str, *, device_type: str = "cpu") -> Study:
    """Return the study of that name, or the one in that TOML file, sized for such a device.

    Raises:
        UnknownNameError: neither a study's name nor a file.
        StudyError: the file cannot be read, or is no fair test; one line says what and where.
    """
    path = STUDIES.get(name_or_file, Path(name_or_file))
    if path.suffix != ".toml":
        raise UnknownNameError(miss("study", name_or_file, STUDIES) + " Or pass a .toml file.")
    table = _read(path, name_or_file)
    try:
        # Both sizes are checked wherever it is read: the other device's user would meet the fault.
        sizes = {"cpu": _study(path, table), "cuda": _study(path, _sized(table))}
        for study in sizes.values():
            _try_cells(study)
    except (CnnbenchError, TypeError) as error:
        msg = f"{path.name}: {error}"
        raise StudyError(msg) from error
    study = sizes["cuda" if device_type == "cuda" else "cpu"]
    return replace(study, source=str(name_or_file))


def _read(path: Path, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the study {shown}: {error.strerror}"
        raise StudyError(msg) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5000 digits
        msg = f"{path.name} is no TOML: {error}"
        raise StudyError(msg) from error


def _sized(table: dict[str, Any]) -> dict[str, Any]:
    """Return the study as a GPU runs it: its `[gpu]` replaces, table by table and name by name."""
    gpu = _table(table, "gpu")
    _check_keys(gpu, _GPU_KEYS, "[gpu]")
    sized = {**table, **{key: value for key, value in gpu.items() if key not in _TABLES}}
    for name in _TABLES:
        sized[name] = {**_table(table, name), **_table(gpu, name)}
    return sized


def _study(path: Path, table: dict[str, Any]) -> Study:
    _check_keys(table, _KEYS, "a study")
    given: dict[str, Any] = {name: _text(table, name) for name in _TEXTS}
    given |= {name: _typed(table, name, default) for name, default in _OPTIONAL.items()}
    given |= {name: _table(table, name) for name in _TABLES}
    factors = _factors(table)
    seeds, max_seeds = _seeds(table)
    baseline = given["baseline"]
    for name, known in zip(_TABLES, (_CELL_KEYS, _RECIPE_KEYS, _TIMING_KEYS), strict=True):
        _check_keys(_table(table, name), known, f"[{name}]")
    if "architecture" not in _table(table, "cell"):
        msg = "the baseline needs an architecture: write it under [cell]."
        raise StudyError(msg)
    variants = tuple(
        _variant(own, factors, _ties(table, "a study")) for own in _tables(table, "variant")
    )
    names = (baseline, *(variant.name for variant in variants))
    if len(set(names)) < len(names):
        msg = f"each arm needs a name of its own; there are {', '.join(names)}."
        raise StudyError(msg)
    batch_sizes = tuple(table.get("batch_sizes", ()))
    claims = tuple(_claim(own, names, batch_sizes) for own in _tables(table, "claim"))
    return Study(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem),
        seeds=seeds,
        max_seeds=max_seeds,
        variants=variants,
        claims=claims,
        batch_sizes=batch_sizes,
        factors=factors,
        **given,
    )


def _factors(table: dict[str, Any]) -> tuple[str, ...]:
    """Return the factor, or the several of which each variant changes one."""
    given = table.get("factor")
    factors = given if isinstance(given, list) else [given]
    if not factors or not all(isinstance(name, str) and name for name in factors):
        msg = f"factor = {given!r}: name the one thing that the variants change."
        raise StudyError(msg)
    return tuple(factors)


def _variant(own: dict[str, Any], factors: tuple[str, ...], tied: Mapping[str, str]) -> Variant:
    """Return a variant that changes one of `factors` and what is tied to it, and nothing else."""
    name = own.get("name")
    if not isinstance(name, str) or not name:
        msg = "every [[variant]] needs a name."
        raise StudyError(msg)
    tied = {**tied, **_ties(own, f"the variant {name!r}")}
    values = {key: value for key, value in own.items() if key not in {"name", "tied"}}
    changed = [key for key in values if key in factors and tied.get(key) != "given"]
    factor = changed[0] if changed else factors[0]
    if not changed:
        msg = (
            f"the variant {name!r} does not change the factor {' or '.join(factors)}:"
            f" write {factor} = ..."
        )
        raise StudyError(msg)
    for key in values:
        if key != factor and tied.get(key) != "given":
            msg = (
                f"the variant {name!r} changes {key!r} beside the factor {factor!r}, so nobody could"
                f' tell which of the two did it: leave it out, or declare tied = {{{key} = "given"}}.'
            )
            raise StudyError(msg)
    for key, rule in tied.items():
        if rule == "given" and key not in values:
            msg = f"{key!r} is tied as given, but the variant {name!r} does not give it."
            raise StudyError(msg)
    return Variant(name=name, factor=factor, values=values, tied=tied)


def _ties(table: dict[str, Any], where: str) -> dict[str, str]:
    tied = _table(table, "tied")
    for name, rule in tied.items():
        if rule not in TIES:
            msg = f"{miss(f'rule for {name!r}, tied in {where},', str(rule), TIES)}"
            raise StudyError(msg)
    return tied


def _claim(own: dict[str, Any], arms: tuple[str, ...], batch_sizes: tuple[int, ...]) -> Claim:
    _check_keys(own, _CLAIM_KEYS, "[[claim]]")
    metric, direction = str(own.get("metric", "")), str(own.get("direction", ""))
    if metric not in METRICS:
        raise StudyError(miss("claim metric", metric, METRICS))
    if direction not in DIRECTIONS:
        raise StudyError(miss(f"direction of the claim on {metric},", direction, DIRECTIONS))
    at = str(own.get("at", "equal"))
    if at not in AT:
        raise StudyError(miss(f"'at' of the claim on {metric},", at, AT))
    if at != "equal" and (METRICS[metric].kind != "profile" or not batch_sizes):
        why = "batch_sizes to choose from" if not batch_sizes else "a metric that is profiled"
        msg = f"the claim on {metric} at {at} needs {why}."
        raise StudyError(msg)
    baseline, variants = _sides(own, metric, arms)
    return Claim(
        metric=metric,
        direction=direction,
        size=_size(own, metric, direction),
        variants=variants,
        baseline=baseline,
        at=at,
    )


def _size(own: dict[str, Any], metric: str, direction: str) -> float:
    size = own.get("size")
    is_fall = METRICS[metric].is_ratio and direction == "down"
    number = math.nan if isinstance(size, bool) or not isinstance(size, int | float) else size
    # Accuracies have 100 points, and nothing falls by all of itself.
    if not 0 < number <= 100 or (is_fall and number >= 1):  # noqa: PLR2004
        most = " and below 1" if is_fall else ""
        msg = (
            f"size = {size!r} of the claim on {metric} is impossible: state the least that matters,"
            f" a number above 0{most} (0.05 is 5 % of a ratio; accuracies count in points of 100)."
        )
        raise StudyError(msg)
    return float(number)


def _sides(own: dict[str, Any], metric: str, arms: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the arm that a claim starts from, and those that it is about."""
    baseline = str(own.get("baseline", arms[0]))
    variants = own.get("variants", [name for name in arms[1:] if name != baseline])
    if not isinstance(variants, list) or not variants:
        msg = f"the claim on {metric} needs a list of variants."
        raise StudyError(msg)
    for name in (baseline, *variants):
        if name not in arms:
            raise StudyError(miss(f"arm in the claim on {metric},", str(name), arms))
    if baseline in variants:
        msg = f"the claim on {metric} compares {baseline!r} with itself."
        raise StudyError(msg)
    return baseline, tuple(variants)


def _seeds(table: dict[str, Any]) -> tuple[int, int]:
    seeds = table.get("seeds")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < MIN_SEEDS:
        msg = (
            f"seeds = {seeds!r}: a study needs at least {MIN_SEEDS}, for fewer say nothing of how"
            " much seeds differ."
        )
        raise StudyError(msg)
    most = table.get("max_seeds", max(seeds, MAX_SEEDS))
    if isinstance(most, bool) or not isinstance(most, int) or most < seeds:
        msg = f"max_seeds = {most!r} is impossible: it must be a whole number of at least {seeds}."
        raise StudyError(msg)
    return seeds, most


def _try_cells(study: Study) -> None:
    """Refuse a study whose cells cannot be; ties that only a worker can work out are left open."""
    if not study.claims or not study.variants:
        msg = f"there is no [[{'variant' if not study.variants else 'claim'}]]: nothing to judge."
        raise StudyError(msg)
    _check_one_factor(study)
    for arm in study.arms:
        for kind in sorted({METRICS[claim.metric].kind for claim in study.claims}):
            # Which architectures there are, the preflight says: of many studies one may lack its own.
            make_cell(study, Arm(name=arm, kind=kind), seed=0)
    for size in study.batch_sizes:
        Cell(architecture="simple_cnn", batch_size=size)


def _check_one_factor(study: Study) -> None:
    """Refuse a factor `architecture` whose variants differ in several parameters of one family."""
    if "architecture" not in study.factors:
        return
    from_name, from_parameters = parse_call(study.cell["architecture"])
    for variant in study.variants:
        if variant.factor != "architecture":
            continue
        name, parameters = parse_call(variant.values["architecture"])
        changed = [
            key
            for key in {**from_parameters, **parameters}
            if from_parameters.get(key) != parameters.get(key)
        ]
        undeclared = [key for key in changed if key not in variant.tied]
        if name == from_name and len(undeclared) > 1:
            msg = (
                f"the variant {variant.name!r} changes {' and '.join(sorted(changed))} at once: name"
                " one of them as the factor, and declare as tied what must follow it."
            )
            raise StudyError(msg)


def _check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise StudyError(miss(f"key in {where}", key, known))


def _table(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        msg = f"{name} = {value!r} must be a table."
        raise StudyError(msg)
    return value


def _tables(table: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(own, dict) for own in value):
        msg = f"write each {name} as [[{name}]]."
        raise StudyError(msg)
    return value


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        msg = f"a study needs {name} = a text."
        raise StudyError(msg)
    return value


def _typed(table: Mapping[str, Any], name: str, usual: Any) -> Any:
    value = table.get(name, usual)
    if not isinstance(value, type(usual)):
        msg = f"{name} = {value!r} must be a {type(usual).__name__}."
        raise StudyError(msg)
    return value
