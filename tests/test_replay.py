"""Replaying journals into a store: what it lacks, once, and nothing of what is being written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.errors import StoreError
from cnnbench.replay import replay
from cnnbench.results import ENVIRONMENT
from cnnbench.sweep.journal import NAME, Journal
from cnnbench.tracking import open_store
from command import listing, run_here
from sample_records import sample_cell, sample_record, write_surroundings

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.record import Record


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    open_store(None, folder).close()
    return folder / "mlflow.db"


@pytest.fixture
def results(empty_store: Path, tmp_path: Path) -> Path:
    """Two sweeps of two cells that were run without a store."""
    folder = tmp_path / "results" / "local"
    for sweep_id in ("quick-aaaa", "quick-bbbb"):
        write_sweep(folder / sweep_id, sweep_id)
    shutil.copy(empty_store, folder)
    return folder


def write_sweep(folder: Path, sweep_id: str, **changes: Any) -> list[Record]:
    records = [
        sample_record(sweep_id=sweep_id, cell=sample_cell(batch_size=size), **changes)
        for size in (64, 128)
    ]
    with Journal(folder / NAME) as journal:
        for record in records:
            journal.append(record)
    write_surroundings(folder)
    return records


def kinds(results: Path, uri: str | None = None) -> list[tuple[str, str, str]]:
    tracker = open_store(uri, results, create=False)
    ids = [experiment.experiment_id for experiment in tracker.client.search_experiments()]
    runs = tracker.client.search_runs(ids)
    tracker.close()
    return sorted(
        (run.data.tags["sweep_id"], run.data.tags["kind"], run.info.status) for run in runs
    )


def both(*sweep_ids: str) -> list[tuple[str, str, str]]:
    return [
        (sweep_id, kind, "FINISHED") for sweep_id in sweep_ids for kind in ("cell", "cell", "sweep")
    ]


def test_all_sweeps_are_replayed_and_a_second_time_nothing_is(results: Path) -> None:
    for num_logged in (2, 0):
        said: list[str] = []
        replay([], results, None, say=said.append)
        assert said == [
            f"quick-aaaa: 2 cells, {num_logged} logged now",
            f"quick-bbbb: 2 cells, {num_logged} logged now",
        ]
        assert kinds(results) == both("quick-aaaa", "quick-bbbb")


def test_a_sweep_is_named_by_folder_or_name_and_may_go_to_another_store(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = results.parent.parent
    uri = f"sqlite:///{place}/other.db"
    for name in ("quick-aaaa", "results/local/quick-aaaa"):
        assert run_here("sync", name, "--tracking-uri", uri, folder=place) == 0
    assert capfd.readouterr().out == (
        "quick-aaaa: 2 cells, 2 logged now\nquick-aaaa: 2 cells, 0 logged now\n"
    )
    assert kinds(results, uri) == both("quick-aaaa")
    assert kinds(results) == []


def test_a_report_goes_along_and_what_a_kill_left_is_mended(results: Path) -> None:
    page = results / "quick-aaaa" / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("<p>the report")
    with (results / "quick-aaaa" / NAME).open("ab") as journal:
        journal.write(b'{"torn":')
    replay(["quick-aaaa"], results, None, say=lambda _: None)
    tracker = open_store(None, results, create=False)
    ids = [experiment.experiment_id for experiment in tracker.client.search_experiments()]
    (sweep,) = tracker.client.search_runs(ids, "tags.kind = 'sweep'")
    assert [file.path for file in tracker.client.list_artifacts(sweep.info.run_id, "report")] == [
        "report/index.html"
    ]
    (cell, *_) = tracker.client.search_runs(ids, "tags.kind = 'cell'")
    tracker.client.update_run(cell.info.run_id, status="RUNNING")
    tracker.close()
    said: list[str] = []
    replay(["quick-aaaa"], results, None, say=said.append)
    assert said == ["quick-aaaa: 2 cells, 1 logged now, 1 runs superseded"]
    left = ("quick-aaaa", "superseded", "KILLED")
    assert kinds(results) == sorted([*both("quick-aaaa"), left])


def test_a_sweep_that_is_being_written_is_left_out(results: Path) -> None:
    said: list[str] = []
    with Journal(results / "quick-aaaa" / NAME):
        replay([], results, None, say=said.append)
    assert said[0].startswith("quick-aaaa: left out, for another cnnbench writes it")
    assert kinds(results) == both("quick-bbbb")


@pytest.mark.parametrize(
    "forged",
    [
        {"sweep_id": "x' or tags.kind = 'cell"},
        {"sweep_id": "../../elsewhere"},
        {"cell_hash": "../.."},
        {"cell_hash": "x' or tags.kind = 'cell"},
    ],
)
def test_a_journal_with_identifiers_that_are_not_ours_is_refused(
    results: Path, forged: dict[str, str]
) -> None:
    records = write_sweep(results / "quick-cccc", "quick-cccc")
    with Journal(results / "quick-cccc" / NAME) as journal:
        journal.append(replace(records[0], **forged))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="is no journal of one sweep of cnnbench"):
        replay(["quick-cccc"], results, None, say=lambda _: None)
    assert kinds(results) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quick-dddd"], "there is no sweep quick-dddd: no journal.jsonl in quick-dddd or "),
        (["--results-dir", "nowhere"], "there is no sweep in nowhere: no journal.jsonl"),
        (["--tracking-uri", "none"], "there is nothing to sync to"),
        (["--tracking-uri", "ftp://me:secret@somewhere"], "store ftp://***@somewhere"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(
    results: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    place = results.parent.parent
    before = listing(place)
    assert run_here("sync", *arguments, folder=place) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("cnnbench: ")
    assert said in line
    assert "secret" not in line
    assert listing(place) == before


def test_damaged_surroundings_are_named(results: Path) -> None:
    (results / "quick-aaaa" / ENVIRONMENT).write_bytes(b"\xff{")
    with pytest.raises(StoreError, match=r"cannot read .*quick-aaaa/environment\.json"):
        replay(["quick-aaaa"], results, None, say=lambda _: None)
