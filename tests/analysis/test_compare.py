"""Two sweeps: known differences are found, none are claimed where there are none, in linear time."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.analysis.compare import compare_sweeps, environment_differences
from cnnbench.measurement import Window
from sample_sweep import ENVIRONMENT, spoilt, sweep, with_cell

if TYPE_CHECKING:
    from cnnbench.record import Record

RECORDS = sweep(epochs=0)


def rerun(record: Record, seed: int, *, speed: float = 1.0) -> Record:
    """Return what a second run of the cell might have measured, `speed` times as fast."""
    assert record.profile is not None
    rng = random.Random(f"{record.cell_hash}{seed}")  # noqa: S311 - plausible noise, no secret
    step = record.profile.median_step_seconds / speed
    windows = tuple(
        Window(seconds=4 * step * rng.lognormvariate(0, 0.008), num_steps=4) for _ in range(12)
    )
    return replace(record, profile=replace(record.profile, windows=windows))


BASE = [rerun(record, 1) for record in RECORDS]


def test_a_second_run_of_the_same_is_the_same() -> None:
    found = compare_sweeps(BASE, [rerun(record, 2) for record in RECORDS])
    assert found.overall.verdict == "same"
    assert found.overall.num_cells == len(RECORDS)
    assert {cell.verdict for cell in found.cells} <= {"same", "inconclusive"}
    assert {cell.memory_ratio for cell in found.cells} == {1.0}
    assert found.exit_code == 0


def test_a_precision_that_became_slower_is_named() -> None:
    slower = [rerun(r, 2, speed=0.8 if r.cell.precision == "bf16" else 1.0) for r in RECORDS]
    found = compare_sweeps(BASE, slower)
    regressed = {cell.cell.precision for cell in found.cells if cell.verdict == "regressed"}
    assert regressed == {"bf16"}
    by_value = {group.value: group for group in found.axes if group.axis == "precision"}
    assert by_value["bf16"].verdict == "regressed"
    assert by_value["fp32"].verdict == "same"
    assert by_value["bf16"].low < 0.8 < by_value["bf16"].high  # type: ignore[operator]
    assert found.exit_code == 1


def test_a_faster_candidate_is_an_improvement() -> None:
    found = compare_sweeps(BASE, [rerun(record, 2, speed=1.3) for record in RECORDS])
    assert {cell.verdict for cell in found.cells} == {"improved"}
    assert found.overall.verdict == "improved"
    assert found.overall.ratio == pytest.approx(1.3, rel=0.01)
    assert found.exit_code == 0


def test_more_memory_is_a_regression_however_fast() -> None:
    def fatter(record: Record) -> Record:
        assert record.memory is not None
        peak = int(1.2 * (record.memory.peak_allocated_bytes or 0))
        return replace(record, memory=replace(record.memory, peak_allocated_bytes=peak))

    found = compare_sweeps(BASE, [fatter(rerun(r, 2, speed=1.3)) for r in RECORDS])
    assert {cell.memory_verdict for cell in found.cells} == {"regressed"}
    assert found.num_regressed == len(RECORDS)
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("completed", "out_of_memory", "regressed"),
        ("completed", "failed", "regressed"),
        ("out_of_memory", "completed", "improved"),
        ("out_of_memory", "out_of_memory", "same"),
        ("completed", "unsupported", "invalid"),
    ],
)
def test_what_became_of_a_cell_counts(before: str, after: str, verdict: str) -> None:
    sides = [
        [records[0] if status == "completed" else spoilt(records[0], status, ""), *records[1:]]
        for status, records in ((before, BASE), (after, BASE))
    ]
    first = compare_sweeps(*sides).cells[0]
    assert first.verdict == verdict
    assert first.ratio is None
    assert after.replace("_", " ") in first.reason


def test_an_invalid_cell_is_not_compared() -> None:
    wrong = replace(BASE[0], validity="invalid", validity_reasons=("ran fp32",))
    found = compare_sweeps(BASE, [wrong, *BASE[1:]])
    assert (found.cells[0].verdict, found.cells[0].reason) == ("invalid", "ran fp32")


def test_cells_on_one_side_only_are_listed() -> None:
    found = compare_sweeps(BASE[1:], BASE[:-2])
    assert [cell.name for cell in found.only_base] == [r.cell.name for r in BASE[-2:]]
    assert [cell.name for cell in found.only_candidate] == [BASE[0].cell.name]
    assert len(found.cells) == len(BASE) - 3


def test_nothing_in_common_is_invalid() -> None:
    found = compare_sweeps(BASE[:4], BASE[8:])
    assert found.overall.verdict == "invalid"
    assert found.exit_code == 3


def test_seeds_are_processes_of_one_setting() -> None:
    base, candidate = (
        [with_cell(rerun(r, run * 10 + seed), seed=seed) for r in RECORDS for seed in range(4)]
        for run in (1, 2)
    )
    found = compare_sweeps(base, candidate)
    assert len(found.cells) == len(RECORDS)
    assert {cell.num_processes for cell in found.cells} == {4}


def test_timing_and_length_of_training_may_differ() -> None:
    longer = [
        with_cell(
            r,
            recipe=replace(r.cell.recipe, epochs=5),
            timing=replace(r.cell.timing, half_width=0.01),
        )
        for r in BASE
    ]
    found = compare_sweeps(BASE, longer)
    assert len(found.cells) == len(BASE)
    assert not found.only_base


def test_of_several_environments_on_a_side_the_last_counts() -> None:
    old = [
        replace(rerun(r, 3, speed=0.5), environment_hash="old", finished_at=1.0) for r in RECORDS
    ]
    assert compare_sweeps([*old, *BASE], BASE).overall.verdict == "same"
    assert compare_sweeps([*BASE, *old], BASE).overall.ratio == pytest.approx(1)


def test_a_claim_needs_more_than_the_delta_that_is_asked_for() -> None:
    slower = [rerun(record, 2, speed=0.93) for record in RECORDS]
    assert compare_sweeps(BASE, slower).overall.verdict == "regressed"
    assert compare_sweeps(BASE, slower, delta=0.2).overall.verdict == "same"


def test_accuracies_are_compared_where_both_trained_as_long() -> None:
    trained = sweep()
    found = compare_sweeps(trained, trained)
    by_name = {cell.cell.architecture: cell.accuracy_change for cell in found.cells}
    assert by_name["simple_cnn"] == 0
    assert by_name["transfer_resnet50"] is None


def environment(**changes: Any) -> dict[str, Any]:
    return asdict(replace(ENVIRONMENT, **changes))


def test_environments_are_compared_by_name_without_peaks_and_command() -> None:
    base = {**environment(), "peaks": {"bytes_per_second": 1}, "command": "a"}
    other = environment(torch="2.16.0", flags={"matmul.fp32_precision": "tf32"})
    found = environment_differences([base], [{**other, "peaks": None, "command": "b"}])
    assert [(one.name, one.base, one.candidate) for one in found] == [
        ("torch", "2.15.0", "2.16.0"),
        ("flags.matmul.fp32_precision", "ieee", "tf32"),
        ("flags.cudnn.conv.fp32_precision", "ieee", "-"),
    ]


def test_unknown_environments_differ_in_nothing() -> None:
    assert environment_differences([], [environment()]) == []
