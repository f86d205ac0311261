"""A whole sweep from the command line, run and run again."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from cnnbench import api
from cnnbench.record import COLUMNS, METRIC_COLUMNS, PARAM_COLUMNS
from command import TINY_PROFILE, cnnbench, listing, run_here
from finished_run import Run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.toml").write_text(TINY_PROFILE)
    return Run(folder=folder, done=cnnbench("run", "--profile", "tiny.toml", cwd=folder))


@pytest.fixture(scope="module")
def again(first: Run) -> tuple[Run, dict[str, Any]]:
    """The same call, speaking JSON; with what there was before it."""
    before = {"files": listing(first.sweep), "runs": set(first.runs("cell")["run_id"])}
    arguments = ("--profile", "tiny.toml", "--json")
    return Run(folder=first.folder, done=cnnbench("run", *arguments, cwd=first.folder)), before


def test_a_sweep_ends_with_status_0_a_table_and_the_paths(first: Run) -> None:
    assert first.done.returncode == 0, first.done.stderr
    lines = first.done.stdout.splitlines()
    assert any(line.startswith("simple_cnn(width=4)") for line in lines)
    assert "2 cells: 2 completed" in lines
    paths = dict(line.split(maxsplit=1) for line in lines[-3:])
    assert (first.folder / paths["report"]).samefile(first.sweep / "report" / "index.html")
    assert (first.folder / paths["records"].split(",")[0]).samefile(first.sweep / "journal.jsonl")
    assert paths["MLflow"] == "make ui"


def test_progress_goes_to_stderr_in_plain_lines(first: Run) -> None:
    lines = first.done.stderr.splitlines()
    assert "\x1b" not in first.done.stderr
    assert f"{first.sweep.name}: 2 cells" in lines
    shown = [line for line in lines if line.startswith("[")]
    assert [line.split("  ")[0] for line in shown] == [
        "[1/2] simple_cnn(width=4)-fp32-b32-none",
        "[2/2] simple_cnn(width=4)-fp32-b64-none",
    ]
    assert "Traceback" not in first.done.stderr


def test_a_sweep_writes_every_file_of_the_contract(first: Run) -> None:
    assert {path.name for path in first.sweep.iterdir()} == {
        *("journal.jsonl", "environment.json", "cells.csv", "cells.parquet", "report")
    }
    assert (first.sweep / "report" / "index.html").stat().st_size > 1000
    assert list(first.sweep.glob("report/*.png"))
    assert [row["status"] for row in first.rows] == ["completed", "completed"]
    assert tuple(first.rows[0]) == COLUMNS
    environment = json.loads((first.sweep / "environment.json").read_text())
    assert environment["device_type"] in {"cpu", "cuda"}
    assert environment["command"] == "cnnbench run --profile tiny.toml"
    assert environment["dataset"]["name"] == "digits"
    assert str(first.folder) not in (first.sweep / "environment.json").read_text()


def test_mlflow_finds_one_run_a_cell_equal_to_the_table_number_for_number(first: Run) -> None:
    found = {run["tags.cell_hash"]: run for _, run in first.runs("cell").iterrows()}
    assert len(found) == len(first.runs("cell")) == len(first.rows) == 2
    for row in first.rows:
        run = found[row["cell_hash"]]
        for name in PARAM_COLUMNS:
            assert same(run[f"params.{name}"], row[name]), name
        for name in METRIC_COLUMNS:
            metric = run.get(f"metrics.{name}", math.nan)
            assert math.isnan(metric) if not row[name] else metric == float(row[name]), name
        for name in ("sweep_id", "status", "validity", "device"):
            assert run[f"tags.{name}"] == row[name]
        assert run["metrics.train/loss"] > 0
    assert len(first.runs("sweep")) == 1


def same(param: str, text: str) -> bool:
    """Compare two texts, as numbers if they are some."""
    try:
        return float(param) == float(text)
    except ValueError:
        return param == text


def test_a_second_call_runs_no_cell_and_adds_no_run(
    first: Run, again: tuple[Run, dict[str, Any]]
) -> None:
    second, before = again
    assert second.done.returncode == 0, second.done.stderr
    after = listing(first.sweep)
    for path in before["files"]:
        name = Path(path).name
        if name in {"journal.jsonl", "index.html"}:
            assert after[path] == before["files"][path], name
    assert set(first.runs("cell")["run_id"]) == before["runs"]
    assert len(first.runs("sweep")) == 1
    assert len(first.runs("superseded")) == 0


def test_json_is_all_there_is_on_stdout(first: Run, again: tuple[Run, dict[str, Any]]) -> None:
    rows = json.loads(again[0].done.stdout)
    assert [tuple(row) for row in rows] == [COLUMNS, COLUMNS]
    assert [row["cell_hash"] for row in rows] == [row["cell_hash"] for row in first.rows]
    assert rows[0]["images_per_second"] == float(first.rows[0]["images_per_second"])
    assert rows[0]["patience"] is None
    assert again[0].done.stderr == ""


def test_a_dry_run_prints_grid_and_cost_and_writes_nothing(
    first: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    before = listing(first.folder)
    assert run_here("run", "--profile", "tiny.toml", "--dry-run", folder=first.folder) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[:2] == [
        "simple_cnn(width=4)-fp32-b32-none",
        "simple_cnn(width=4)-fp32-b64-none",
    ]
    assert "2 cells: at most" in out
    assert "Past cells of the same architectures suggest" in out
    arguments = ("--profile", "quick", "--seed", "0,1", "--seed", "2", "--dry-run", "--json")
    assert run_here("run", *arguments, folder=first.folder) == 0
    cells = json.loads(capfd.readouterr().out)
    assert {cell["seed"] for cell in cells} == {0, 1, 2}
    assert len(cells) == 3 * len(api.plan("quick"))
    assert err == ""
    assert listing(first.folder) == before


def test_the_report_can_be_written_anew(first: Run, capfd: pytest.CaptureFixture[str]) -> None:
    page = first.sweep / "report" / "index.html"
    page.unlink()
    assert run_here("report", folder=first.folder) == 0
    assert (first.folder / capfd.readouterr().out.strip()).samefile(page)
    assert page.stat().st_size > 1000
    journal = (first.sweep / "journal.jsonl").read_bytes()
    assert run_here("report", str(first.sweep), folder=first.folder) == 0
    assert (first.sweep / "journal.jsonl").read_bytes() == journal


@pytest.mark.usefixtures("one_thread")
def test_fresh_measures_every_cell_anew_and_leaves_one_run_a_cell(first: Run) -> None:
    # Last of those that share the sweep, for it changes it.
    before = set(first.runs("cell")["run_id"])
    arguments = ("--profile", "tiny.toml", "--isolation", "inline", "--fresh")
    assert run_here("run", *arguments, folder=first.folder) == 0
    assert len((first.sweep / "journal.jsonl").read_bytes().splitlines()) == 4
    assert len(first.rows) == 2
    after = set(first.runs("cell")["run_id"])
    assert len(after) == 2
    assert not after & before
    assert set(first.runs("superseded")["run_id"]) == before
    assert set(first.runs("superseded")["status"]) == {"KILLED"}


@pytest.mark.usefixtures("one_thread")
def test_extras_are_left_beside_the_records_and_in_mlflow_and_only_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    sweep = ("run", "--profile", "tiny.toml", "--batch-size", "32", "--isolation", "inline")
    names = {"trace.json.gz", "operators.csv", "layers.csv"}
    said = []
    for extras in ((), ("--trace", "--layers"), ("--trace", "--layers")):
        assert run_here(*sweep, *extras, folder=tmp_path) == 0
        said.append(capfd.readouterr().err)
    # A trace can be taken of a running cell only, so the cell ran again, and then no more.
    assert "[1/1]" in said[1]
    assert "all of 1 cell has its result already" in said[2]
    asked = Run(folder=tmp_path, done=subprocess.CompletedProcess(sweep, 0))
    (folder,) = (asked.sweep / "artifacts").iterdir()
    assert folder.name == asked.rows[0]["cell_hash"]
    assert {path.name for path in folder.iterdir()} == names
    runs = asked.runs("cell")
    assert len(runs) == 1
    location = Path(urlparse(runs["artifact_uri"][0]).path)
    assert names < {path.name for path in location.iterdir()}
