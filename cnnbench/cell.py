"""What is asked for: a cell (one setting to train and profile), and the grid of cells that axes span."""

from __future__ import annotations

import ast
import itertools
import math
import re
from copy import deepcopy
from dataclasses import dataclass, field, fields
from decimal import Decimal
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from cnnbench.amounts import bytes_text
from cnnbench.digest import digest
from cnnbench.errors import InvalidValueError, miss

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
CHECKPOINTINGS = ("none", "stage", "block", "activations")
MEMORY_FORMATS = ("nchw", "channels_last")
COMPILES = ("off", "graph", "default", "reduce-overhead", "max-autotune")
LOADERS = ("device", "workers")
PARALLELISMS = ("none", "data-N", "sharded-N", "pipelined-N")
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "plateau", "cosine", "one_cycle")
FEATURES = ("every_step", "once")
AUGMENTATIONS = ("default", "none", "crop", "flip+crop", "flip+crop+cutout")

MAX_SEED = 2**32 - 1
LARGEST = 2**63 - 1  # what every reader of JSON takes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a cell trains. `None` and `default` mean: as the data set or the architecture has it.

    `epochs` 0 profiles only. `image_size` is the side in pixels that images are brought to.
    `patience` counts epochs without a lower validation loss before training stops early; `train_subset`
    keeps that many training images; `weights` is `imagenet`, `none` or a file; `target_accuracy`
    (0 to 1) is what `time_to_accuracy_seconds` waits for; `features` says how often training computes
    those of a frozen trunk.
    """

    epochs: int = 0
    image_size: int | None = None
    num_classes: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "plateau"
    augmentation: str = "default"
    weight_decay: float = 0.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    patience: int | None = None
    train_subset: int | None = None
    weights: str = "default"
    target_accuracy: float | None = None
    features: str = "every_step"

    def __post_init__(self) -> None:
        """Refuse what no training can have."""
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("augmentation", self.augmentation, AUGMENTATIONS)
        _check_choice("features", self.features, FEATURES)
        _check_text("weights", self.weights)
        _check_count("epochs", self.epochs, low=0)
        _check_range("learning_rate", self.learning_rate, above=0)
        _check_range("weight_decay", self.weight_decay, low=0)
        _check_range("dropout", self.dropout, low=0, below=1)
        _check_range("label_smoothing", self.label_smoothing, low=0, below=1)
        for name in ("image_size", "num_classes", "patience", "train_subset"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), low=1)
        if self.target_accuracy is not None:
            _check_range("target_accuracy", self.target_accuracy, above=0, high=1)
        _make_floats(self, "learning_rate", "weight_decay", "dropout", "label_smoothing")
        _make_floats(self, "target_accuracy")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a cell is timed: windows of consecutive steps, until their median is known well enough.

    `half_width` is the relative half-width of the median's 95 % interval at which timing stops.
    `max_windows` 0 times nothing (a cell that only trains).
    """

    window_seconds: float = 0.2
    min_windows: int = 10
    max_windows: int = 100
    half_width: float = 0.01
    limit_seconds: float = 30.0
    warmup_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be timed."""
        _check_range("window_seconds", self.window_seconds, above=0)
        _check_count("min_windows", self.min_windows, low=2)
        _check_count("max_windows", self.max_windows, low=0)
        _check_range("half_width", self.half_width, above=0, below=1)
        _check_range("limit_seconds", self.limit_seconds, above=0)
        _check_count("warmup_steps", self.warmup_steps, low=1)
        _make_floats(self, "window_seconds", "half_width", "limit_seconds")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting: an architecture, how it runs, how it trains and how it is timed.

    With a `memory_budget_bytes` a step that needs more is out of memory, however much the device has.
    """

    architecture: str
    precision: str = "fp32"
    batch_size: int = 64
    checkpointing: str = "none"
    memory_format: str = "nchw"
    compile: str = "off"
    loader: str = "device"
    parallelism: str = "none"
    dataset: str = "digits"
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    timing: Timing = field(default_factory=Timing)
    memory_budget_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible numbers."""
        parse_call(self.architecture)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("checkpointing", self.checkpointing, CHECKPOINTINGS)
        _check_choice("memory_format", self.memory_format, MEMORY_FORMATS)
        _check_choice("compile", self.compile, COMPILES)
        _check_choice("loader", self.loader, LOADERS)
        split_parallelism(self.parallelism)
        _check_count("batch_size", self.batch_size, low=1)
        _check_count("seed", self.seed, low=0, high=MAX_SEED)
        if self.memory_budget_bytes is not None:
            _check_count("memory_budget_bytes", self.memory_budget_bytes, low=1, high=LARGEST)
        if self.recipe.epochs == 0 and self.timing.max_windows == 0:
            msg = "a cell with epochs = 0 and max_windows = 0 would neither train nor be timed."
            raise InvalidValueError(msg)

    @cached_property
    def hash(self) -> str:
        """Return the digest of everything that was asked for."""
        return digest(self._asked())

    @property
    def setting(self) -> str:
        """Return the digest of what runs: of all that was asked for but the seed and the timing."""
        asked = self._asked()
        del asked["seed"], asked["timing"]
        return digest(asked)

    @property
    def name(self) -> str:
        """Return a name such as `resnet-bf16-b256-none`; what differs from the defaults follows."""
        parts = [self.architecture, self.precision, f"b{self.batch_size}", self.checkpointing]
        if self.memory_format != "nchw":
            parts.append(self.memory_format)
        if self.compile != "off":
            parts.append(f"compile-{self.compile}")
        if self.loader != "device":
            parts.append(self.loader)
        if self.parallelism != "none":
            parts.append(self.parallelism)
        if self.seed:
            parts.append(f"seed{self.seed}")
        if self.memory_budget_bytes is not None:
            parts.append(f"within-{bytes_text(self.memory_budget_bytes).replace(' ', '')}")
        return "-".join(parts)

    def params(self) -> dict[str, Any]:
        """Return the axes and the recipe as one flat mapping, in the order of the table's columns."""
        axes = _values(self)
        recipe = _values(axes.pop("recipe"))
        axes.pop("timing")
        axes.pop("memory_budget_bytes")
        seed = axes.pop("seed")
        epochs = recipe.pop("epochs")
        return {**axes, **recipe, "epochs": epochs, "seed": seed}

    def _asked(self) -> dict[str, Any]:
        """Return every field as it enters a digest."""
        nested = {"recipe": _values(self.recipe), "timing": _values(self.timing)}
        asked = {**_values(self), **nested}
        # As it was before there were such fields: results stand.
        if self.parallelism == "none":
            del asked["parallelism"]
        if self.memory_budget_bytes is None:
            del asked["memory_budget_bytes"]
        if self.recipe.features == "every_step":
            del nested["recipe"]["features"]
        return asked


_NAMES = {kind: tuple(f.name for f in fields(kind)) for kind in (Recipe, Timing, Cell)}
_BUT_RECIPE = attrgetter(*(name for name in _NAMES[Cell] if name != "recipe"))
_BUT_EPOCHS = attrgetter(*(name for name in _NAMES[Recipe] if name != "epochs"))


def _values(settings: Cell | Recipe | Timing) -> dict[str, Any]:
    """Return the fields by name. A grid may be large, and `asdict` copies every value of every cell."""
    return {name: getattr(settings, name) for name in _NAMES[type(settings)]}


AXES = (
    "architecture",
    "precision",
    "batch_size",
    "checkpointing",
    "memory_format",
    "compile",
    "loader",
    "parallelism",
    "seed",
)


def grid(axes: Mapping[str, Sequence[Any]], *, base: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of every combination of `axes`, the other fields as in `base`.

    Raises:
        InvalidValueError: an axis without values, an unknown axis or value, an impossible number.
    """
    for name, values in axes.items():
        _check_choice("axis", name, AXES)
        if len(values) == 0:
            msg = f"the axis {name!r} has no values: the grid is empty."
            raise InvalidValueError(msg)
    names = list(axes)
    combinations = itertools.product(*(dict.fromkeys(axes[name]) for name in names))
    return [Cell(**{**base, **dict(zip(names, values, strict=True))}) for values in combinations]


def union(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells without repeats; of two that differ in `epochs` alone, the longer training.

    So a profile can sweep a wide grid for speed and train a narrow one, and no setting runs twice.
    """
    kept: dict[Any, Cell] = {}
    for cell in cells:
        key = (_BUT_RECIPE(cell), _BUT_EPOCHS(cell.recipe))
        if key not in kept or kept[key].recipe.epochs < cell.recipe.epochs:
            kept[key] = cell
    return list(kept.values())


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Split `resnet(width=16,depth=2)` into its name and its parameters; a bare name has none.

    Text needs no quotes where it is one word (`resnet(activation=silu)`); `true` and `false` are read
    as Python's.

    Raises:
        InvalidValueError: the brackets do not hold `name=literal` pairs.
    """
    if not isinstance(text, str):
        raise InvalidValueError(_unreadable(text))
    name, parameters = _parsed(text)
    return name, deepcopy(parameters)  # whoever is handed a list may change it


def _unreadable(text: object) -> str:
    return f"cannot read {text!r}: write NAME or NAME(parameter=value,...)."


@lru_cache(maxsize=1024)  # the cells of a grid share a few names
def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    msg = _unreadable(text)
    name, bracket, rest = text.partition("(")
    if not name or name != name.strip() or (bracket and not rest.endswith(")")):
        raise InvalidValueError(msg)
    if not bracket:
        return name, {}
    try:
        source = f"f({rest}"
        call = ast.parse(source, mode="eval").body
        # What ends before the text does is followed by a comment.
        is_whole = call.end_col_offset == len(source.encode())
        if not is_whole or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise InvalidValueError(msg)
        parameters = {k.arg: _literal(k.value) for k in call.keywords if k.arg is not None}
        if call.args or len(parameters) < len(call.keywords):  # without a name, or twice
            raise InvalidValueError(msg)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InvalidValueError(msg) from error
    return name, parameters


def split_parallelism(text: str) -> tuple[str, int]:
    """Split `data-2` into how the devices share the work and how many there are; `none` has one.

    Raises:
        InvalidValueError: there is no such parallelism.
    """
    if text == "none":
        return "none", 1
    found = re.fullmatch(r"(data|sharded|pipelined)-([2-9]|[1-9]\d{1,3})", str(text))
    if found is None:
        msg = f"unknown parallelism {text!r}. There are: {', '.join(PARALLELISMS)} (N devices, from 2)."
        raise InvalidValueError(msg)
    return found[1], int(found[2])


def _literal(value: ast.expr) -> Any:
    if isinstance(value, ast.Name):
        return {"true": True, "false": False}.get(value.id, value.id)
    return ast.literal_eval(value)


def plain_text(value: object) -> str:
    """Return `value` as plain decimal text (`0.00001`, never `1e-05`); `None` is empty.

    >>> plain_text(1e-05), plain_text(64), plain_text(None)
    ('0.00001', '64', '')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f").removesuffix(".0") or "0"
    return str(value)


def _make_floats(settings: Recipe | Timing, *names: str) -> None:
    """Turn whole numbers into floats, as a worker reads them: the hash must be the same there."""
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            object.__setattr__(settings, name, float(value))


def _check_choice(kind: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidValueError(miss(kind, str(value), choices))


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        msg = f"{name} = {value!r} is impossible: it must be text."
        raise InvalidValueError(msg)


def _check_count(name: str, value: object, *, low: int, high: float = math.inf) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"{name} = {value!r} is impossible: it must be a whole number."
        raise InvalidValueError(msg)
    _check_range(name, value, low=low, high=high)


def _check_range(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    high: float = math.inf,
    below: float = math.inf,
) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    is_real = math.isfinite(number) if isinstance(number, float) else abs(number) <= LARGEST
    if not (is_real and low <= number <= high and above < number < below):
        bounds = ((">=", low), (">", above), ("<=", high), ("<", below))
        said = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
        msg = f"{name} = {value!r} is impossible: it must be a number {said}."
        raise InvalidValueError(msg)
