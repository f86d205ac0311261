"""The largest batch, found by trying real steps against a budget."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench import api
from cnnbench.execute import execute
from cnnbench.max_batch import TABLE, TRY_TIMING, MaxBatchSession
from cnnbench.record import COLUMNS
from cnnbench.sweep.journal import NAME
from cnnbench.sweep.run import Observer
from command import TINY_PROFILE, as_a_process, listing, run_here
from sample_jobs import TINY_CNN, job, tiny_cell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.environment import DatasetInfo
    from cnnbench.max_batch import LargestBatch
    from cnnbench.record import Record

BUDGET = 16 * 2**20
SETTINGS: dict[str, Any] = {
    "architecture": "simple_cnn",
    "precision": ["fp32", "bf16"],
    # A process that has profiled before is told of frees of long ago: peaks need fresh ones.
    "isolation": "forkserver",
    "tracking_uri": "none",
    "memory_budget": "16MiB",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("largest")
    (folder / "tiny.toml").write_text(TINY_PROFILE)
    with as_a_process(folder):
        yield folder


class Noting(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.tries: list[str] = []

    def on_phase(self, text: str) -> None:
        if "fit" in text:
            self.tries.append(text)


@pytest.fixture(scope="module")
def first(place: Path) -> tuple[list[LargestBatch], Path, list[str]]:
    observer = Noting()
    found, folder = api.find_max_batch("tiny.toml", observer=observer, **SETTINGS)
    assert folder is not None
    assert place in folder.parents
    return found, folder, observer.tries


def peak(record: Record) -> int:
    assert record.memory is not None
    assert record.memory.peak_allocated_bytes is not None
    return record.memory.peak_allocated_bytes


def test_the_largest_fits_the_budget_and_one_image_more_does_not(
    first: tuple[list[LargestBatch], Path, list[str]],
) -> None:
    found, folder, _ = first
    records = {(r.cell.precision, r.cell.batch_size): r for r in api.load(folder)}
    assert [one.precision for one in found] == ["fp32", "bf16"]
    for one in found:
        assert one.batch_size is not None
        assert (one.status, one.reason) == ("completed", None)
        largest = records[one.precision, one.batch_size]
        beyond = records[one.precision, one.batch_size + 1]
        assert (largest.status, beyond.status) == ("completed", "out_of_memory")
        assert peak(largest) <= BUDGET < peak(beyond)
        assert one.peak_bytes == peak(largest)
        assert beyond.profile is None
        assert beyond.error is not None
        assert "over the budget of 16,777,216" in beyond.error
    fp32, bf16 = (one.batch_size or 0 for one in found)
    assert fp32 < bf16


def test_the_forecast_leads_there_in_few_tries(
    first: tuple[list[LargestBatch], Path, list[str]],
) -> None:
    for one in first[0]:
        assert one.batch_size is not None
        assert one.forecast_batch_size == pytest.approx(one.batch_size, rel=0.15)
        assert one.num_tries <= 8


def test_tries_are_cells_of_the_journal_with_their_forecasts(
    first: tuple[list[LargestBatch], Path, list[str]],
) -> None:
    found, folder, tries = first
    records = list(api.load(folder))
    assert len(records) == sum(one.num_tries for one in found) == len(tries)
    assert {record.cell.memory_budget_bytes for record in records} == {BUDGET}
    with (folder / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        ratio = float(row["forecast_mib"]) / float(row["peak_allocated_mib"])
        assert ratio == pytest.approx(1, rel=0.15)


def test_the_result_is_written_beside_the_journal(
    first: tuple[list[LargestBatch], Path, list[str]],
) -> None:
    found, folder, _ = first
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["batch_size"]) for row in rows] == [one.batch_size for one in found]
    assert {row["memory_budget_bytes"] for row in rows} == {str(BUDGET)}


def test_a_second_call_repeats_no_try_and_a_lost_one_is_tried_again(
    first: tuple[list[LargestBatch], Path, list[str]],
) -> None:
    found, folder, _ = first
    journal = folder / NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    again, same = api.find_max_batch("tiny.toml", **SETTINGS)
    assert (again, same) == (found, folder)
    assert journal.read_bytes().splitlines(keepends=True) == lines
    lost = lines.pop()
    journal.write_bytes(b"".join(lines))
    api.find_max_batch("tiny.toml", **SETTINGS)
    new = [
        json.loads(line)["cell_hash"] for line in journal.read_bytes().splitlines()[len(lines) :]
    ]
    assert new[0] == json.loads(lost)["cell_hash"]
    # In one process the profiler may see it otherwise the second time, and more follow: never known ones.
    assert not set(new) & {json.loads(line)["cell_hash"] for line in lines}


@pytest.mark.usefixtures("first")
def test_without_a_forecast_the_answer_is_the_same(
    place: Path, first: tuple[list[LargestBatch], Path, list[str]]
) -> None:
    class Blind(MaxBatchSession):
        """Is told nothing by the preflight."""

        def _questions(self, *_: object) -> tuple[()]:
            return ()

    settings = {**SETTINGS, "precision": "fp32", "results_dir": place / "blind"}
    session = Blind("tiny.toml", settings, Observer())
    session.run()
    (found,) = session.found
    assert (found.batch_size, found.forecast_batch_size) == (first[0][0].batch_size, None)


def test_what_says_nothing_of_memory_ends_its_search_with_the_reason(place: Path) -> None:
    settings = {**SETTINGS, "precision": ["tf32", "fp32"], "results_dir": place / "tf32"}
    tf32, fp32 = api.find_max_batch("tiny.toml", **settings)[0]
    assert (tf32.status, tf32.batch_size) == ("unsupported", None)
    assert tf32.reason == "TF32 needs an NVIDIA GPU"
    assert fp32.batch_size is not None


def test_a_cell_over_its_budget_is_out_of_memory_with_its_peak(digits: DatasetInfo) -> None:
    free = execute(job(tiny_cell(timing=TRY_TIMING), digits), lambda _: None)
    for share, status in ((1.1, "completed"), (0.9, "out_of_memory")):
        budget = round(share * peak(free))
        cell = tiny_cell(timing=TRY_TIMING, memory_budget_bytes=budget)
        record = execute(job(cell, digits), lambda _: None)
        assert record.status == status
        # In one process the profiler may also see what earlier profiling freed late: workers' peaks agree.
        assert peak(record) == pytest.approx(peak(free), rel=0.05)
        assert cell.hash != free.cell_hash
        assert record.row()["images_per_second"] is None or status == "completed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs --memory-budget, such as 2GiB"),
        (("--memory-budget", "12 bananas"), "write a number and a unit, such as 16GiB"),
        (("--memory-budget", "-2GiB"), "write a number and a unit, such as 16GiB"),
        (("--memory-budget", "900TiB"), "is more than the"),
        (("--memory-budget", "1GiB", "--batch-size", "64"), "leave --batch-size out"),
        (("--memory-budget", "1GiB", "--epochs", "2"), "leave --epochs out"),
    ],
)
def test_a_search_that_cannot_be_is_refused_and_writes_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    before = listing(tmp_path)
    usual = ("--profile", "tiny.toml", "--isolation", "inline", "--device", "cpu")
    assert run_here("run", *usual, "--find-max-batch", *arguments, folder=tmp_path) == 2
    written = capsys.readouterr()
    assert said in written.err.splitlines()[-1]
    assert "Traceback" not in written.err
    assert listing(tmp_path) == before


def test_the_command_prints_the_largest_batches(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--architecture", TINY_CNN, "--isolation", "inline", "--tracking-uri", "none")
    budget = ("--find-max-batch", "--memory-budget", "3MiB")
    assert run_here("run", "--profile", "tiny.toml", *arguments, *budget, folder=place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(TINY_CNN)
    assert any(line.startswith("largest  results/local/tiny-") for line in lines)
