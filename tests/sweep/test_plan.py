"""What a sweep will run, and which results still stand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cnnbench.cell import Cell, Recipe
from cnnbench.errors import InvalidValueError
from cnnbench.job import Ready
from cnnbench.sweep.plan import make_plan, resolve
from sample_records import sample_cell, sample_dataset, sample_environment, sample_record


def a_ready(**changes: object) -> Ready:
    names = ("simple_cnn", "resnet(width=16,depth=2)", "transfer_resnet50", "mine:net")
    ready = Ready(
        environment=sample_environment(),
        dataset=sample_dataset(),
        model_digests=dict.fromkeys(names, ""),
    )
    return replace(ready, **changes)  # type: ignore[arg-type]


CELLS = [Cell(architecture="simple_cnn", batch_size=size) for size in (64, 128)]


def test_the_same_grid_on_the_same_machine_finds_its_sweep_again() -> None:
    plan = make_plan("quick", CELLS, a_ready())
    assert plan.sweep_id == make_plan("quick", CELLS, a_ready()).sweep_id
    assert plan.sweep_id.startswith("quick-")
    # Where it ran, and from which commit, changes no number.
    elsewhere = a_ready(
        environment=sample_environment(git_commit="f" * 40, git_dirty=True),
        dataset=sample_dataset(path="elsewhere/digits", source="another folder"),
    )
    assert plan.sweep_id == make_plan("quick", CELLS, elsewhere).sweep_id


@pytest.mark.parametrize(
    "other",
    [
        a_ready(environment=sample_environment(torch="2.12.0")),
        a_ready(environment=sample_environment(device="NVIDIA H200")),
        a_ready(environment=sample_environment(driver="575.1")),
        a_ready(environment=sample_environment(code_digest="b" * 16)),
        a_ready(dataset=sample_dataset(digest="e" * 32)),
        a_ready(model_digests={"simple_cnn": "edited"}),
    ],
    ids=["torch", "device", "driver", "cnnbench", "data", "model"],
)
def test_another_environment_is_another_sweep_and_measures_every_cell_anew(other: Ready) -> None:
    plan, changed = make_plan("quick", CELLS, a_ready()), make_plan("quick", CELLS, other)
    assert changed.sweep_id != plan.sweep_id
    done = [
        sample_record(cell=cell, environment_hash=plan.environment_hash(cell))
        for cell in plan.cells
    ]
    assert plan.missing(done, retry_failed=False) == []
    assert changed.missing(done, retry_failed=False) == list(changed.cells)


def test_an_edited_model_leaves_the_results_of_the_others_standing() -> None:
    cells = [Cell(architecture="simple_cnn"), Cell(architecture="mine:net")]
    plan = make_plan("quick", cells, a_ready())
    edited = make_plan("quick", cells, a_ready(model_digests={"simple_cnn": "", "mine:net": "2"}))
    done = [
        sample_record(cell=cell, environment_hash=plan.environment_hash(cell))
        for cell in plan.cells
    ]
    missing = edited.missing(done, retry_failed=False)
    assert [cell.architecture for cell in missing] == ["mine:net"]


def test_only_failed_and_timed_out_cells_run_again_on_request() -> None:
    statuses = ("completed", "out_of_memory", "diverged", "unsupported", "failed", "timeout")
    cells = [Cell(architecture="simple_cnn", seed=seed) for seed in range(len(statuses))]
    plan = make_plan("quick", cells, a_ready())
    done = [
        sample_record(cell=cell, status=status, environment_hash=plan.environment_hash(cell))
        for cell, status in zip(plan.cells, statuses, strict=True)
    ]
    assert plan.missing(done, retry_failed=False) == []
    assert plan.missing(done, retry_failed=True) == list(plan.cells[4:])
    assert plan.missing(done[1:], retry_failed=False) == [plan.cells[0]]


def test_a_resolved_cell_says_what_it_had_left_to_the_data_and_the_architecture() -> None:
    recipe = resolve(Cell(architecture="transfer_resnet50"), sample_dataset()).recipe
    assert recipe == Recipe(image_size=32, num_classes=10, augmentation="crop", weights="imagenet")
    own = Recipe(image_size=64, num_classes=10, augmentation="none", weights="none")
    cell = Cell(architecture="transfer_resnet50", recipe=own)
    assert resolve(cell, sample_dataset()).recipe == own
    again = resolve(resolve(cell, sample_dataset()), sample_dataset())
    assert again == resolve(cell, sample_dataset())


def test_cells_that_ask_for_the_same_in_two_ways_run_once() -> None:
    explicit = Cell(architecture="simple_cnn", recipe=Recipe(augmentation="crop", image_size=32))
    plan = make_plan("quick", [Cell(architecture="simple_cnn"), explicit], a_ready())
    assert len(plan.cells) == 1


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (sample_cell(batch_size=2048), "batch_size = 2048 is more than the 1257 training images"),
        (
            sample_cell(batch_size=101, recipe=Recipe(epochs=1, train_subset=100)),
            "batch_size = 101 is more than the 100 training images",
        ),
        (sample_cell(recipe=Recipe(train_subset=1258)), "train_subset = 1258, but digits has 1257"),
        (sample_cell(recipe=Recipe(num_classes=100)), "num_classes = 100, but digits has 10"),
        (sample_cell(recipe=Recipe(augmentation="flip+crop")), "'flip.crop' does not suit digits"),
        (sample_cell(recipe=Recipe(weights="imagenet")), "are there for transfer_resnet50 and"),
    ],
    ids=["batch", "batch of a subset", "subset", "classes", "flipped digits", "weights"],
)
def test_what_the_data_cannot_give_is_refused(cell: Cell, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make_plan("quick", [cell], a_ready())


def test_a_batch_beyond_the_data_can_be_profiled_without_training() -> None:
    cell = sample_cell(batch_size=2048, recipe=Recipe(epochs=0))
    assert make_plan("quick", [cell], a_ready()).cells[0].batch_size == 2048
