"""The gate's results are pytest-benchmark's JSON: its own tools read them, and ours read its."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.errors import StoreError
from cnnbench.regress.results import Measured, Run, merge_results, read_results, write_results
from cnnbench.regress.suite import Subject
from sample_records import sample_record
from sample_regress import (
    TRAINING,
    sample_machine,
    sample_results,
    sample_run,
    sample_test,
    sample_training,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_results_read_back_as_they_were_written(tmp_path: Path) -> None:
    lost = replace(sample_test(status="out_of_memory", windows=()), name="training/lost")
    results = sample_results(
        sample_test(), sample_training([0.9, 0.8]), lost, environment={"gpu": None}, is_dirty=True
    )
    results = replace(results, suite="cpu", verdict="regressed")
    write_results(results, tmp_path / "a" / "results.json")
    assert read_results(tmp_path / "a" / "results.json") == results


def test_a_test_keeps_the_setting_that_its_name_does_not_tell(tmp_path: Path) -> None:
    cell = Cell(architecture="simple_cnn", recipe=Recipe(epochs=2, image_size=16))
    subject = Subject(kind="training", cell=cell)
    longer = replace(subject, cell=replace(cell, recipe=replace(cell.recipe, epochs=3)))
    test, other = Measured.of(subject, [sample_run(0)]), Measured.of(longer)
    assert (test.name, test.kind, test.batch_size, test.runs) == (
        *(subject.name, "training", 64),
        (sample_run(0),),
    )
    assert test.name == other.name
    assert test.setting != other.setting
    seeded = replace(cell, seed=1, timing=Timing(max_windows=9))
    assert Measured.of(replace(subject, cell=seeded)).setting == test.setting
    write_results(sample_results(test), tmp_path / "r.json")
    assert read_results(tmp_path / "r.json").tests[test.name].setting == test.setting


def test_pytest_benchmark_itself_shows_them(tmp_path: Path) -> None:
    write_results(sample_results(), tmp_path / "0001_base.json")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(tmp_path / "0001_base.json")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TRAINING in done.stdout


def test_statistics_beside_the_windows_are_those_of_the_steps(tmp_path: Path) -> None:
    test = sample_test(number=1)
    write_results(sample_results(test), tmp_path / "r.json")
    (shown,) = json.loads((tmp_path / "r.json").read_text())["benchmarks"]
    assert shown["stats"]["min"] == min(test.step_seconds)
    assert shown["stats"]["rounds"] == 8
    assert shown["stats"]["ops"] == pytest.approx(1 / shown["stats"]["mean"])


def test_benchmarks_that_are_not_ours_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_results(sample_results(), path)
    document = json.loads(path.read_text())
    document["benchmarks"].append({"name": "test_tracking", "extra_info": {}, "stats": {}})
    path.write_text(json.dumps(document))
    assert read_results(path) == sample_results()


def test_several_calls_are_several_processes_of_one_machine() -> None:
    one, two = (sample_results(sample_test(number=1, offset=n)) for n in (0, 1))
    merged = merge_results([one, two])
    assert merged.tests[TRAINING].runs == (sample_run(0), sample_run(1))
    with pytest.raises(StoreError, match="different machines: torch"):
        merge_results([one, replace(two, machine=sample_machine(torch="2.12.0"))])


def test_results_of_different_suites_are_not_merged() -> None:
    old, ours, bench = (sample_results(suite=suite) for suite in ("", "cpu", "bench"))
    assert merge_results([old, ours]).suite == merge_results([ours, ours]).suite == "cpu"
    with pytest.raises(StoreError, match="different suites: bench, cpu"):
        merge_results([ours, old, bench])


@pytest.mark.parametrize(("own", "suite"), [(None, "bench"), ({"untimed": []}, "")])
def test_a_file_without_our_document_is_of_pytest_and_an_older_one_of_an_unknown_suite(
    own: dict[str, Any] | None, suite: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    write_results(sample_results(suite="cpu"), path)
    assert read_results(path).suite == "cpu"
    document = {**json.loads(path.read_text()), "cnnbench": own}
    if own is None:
        del document["cnnbench"]
    path.write_text(json.dumps(document))
    assert read_results(path) == sample_results(suite=suite)


def test_a_record_is_kept_as_what_the_gate_judges() -> None:
    record = sample_record()
    run = Run.of(record)
    assert record.profile is not None
    assert record.memory is not None
    assert run.windows == record.profile.windows
    assert run.peak_allocated_bytes == record.memory.peak_allocated_bytes
    assert run.accuracy == pytest.approx(1 - 0.8 / 3)
    bare = Run.of(replace(record, profile=None, memory=None, fit=None, status="out_of_memory"))
    assert (bare.windows, bare.accuracy, bare.status) == ((), None, "out_of_memory")
