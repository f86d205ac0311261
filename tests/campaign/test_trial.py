"""Which cells a study asks for next, answered by hand-made records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.campaign.trial import SCOUT_SEED, Trial
from cnnbench.job import Ready
from cnnbench.record import MIB
from sample_records import (
    sample_dataset,
    sample_environment,
    sample_memory,
    sample_profile,
    sample_record,
)
from sample_study import fit, sample_study

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.cell import Cell
    from cnnbench.record import Record
    from cnnbench.study import Study

SPEED = ('metric = "num_parameters"', 'metric = "images_per_second"')
LADDER = ("max_seeds = 5", "max_seeds = 5\nbatch_sizes = [32, 64, 128]")


def is_wide(cell: Cell) -> bool:
    return "width=8" in cell.architecture


def answer(cell: Cell) -> Record:
    """Return what a cell leaves: the wide one is fastest at 128, the narrow one at 32."""
    if cell.recipe.epochs:
        return sample_record(cell=cell, fit=fit(0.9 if is_wide(cell) else 0.8), profile=None)
    best = 128 if is_wide(cell) else 32
    rate = (3000.0 if is_wide(cell) else 2000.0) + (500 if cell.batch_size == best else 0)
    step = cell.batch_size / rate
    windows = tuple(replace(one, seconds=10 * step) for one in sample_profile().windows)
    peak = cell.batch_size * (0.4 if is_wide(cell) else 1.0)
    return sample_record(
        cell=cell,
        profile=sample_profile(windows=windows),
        memory=sample_memory(peak_allocated_bytes=int(peak * MIB)),
        fit=None,
    )


def run(
    study: Study, answer: Callable[[Cell], Record] = answer, most: int = 20
) -> tuple[Trial, list[list[Cell]]]:
    """Answer whatever the study asks for, until it asks for nothing."""
    ready = Ready(environment=sample_environment(), dataset=sample_dataset(), model_digests={})
    records: dict[str, Record] = {}
    trial = Trial(study=study, device="Intel Xeon", records=records, ready=ready)
    asked: list[list[Cell]] = []
    while (cells := trial.next_cells()) and len(asked) < most:
        asked.append(cells)
        records.update({cell.hash: answer(cell) for cell in cells})
    assert not cells
    return trial, asked


def test_a_decided_study_asks_for_no_more_seeds(tmp_path: Path) -> None:
    trial, asked = run(sample_study(tmp_path, SPEED))
    assert [one.outcome for one in trial.verdicts()] == ["confirmed", "confirmed"]
    assert [{cell.seed for cell in cells} for cells in asked] == [{0, 1, 2}]
    assert len(asked[0]) == 12
    assert len(trial.used()) == 12


def test_seeds_are_added_for_the_open_claim_alone(tmp_path: Path) -> None:
    def noisy(cell: Cell) -> Record:
        record = answer(cell)
        if record.fit is None:
            return record
        gain = (0.08, -0.03, 0.03, 0.01, 0.02)[cell.seed] if is_wide(cell) else 0.0
        return replace(record, fit=fit(0.8 + gain))

    trial, asked = run(sample_study(tmp_path, SPEED), noisy)
    assert [{cell.seed for cell in cells} for cells in asked] == [{0, 1, 2}, {3, 4}]
    assert all(cell.recipe.epochs for cell in asked[1])
    assert [one.outcome for one in trial.verdicts()] == ["confirmed", "inconclusive"]


def test_each_arm_is_measured_at_its_fastest_batch(tmp_path: Path) -> None:
    study = sample_study(tmp_path, SPEED, LADDER, ("size = 0.2", 'size = 0.2\nat = "best_batch"'))
    trial, asked = run(study)
    scouts, measured = asked[0], [cell for cell in asked[1] if not cell.recipe.epochs]
    assert {cell.seed for cell in scouts} == {SCOUT_SEED}
    assert {(is_wide(cell), cell.batch_size) for cell in scouts} == {
        (wide, size) for wide in (True, False) for size in (32, 64, 128)
    }
    assert {(is_wide(cell), cell.batch_size) for cell in measured} == {(True, 128), (False, 32)}
    assert all(cell.seed != SCOUT_SEED for cell in measured)
    assert trial.verdicts()[0].effect == pytest.approx(3500 / 2500, rel=1e-6)


def test_at_equal_memory_the_variant_gets_the_largest_batch_that_needs_no_more(
    tmp_path: Path,
) -> None:
    at = ("size = 0.2", 'size = 0.2\nat = "equal_memory"')
    _, asked = run(sample_study(tmp_path, SPEED, LADDER, at))
    measured = {(is_wide(cell), cell.batch_size) for cell in asked[1] if not cell.recipe.epochs}
    # 128 images of 0.4 MiB are fewer than 64 of 1 MiB.
    assert measured == {(True, 128), (False, 64)}


def test_a_variant_that_needs_more_at_every_batch_is_not_measured(tmp_path: Path) -> None:
    def hungry(cell: Cell) -> Record:
        memory = sample_memory(peak_allocated_bytes=MIB * (999 if is_wide(cell) else 1))
        return replace(answer(cell), memory=memory)

    at = ("size = 0.2", 'size = 0.2\nat = "equal_memory"')
    trial, _ = run(sample_study(tmp_path, SPEED, LADDER, at), hungry)
    verdict = trial.verdicts()[0]
    assert verdict.outcome == "not_measured"
    assert "no batch of wide needs 1 MiB or less" in verdict.reason


@pytest.mark.parametrize("status", ["failed", "timeout", "unsupported", "out_of_memory"])
def test_a_lost_arm_asks_for_no_more_cells(tmp_path: Path, status: str) -> None:
    def broken(cell: Cell) -> Record:
        spoilt: dict[str, Any] = {"status": status, "profile": None, "fit": None}
        return replace(answer(cell), **spoilt) if is_wide(cell) else answer(cell)

    trial, asked = run(sample_study(tmp_path, SPEED), broken)
    assert len(asked) == 1
    assert {one.outcome for one in trial.verdicts()} == {"not_measured"}


def test_a_study_that_cannot_run_says_why_of_every_claim(tmp_path: Path) -> None:
    study = sample_study(tmp_path)
    trial = Trial(study=study, device="Intel Xeon", records={}, reason="its weights are missing")
    assert trial.next_cells() == []
    assert [one.reason for one in trial.verdicts()] == ["its weights are missing"] * 2
