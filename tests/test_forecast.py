"""Forecasts as data: what is asked of cells, lines through forecasts, and doubts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cnnbench.cell import Recipe
from cnnbench.forecast import (
    MAX_DOUBTS,
    PARTS,
    Forecast,
    Outlook,
    Setting,
    batch_within,
    between,
    doubts,
    forecasts_of,
    is_on_line,
    questions,
)
from sample_records import sample_cell

RECIPE = Recipe(image_size=32, num_classes=10)


def forecast(batch_size: int, *, per_image: int = 100) -> Forecast:
    return Forecast(
        batch_size=batch_size,
        parameters=1000,
        gradients=500,
        optimizer=2000,
        activations=per_image * batch_size,
        workspace=10 * batch_size,
    )


def test_the_parts_add_up() -> None:
    assert forecast(8).total == 3500 + 800 + 80
    assert forecast(8).total == sum(getattr(forecast(8), name) for name in PARTS)


def test_each_setting_is_asked_about_once_with_all_its_batches() -> None:
    cells = [
        sample_cell(recipe=RECIPE, batch_size=size, seed=seed, precision=precision)
        for size in (64, 32)
        for seed in (0, 1)
        for precision in ("fp32", "bf16")
    ]
    asked = questions(cells, 5)
    assert [question.setting.precision for question in asked] == ["fp32", "bf16"]
    assert {question.batch_sizes for question in asked} == {(32, 64)}
    assert {question.budget_bytes for question in asked} == {5}


def test_cells_find_their_forecasts_by_setting_and_batch() -> None:
    cells = [sample_cell(recipe=RECIPE, batch_size=size) for size in (32, 48, 64, 16)]
    other = sample_cell(recipe=RECIPE, precision="fp32")
    outlook = Outlook(
        setting=Setting.of(cells[0]), forecasts=(forecast(32), forecast(64)), is_linear=True
    )
    found = forecasts_of([*cells, other], [outlook])
    assert [found[cell.hash].total for cell in cells[:3]] == [
        forecast(size).total for size in (32, 48, 64)
    ]
    assert cells[3].hash not in found  # below the line's first point nothing was seen
    assert other.hash not in found
    bent = forecasts_of(cells, [replace(outlook, is_linear=False)])
    assert set(bent) == {cells[0].hash, cells[2].hash}


def test_a_line_through_two_forecasts_meets_the_budget() -> None:
    low, high = forecast(10), forecast(30)
    assert between(low, high, 20) == forecast(20)
    assert is_on_line(low, high, forecast(25))
    assert not is_on_line(low, high, replace(forecast(20), activations=3000))
    budget = forecast(77).total
    assert batch_within(low, high, budget) == 77
    assert batch_within(low, high, budget - 1) == 76
    assert batch_within(low, high, 1) == 0


def test_a_memory_that_does_not_grow_is_no_line_to_follow() -> None:
    low, high = (replace(forecast(size, per_image=0), workspace=0) for size in (10, 30))
    assert batch_within(low, high, low.total) == 30
    assert batch_within(low, high, low.total - 1) == 0


def test_cells_that_may_not_fit_are_named_up_to_a_limit() -> None:
    cells = [sample_cell(batch_size=size) for size in range(1, 31)]
    forecasts = {cell.hash: forecast(cell.batch_size * 2**20) for cell in cells}
    told = doubts(cells, forecasts, forecasts[cells[9].hash].total)
    assert len(told) == MAX_DOUBTS + 1
    assert told[0] == f"{cells[10].name}: forecast 1.2 GiB of 1.1 GiB: doubtful"
    assert told[-1] == "12 more cells are doubtful"
    assert doubts(cells, {}, 1) == ()


@pytest.mark.parametrize("change", [{"image_size": 16}, {"optimizer": "sgd"}, {"dropout": 0.5}])
def test_what_changes_the_memory_is_another_setting(change: dict[str, Any]) -> None:
    cell = sample_cell(recipe=RECIPE)
    other = replace(cell, recipe=replace(RECIPE, **change))
    assert Setting.of(cell) != Setting.of(other)
    assert Setting.of(cell) == Setting.of(replace(cell, recipe=replace(RECIPE, epochs=9)))
