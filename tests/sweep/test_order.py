"""The order of a sweep's cells: neighbours share what was compiled, and short ones come first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from cnnbench.cell import Cell, Recipe, Timing, grid
from cnnbench.sweep.order import in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE: dict[str, Any] = {"recipe": Recipe(image_size=32, num_classes=10), "timing": Timing()}
AXES: dict[str, list[Any]] = {
    "compile": ["off", "default"],
    "batch_size": [256, 64],
    "architecture": ["simple_cnn", "resnet"],
    "seed": [0, 1],
    "precision": ["fp32", "bf16"],
}


def groups(cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
    """Return which code the cells compile, without immediate repeats."""
    found: list[tuple[str, str, str]] = []
    for cell in cells:
        group = (cell.architecture, cell.compile, cell.precision)
        if not found or found[-1] != group:
            found.append(group)
    return found


def test_cells_that_share_compiled_code_are_neighbours() -> None:
    cells = grid(AXES, base=BASE)
    assert len(groups(cells)) == 32
    ordered = in_order(cells)
    assert sorted(cell.hash for cell in ordered) == sorted(cell.hash for cell in cells)
    assert len(groups(ordered)) == 8
    assert groups(ordered)[0] == ("simple_cnn", "off", "fp32")


@given(sizes=st.permutations([64, 128, 256]))
def test_the_order_within_a_group_does_not_depend_on_the_order_given(sizes: list[int]) -> None:
    cells = grid({"batch_size": sizes}, base={**BASE, "architecture": "resnet"})
    assert [cell.batch_size for cell in in_order(cells)] == [64, 128, 256]


def test_cells_that_only_profile_come_before_those_that_train() -> None:
    plain = Cell(architecture="resnet", batch_size=256, **BASE)
    trained = replace(plain, batch_size=32, recipe=replace(plain.recipe, epochs=3))
    brief = replace(trained, recipe=replace(trained.recipe, train_subset=100))
    untimed = replace(trained, timing=Timing(max_windows=0))
    assert in_order([trained, brief, plain, untimed]) == [untimed, plain, brief, trained]


def test_what_needs_the_most_memory_comes_last_of_its_group() -> None:
    plain, stage, block = (
        Cell(architecture="resnet", checkpointing=name, **BASE)
        for name in ("none", "stage", "block")
    )
    other = Cell(architecture="simple_cnn", **BASE)
    forecast = {plain.hash: 900.0, stage.hash: 500.0, block.hash: 300.0, other.hash: 1.0}
    ordered = in_order([plain, stage, other, block], forecast_mib=forecast)
    assert ordered == [block, stage, plain, other]
