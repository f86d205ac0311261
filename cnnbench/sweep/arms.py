"""The cells of a study: what the baseline and each variant are at one seed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cnnbench.cell import Cell, Recipe, Timing, parse_call
from cnnbench.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnbench.study import Study, Variant

# Of a study that does not say otherwise: like the quick profile, but shorter, for every seed times anew.
TIMING = {"half_width": 0.03, "limit_seconds": 2.0, "warmup_steps": 3}
_CELL = frozenset(f.name for f in fields(Cell)) - {"recipe", "timing", "seed"}
_RECIPE = frozenset(f.name for f in fields(Recipe))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison: an arm by its name, profiled or trained, at the batch that `at` says."""

    name: str
    kind: str
    at: str = "equal"


def make_cell(
    study: Study,
    arm: Arm,
    *,
    seed: int,
    batch_size: int | None = None,
    worked_out: Mapping[str, Any] | None = None,
) -> Cell:
    """Return the cell of `arm` at `seed`.

    A profiled cell does not train and a trained one is not timed, so that a claim costs only what it is
    about, and a seed more for one claim does not repeat the other's work.

    Args:
        study: what is asked.
        arm: which side.
        seed: of weights and data order; the same in all arms.
        batch_size: in the study's stead, where an arm runs at a batch of its own.
        worked_out: values of what is tied by a rule that only a worker can work out.

    Raises:
        CnnbenchError: such a cell cannot be.
    """
    axes: dict[str, Any] = {"dataset": study.dataset, **study.cell}
    recipe: dict[str, Any] = dict(study.recipe)
    for name, value in {**_changes(study, arm.name), **(worked_out or {})}.items():
        if name in _CELL:
            axes[name] = value
        elif name in _RECIPE:
            recipe[name] = value
        else:
            axes["architecture"] = with_parameter(axes["architecture"], name, value)
    if batch_size is not None:
        axes["batch_size"] = batch_size
    timing = {**TIMING, **study.timing}
    if arm.kind == "profile":
        recipe["epochs"] = 0
        # What only training knows must not make two equal steps two cells.
        for name in ("schedule", "patience", "target_accuracy"):
            recipe.pop(name, None)
    else:
        timing = {"max_windows": 0}
        if not recipe.get("epochs"):
            msg = "a claim on training needs epochs: write epochs = ... under [recipe]."
            raise StudyError(msg)
    return Cell(**axes, seed=seed, recipe=Recipe(**recipe), timing=Timing(**timing))


def variant_of(study: Study, name: str) -> Variant | None:
    """Return the variant of that name, `None` for the baseline."""
    return next((variant for variant in study.variants if variant.name == name), None)


def with_parameter(architecture: str, name: str, value: object) -> str:
    """Return `architecture` with one parameter in its brackets set.

    >>> with_parameter("resnet(width=16)", "residual", False)
    'resnet(width=16,residual=False)'
    """
    family, parameters = parse_call(architecture)
    inside = ",".join(f"{key}={one!r}" for key, one in {**parameters, name: value}.items())
    return f"{family}({inside})"


def _changes(study: Study, name: str) -> dict[str, Any]:
    """Return what the arm sets besides the baseline's cell and recipe."""
    variant = variant_of(study, name)
    if variant is None:
        return {}
    changes = dict(variant.values)
    for tied, rule in variant.tied.items():
        if rule in {"proportional", "square_root"}:
            changes[tied] = _scaled(study, variant, tied, rule)
    return changes


def _scaled(study: Study, variant: Variant, tied: str, rule: str) -> float:
    """Return the tied value, scaled as the factor is."""
    before, after = _baseline_value(study, variant.factor), variant.values[variant.factor]
    value = _baseline_value(study, tied)
    numbers = (before, after, value)
    if not all(isinstance(one, int | float) and one for one in numbers):
        msg = f"{tied!r} cannot follow {variant.factor!r} as {rule}: both need a number in the baseline."
        raise StudyError(msg)
    ratio = after / before
    return float(value * (ratio if rule == "proportional" else ratio**0.5))


def _baseline_value(study: Study, name: str) -> Any:
    if name in _RECIPE:
        return study.recipe.get(name, getattr(Recipe(), name))
    if name in _CELL:
        return study.cell.get(name, getattr(Cell(architecture="simple_cnn"), name))
    return parse_call(study.cell["architecture"])[1].get(name)
