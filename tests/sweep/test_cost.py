"""What a grid will cost, in words."""

from __future__ import annotations

from dataclasses import replace

from cnnbench.cell import Timing
from cnnbench.sweep.cost import describe
from sample_records import STARTED_AT, sample_cell, sample_record


def test_the_cost_bounds_timed_windows_and_epochs() -> None:
    cells = [sample_cell(batch_size=size, timing=Timing(limit_seconds=4)) for size in (64, 128)]
    assert describe(cells, []) == (
        "2 cells: at most 0 min 8 s of timed windows, and up to 6 epochs of training;"
        " set-up and warm-up come on top."
    )


def test_cells_that_time_nothing_cost_no_windows() -> None:
    cell = sample_cell(timing=Timing(max_windows=0))
    assert "at most 0 min 0 s of timed windows, and up to 3 epochs" in describe([cell], [])


def test_hours_are_said_as_hours() -> None:
    cells = [sample_cell(seed=seed, timing=Timing(limit_seconds=60)) for seed in range(90)]
    assert "at most 1 h 30 min of timed windows" in describe(cells, [])


def test_past_cells_say_what_those_of_the_same_architecture_may_take() -> None:
    resnet = sample_cell()
    other = replace(resnet, architecture="simple_cnn")
    past = [
        sample_record(cell=resnet, finished_at=STARTED_AT + 10),
        sample_record(cell=replace(resnet, seed=1), finished_at=STARTED_AT + 20),
    ]
    text = describe([resnet, replace(resnet, batch_size=128), other], past)
    assert text.endswith("Past cells of the same architectures suggest 0 min 30 s for 2 of them.")
    assert "Past cells" not in describe([other], past)
