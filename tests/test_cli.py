"""The command line as a user meets it: real runs, interruptions, and everything it refuses."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import click
import mlflow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnbench import api
from cnnbench.cli import main
from cnnbench.commands.options import CommaSeparated
from cnnbench.errors import CnnbenchError
from cnnbench.record import COLUMNS, METRIC_COLUMNS, PARAM_COLUMNS
from cnnbench.tracking import open_store
from command import TINY_PROFILE, as_a_process, cnnbench, listing, run_here, start
from processes import descendants, is_running, wait_for, wait_until_ended

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from cnnbench.record import Record

HEAVY = {"torch", "mlflow", "pandas", "numpy", "sqlalchemy", "altair", "scipy"}


# A whole sweep, run and run again.


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished call of the command line, and its folder."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def sweep(self) -> Path:
        """Return the folder of the only sweep."""
        (journal,) = self.folder.glob("results/local/*/journal.jsonl")
        return journal.parent

    @property
    def rows(self) -> list[dict[str, str]]:
        """Return `cells.csv`, as text."""
        with (self.sweep / "cells.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def runs(self, kind: str) -> pd.DataFrame:
        """Return what a user's own `mlflow.search_runs` finds in the store."""
        found: pd.DataFrame
        with pytest.MonkeyPatch.context() as patch:
            store = self.folder / "results" / "local" / "mlflow.db"
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
            found = mlflow.search_runs(
                experiment_names=["cnnbench/tiny"], filter_string=f"tags.kind = '{kind}'"
            )
        return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.toml").write_text(TINY_PROFILE)
    return Run(folder=folder, done=cnnbench("run", "--profile", "tiny.toml", cwd=folder))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Give this process as many threads as the others: their number is part of the environment."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


# A user's own model that breaks in the middle.

OWN_MODELS = """
from pathlib import Path
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def flaky(num_classes):
    # The preflight builds it first; the cell is the second to do so.
    with Path("builds").open("a+") as file:
        file.write("x")
        if file.tell() == 2:
            raise RuntimeError("out of bricks")
    return net(num_classes)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("own")
    (folder / "tiny.toml").write_text(TINY_PROFILE)
    (folder / "my_own_models.py").write_text(OWN_MODELS)
    return Run(folder=folder, done=cnnbench(*OWN_RUN, cwd=folder))


OWN_RUN = (
    *("run", "--profile", "tiny.toml", "--architecture", "my_own_models:net,my_own_models:flaky"),
    *("--batch-size", "32", "--epochs", "0", "--tracking-uri", "none"),
)


def records(folder: Path) -> list[Record]:
    return list(api.load(folder))


def test_a_model_that_breaks_in_the_middle_is_one_failed_cell_and_status_1(own: Run) -> None:
    assert own.done.returncode == 1
    assert "Traceback" not in own.done.stderr + own.done.stdout
    net, flaky = records(own.sweep)
    assert (net.status, net.error) == ("completed", None)
    assert flaky.status == "failed"
    assert flaky.error == "cannot build 'my_own_models:flaky': RuntimeError: out of bricks"
    assert "out of bricks" in own.done.stdout


def test_tracking_uri_none_makes_no_store(own: Run) -> None:
    assert own.done.returncode == 1
    assert sorted(path.name for path in (own.folder / "results" / "local").iterdir()) == sorted(
        ["prepared", own.sweep.name]
    )
    assert "MLflow" not in own.done.stdout


@pytest.mark.usefixtures("one_thread")
def test_only_what_failed_runs_again_and_an_edited_model_is_measured_anew(own: Run) -> None:
    net, flaky = records(own.sweep)
    inline = (*OWN_RUN, "--isolation", "inline")
    assert run_here(*inline, folder=own.folder) == 1  # without being asked to, nothing runs again
    assert records(own.sweep) == [net, flaky]
    assert run_here(*inline, "--retry-failed", folder=own.folder) == 0
    assert [record.status for record in records(own.sweep)] == ["completed", "completed"]
    assert records(own.sweep)[0] == net
    sweep = own.sweep
    with (own.folder / "my_own_models.py").open("a") as file:
        file.write("# edited\n")
    assert run_here(*inline, folder=own.folder) == 0
    (new,) = {path.parent for path in own.folder.glob("results/local/*/journal.jsonl")} - {sweep}
    fresh = records(new)
    assert [record.cell_hash for record in fresh] == [net.cell_hash, flaky.cell_hash]
    assert {record.environment_hash for record in fresh}.isdisjoint({net.environment_hash})


# Interruptions.

HANGING_MODELS = """
import json, os, subprocess, time
from pathlib import Path
from torch import nn

def net(num_classes, hangs=False):
    if hangs and Path("builds").exists() and Path("hang").exists():
        child = subprocess.Popen(["sleep", "1000"])
        Path("pids.part").write_text(json.dumps([os.getpid(), os.getppid(), child.pid]))
        Path("pids.part").rename("pids.json")
        time.sleep(1000)
    if hangs:
        Path("builds").touch()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""
HANGING_RUN = (
    *("run", "--profile", "tiny.toml", "--batch-size", "32", "--epochs", "0"),
    *("--architecture", "hanging_models:net,hanging_models:net(hangs=True)"),
)


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep whose second cell hangs for as long as there is a file `hang`."""
    folder = tmp_path_factory.mktemp("hanging")
    (folder / "tiny.toml").write_text(TINY_PROFILE)
    (folder / "hanging_models.py").write_text(HANGING_MODELS)
    (folder / "hang").touch()
    return folder


def interrupt_in_second_cell(folder: Path, number: signal.Signals) -> tuple[int, str, str]:
    """Send `number` to a run in its second cell; return its status, stdout and stderr."""
    (folder / "pids.json").unlink(missing_ok=True)
    (folder / "builds").unlink(missing_ok=True)
    with start(*HANGING_RUN, "--tracking-uri", "none", cwd=folder) as process:
        wait_for((folder / "pids.json").exists, said="the second cell")
        worker, server, child = json.loads((folder / "pids.json").read_text())
        started = descendants(process.pid)
        assert {worker, server, child} <= started
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        wait_until_ended(started)  # nobody is left to do it: they find out by themselves
    assert not any(map(is_running, started))
    return process.returncode, out, err


def hanging_sweep(folder: Path) -> Path:
    (journal,) = folder.glob("results/local/*/journal.jsonl")
    return journal.parent


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_every_process_and_keeps_what_is_finished(
    hanging: Path, number: signal.Signals, status: int
) -> None:
    returncode, out, err = interrupt_in_second_cell(hanging, number)
    assert returncode == status
    assert out == ""
    assert "Traceback" not in err
    command = f"cnnbench {' '.join(HANGING_RUN[:-1])} '{HANGING_RUN[-1]}' --tracking-uri none"
    assert err.splitlines()[-1].strip() == command
    (kept,) = records(hanging_sweep(hanging))
    assert (kept.cell.architecture, kept.status) == ("hanging_models:net", "completed")
    assert len((hanging_sweep(hanging) / "cells.csv").read_text().splitlines()) == 2


def test_a_killed_run_leaves_no_process_and_is_gone_on_with(hanging: Path) -> None:
    # After the interruptions: three times the second cell did not end, and the first ran once.
    returncode, _, _ = interrupt_in_second_cell(hanging, signal.SIGKILL)
    assert returncode == -signal.SIGKILL
    (kept,) = records(hanging_sweep(hanging))
    with (hanging_sweep(hanging) / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"sweep_id":"torn')
    (hanging / "hang").unlink()
    done = cnnbench(*HANGING_RUN, cwd=hanging)
    assert done.returncode == 0, done.stderr
    assert f"{kept.sweep_id}: 2 cells, 1 with a result already" in done.stderr
    assert "note: logged 1 cells that MLflow had not got" in done.stderr
    first, second = records(hanging_sweep(hanging))
    assert first == kept
    assert second.status == "completed"
    store = open_store(None, hanging / "results" / "local", create=False)
    ids = [experiment.experiment_id for experiment in store.client.search_experiments()]
    assert len(store.client.search_runs(ids, "tags.kind = 'cell'")) == 2
    store.close()


# What is refused.

STATIC_REFUSALS = [
    (
        ["--architecture", "resnt"],
        "unknown architecture 'resnt'. Did you mean 'resnet'? There are:",
    ),
    (["--architecture", "resnet(width"], "cannot read 'resnet(width'"),
    (["--architecture", "resnet(16)"], "cannot read 'resnet(16)'"),
    (
        ["--precision", "fp23"],
        "unknown precision 'fp23'. Did you mean 'fp32'? There are: fp32, tf32",
    ),
    (["--precision", "fp32,f16"], "unknown precision 'f16'. Did you mean 'fp16'?"),
    (["--checkpointing", "blocks"], "unknown checkpointing 'blocks'. Did you mean 'block'?"),
    (["--memory-format", "nhwc"], "unknown memory_format 'nhwc'."),
    (["--compile", "maximal"], "unknown compile 'maximal'."),
    (["--loader", "disk"], "unknown loader 'disk'."),
    (["--profile", "quik"], "unknown profile 'quik'. Did you mean 'quick'? There are: full, gpu"),
    (["--dataset", "digit"], "unknown dataset 'digit'. Did you mean 'digits'? There are: digits"),
    (["--dataset", "folder:"], "needs a path"),
    (["--optimizer", "adm"], "unknown optimizer 'adm'. Did you mean 'adam'?"),
    (["--schedule", "cosin"], "unknown schedule 'cosin'. Did you mean 'cosine'?"),
    (["--augmentation", "flop"], "unknown augmentation 'flop'."),
    (["--batch-size", "0"], "batch_size = 0 is impossible: it must be a number >= 1."),
    (["--batch-size", "-1"], "batch_size = -1 is impossible"),
    (["--batch-size", "64,0"], "batch_size = 0 is impossible"),
    (["--batch-size", "9" * 400], "is impossible"),
    (["--epochs", "-1"], "epochs = -1 is impossible"),
    (["--seed", "-1"], "seed = -1 is impossible"),
    (["--seed", str(2**32)], "seed = 4294967296 is impossible"),
    (["--learning-rate", "nan"], "learning_rate = nan is impossible"),
    (["--learning-rate", "inf"], "learning_rate = inf is impossible"),
    (["--learning-rate", "0"], "learning_rate = 0.0 is impossible: it must be a number > 0."),
    (["--dropout", "1"], "dropout = 1.0 is impossible"),
    (["--train-subset", "0"], "train_subset = 0 is impossible"),
    (["--target-accuracy", "97"], "target_accuracy = 97.0 is impossible"),
    (["--precision", ""], "the axis 'precision' has no values: the grid is empty."),
    (["--batch-size", ",", "--seed", ""], "has no values: the grid is empty."),
    (["--results-dir", "a_file"], "a_file is a file: choose another --results-dir."),
    (["--results-dir", "a_file/below"], "a_file is a file: choose another --results-dir."),
    (["--results-dir", "~nobody-here/x"], "there is no folder '~nobody-here/x'"),
    (["--data-dir", "~nobody-here/x"], "there is no folder '~nobody-here/x'"),
    (["--profile", "missing.toml"], "cannot read the profile missing.toml: No such file"),
    (["--profile", "folder.toml"], "cannot read the profile folder.toml: Is a directory"),
    (["--profile", "binary.toml"], "cannot read the profile binary.toml: it is not UTF-8 text"),
    (["--profile", "no.toml"], "no.toml is no TOML:"),
    (["--profile", "keys.toml"], "keys.toml, line 2: unknown key in [recipe] 'epoch'."),
    (["--profile", "types.toml"], "types.toml: epochs = 'three' is impossible"),
    (["--profile", "empty.toml"], "empty.toml has no [[grid]]: there is nothing to run."),
]
USAGE_ERRORS = [
    (["run", "--batch-size", "abc"], "'abc': expected whole numbers, separated by commas."),
    (["run", "--batch-size", "1.5"], "'1.5': expected whole numbers, separated by commas."),
    (["run", "--epochs", "two"], "'two' is not a valid integer."),
    (["run", "--learning-rate", "fast"], "'fast' is not a valid float."),
    (["run", "--isolation", "docker"], "'docker' is not one of 'forkserver', 'spawn', 'inline'."),
    (["run", "--launcher", "ray"], "'ray' is not 'local'."),
    (["run", "--cell-timeout", "0"], "0.0 is not in the range x>0."),
    (["run", "--presicion", "fp32"], "No such option"),
    (["run", "quick"], "Got unexpected extra argument"),
    (["rn"], "No such command 'rn'."),
    (["list", "models"], "'models' is not one of 'architectures'"),
    (["ui", "--port", "0"], "0 is not in the range 1<=x<=65535."),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file, and with profiles that are wrong."""
    (tmp_path / "a_file").write_text("")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\x89PNG\xff")
    (tmp_path / "no.toml").write_text("not toml")
    (tmp_path / "keys.toml").write_text("[recipe]\nepoch = 3\n[[grid]]\narchitecture = 'resnet'")
    types = "[recipe]\nepochs = 'three'\n[[grid]]\narchitecture = 'resnet'"
    (tmp_path / "types.toml").write_text(types)
    (tmp_path / "empty.toml").write_text("description = 'nothing'")
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    return tmp_path


def refusal(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """Return the one line with which a run is refused; nothing may be written."""
    before = listing(folder)
    assert run_here(*arguments, folder=folder) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    *progress, last = err.splitlines()
    assert last.startswith("cnnbench: ")
    assert all(line.endswith(" ...") for line in progress)
    assert listing(folder) == before
    return last


@pytest.mark.parametrize(("arguments", "message"), STATIC_REFUSALS)
def test_a_wrong_argument_is_refused_in_one_line_before_any_process_starts(
    place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if "--profile" not in arguments:
        arguments = ["--profile", "tiny.toml", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", None)
        assert message in refusal(capfd, place, "run", *arguments)


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS)
def test_what_the_command_line_does_not_know_is_a_usage_error(
    place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = listing(place)
    assert run_here(*arguments, folder=place) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Usage: ")
    assert message in err.splitlines()[-1]
    assert listing(place) == before


@pytest.mark.parametrize("arguments", [["report"], ["report", "a_file"], ["report", "nowhere"]])
def test_a_report_of_nothing_is_refused(
    place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    refusal(capfd, place, *arguments)


BAD_MODELS = """
from torch import nn

def raises(num_classes):
    raise KeyError("no such layer")

def exits(num_classes):
    raise SystemExit("leaving")

def nothing(num_classes):
    pass

def text(num_classes):
    return "a model"

def too_few(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes - 1))

number = 5
"""
FASHION_FILES = (
    *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
)
# What only a worker finds: it needs torch, the data, the models or the weights.
DYNAMIC_REFUSALS = [
    (["--architecture", "bad_models:raises"], "'bad_models:raises': KeyError: 'no such layer'"),
    (["--architecture", "bad_models:exits"], "'bad_models:exits': SystemExit: leaving"),
    (["--architecture", "bad_models:nothing"], "it returned None, not a torch.nn.Module."),
    (["--architecture", "bad_models:text"], "it returned a str, not a torch.nn.Module."),
    (["--architecture", "bad_models:number"], "it is a int, not a function or class."),
    (["--architecture", "bad_models:too_few"], "is no classifier of 10 classes"),
    (["--architecture", "bad_models:missing"], "has no attribute 'missing'"),
    (["--architecture", "no_such_module:net"], "No module named 'no_such_module'"),
    (["--architecture", "broken_models:net"], "cannot import 'broken_models:net': SyntaxError"),
    (["--architecture", "resnet(wdth=16)"], "Did you mean 'width'?"),
    (["--architecture", "resnet(width=0)"], "width"),
    (["--architecture", "torchvision:resnet51"], "torchvision has no classifier 'resnet51'."),
    (["--architecture", "transfer_resnet50", "--weights", "imagenet"], "pass --download to fetch"),
    (["--weights", "imagenet"], "are there for transfer_resnet50 and"),
    (["--weights", "missing.pt"], "there is no weights file 'missing.pt'"),
    (["--weights", "list.pt"], "hold no state_dict, but a list."),
    (["--weights", "noise.pt"], "noise.pt: damaged, or more than tensors"),
    (["--weights", "other.pt"], "other.pt do not fit"),
    (["--dataset", "fashion_mnist", "--data-dir", "fashion"], "ubyte.gz is corrupt ("),
    (["--dataset", "cifar10", "--data-dir", "fashion"], "cifar10 was not found"),
    (["--dataset", "folder:images"], "images"),
    (["--batch-size", "2048", "--train-subset", "1000"], "more than the 1000 training images"),
    (["--train-subset", "5000"], "train_subset = 5000, but digits has 1257 training images."),
    (["--num-classes", "11"], "num_classes = 11, but digits has 10."),
    (["--augmentation", "flip+crop"], "'flip+crop' does not suit digits. There are: none, crop."),
    (["--image-size", "1"], "image_size = 1 is impossible"),
    (["--device", "tpu"], "unknown device 'tpu'. There are: auto, cpu, cuda, cuda:N."),
    (["--device", "cuda:99"], "device cuda:99: "),
    (["--results-dir", "/proc/none"], "/proc/none"),
    (["--tracking-uri", "http://127.0.0.1:9"], "cannot use the MLflow store http://127.0.0.1:9"),
    (["--tracking-uri", "ftp://somewhere"], "cannot use the MLflow store ftp://somewhere"),
    (
        ["--tracking-uri", "sqlite:////proc/none/x.db"],
        "cannot use the MLflow store sqlite:////proc",
    ),
    (["--tracking-uri", "sqlite:///a_file/x.db"], "cannot use the MLflow store sqlite:///"),
]


@pytest.fixture
def bad_place(place: Path) -> Path:
    """A folder in which models, weights and data are wrong, too."""
    (place / "bad_models.py").write_text(BAD_MODELS)
    (place / "broken_models.py").write_text("def net(:\n")
    torch.save([1, 2], place / "list.pt")
    (place / "noise.pt").write_bytes(bytes(range(256)))
    torch.save({"conv1.weight": torch.zeros(1)}, place / "other.pt")
    raw = place / "fashion" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FASHION_FILES:
        (raw / name).write_bytes(gzip.compress(b"no images"))
    for name in ("cat", "dog"):
        (place / "images" / name).mkdir(parents=True)
        for number in range(4):
            (place / "images" / name / f"{number}.png").write_bytes(b"no image")
    return place


@pytest.mark.parametrize(("arguments", "message"), DYNAMIC_REFUSALS)
def test_what_a_worker_finds_wrong_is_refused_in_one_line_and_nothing_is_written(
    bad_place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    usual = ("run", "--profile", "tiny.toml", "--isolation", "inline")
    assert message in refusal(capfd, bad_place, *usual, *arguments)


@pytest.fixture(scope="module")
def sound_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    open_store(None, folder).close()
    return folder / "mlflow.db"


@pytest.mark.parametrize("kind", ["older", "newer", "corrupt", "not mlflow's", "a folder"])
def test_a_store_that_cannot_be_used_is_refused_before_anything_is_written(
    place: Path, capfd: pytest.CaptureFixture[str], sound_store: Path, kind: str
) -> None:
    store = place / "results" / "local" / "mlflow.db"
    store.parent.mkdir(parents=True)
    if kind == "corrupt":
        store.write_bytes(bytes(range(256)) * 64)
    elif kind == "a folder":
        store.mkdir()
    else:
        if kind != "not mlflow's":
            shutil.copy(sound_store, store)
        statement = {
            "older": "UPDATE alembic_version SET version_num = '451aebb31d03'",
            "newer": "UPDATE alembic_version SET version_num = 'fffffffffff0'",
            "not mlflow's": "CREATE TABLE recipes (name TEXT)",
        }[kind]
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute(statement)
    usual = ("run", "--profile", "tiny.toml", "--isolation", "inline")
    said = refusal(capfd, place, *usual)
    assert str(store) in said
    if kind in {"older", "newer"}:
        assert "another version of MLflow wrote the store" in said


def test_a_refusal_of_a_worker_process_reaches_the_user_as_one_line(bad_place: Path) -> None:
    before = listing(bad_place)
    arguments = ("--profile", "tiny.toml", "--architecture", "bad_models:raises")
    done = cnnbench("run", *arguments, cwd=bad_place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "cnnbench: cannot build 'bad_models:raises': KeyError: 'no such layer'"
    )
    assert listing(bad_place) == before


def test_debug_shows_where_an_error_comes_from(place: Path) -> None:
    with as_a_process(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cnnbench", "--debug", "run", "--precision", "fp23"])
        with pytest.raises(CnnbenchError, match="fp23"):
            main()


# The rest.


def test_import_and_help_and_refusals_import_nothing_heavy(tmp_path: Path) -> None:
    for arguments, status in (
        (["-c", "import cnnbench; cnnbench.__version__"], 0),
        (["-m", "cnnbench", "--help"], 0),
        (["-m", "cnnbench", "run", "--help"], 0),
        (["-m", "cnnbench", "list"], 0),
        (["-m", "cnnbench", "run", "--architecture", "resnt"], 2),
        (["-m", "cnnbench", "run", "--profile", "quick", "--dry-run"], 0),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == status
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "cnnbench" in imported
        assert not {name.partition(".")[0] for name in imported} & HEAVY, arguments


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


def test_the_doctor_tells_what_it_found_as_text_and_as_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here("doctor", "--json", folder=tmp_path) == 0
    found = json.loads(capfd.readouterr().out)
    assert {"device", "load", "data", "tracking", "noise"} <= {one["subject"] for one in found}
    assert listing(tmp_path) == {}, "the doctor looks and writes nothing"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert run_here("doctor", folder=tmp_path) == 1
    lines = capfd.readouterr().out.splitlines()
    (problem,) = [n for n, line in enumerate(lines) if line.startswith("PROBLEM")]
    assert "NVIDIA_TF32_OVERRIDE=1" in lines[problem]
    assert lines[problem + 1].split() == [
        "->",
        *["unset", "NVIDIA_TF32_OVERRIDE", "and", "run", "again"],
    ]


@pytest.mark.parametrize("kind", ["architectures", "precisions", "profiles", "datasets", "studies"])
def test_list_prints_names_and_descriptions_as_text_and_as_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    assert run_here("list", kind, "--json", folder=tmp_path) == 0
    ((shown, entries),) = json.loads(capfd.readouterr().out).items()
    assert shown == kind
    assert run_here("list", kind, folder=tmp_path) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == kind
    assert [tuple(line.split(maxsplit=1)) for line in lines[1:]] == list(entries.items())


def test_every_command_and_option_has_a_help_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ([], ["run"], ["report"], ["doctor"], ["list"], ["study"], ["ui"]):
        assert run_here(*command, "--help", folder=tmp_path) == 0
        assert capfd.readouterr().out.startswith("Usage: ")
    assert run_here("--version", folder=tmp_path) == 0
    assert "0.1.0" in capfd.readouterr().out


def test_commas_in_brackets_separate_nothing() -> None:
    values = CommaSeparated().convert(
        "resnet(width=16,depth=2), simple_cnn,,a:b((1,2),3)", None, None
    )
    assert values == ["resnet(width=16,depth=2)", "simple_cnn", "a:b((1,2),3)"]
    assert CommaSeparated(int).convert("64, 128,", None, None) == [64, 128]
    assert CommaSeparated().convert("", None, None) == []


@given(text=st.text())
def test_no_text_makes_a_list_of_values_raise_anything_but_a_usage_error(text: str) -> None:
    values = CommaSeparated().convert(text, None, None)
    assert all(value == value.strip() and value for value in values)
    if "(" not in text:
        assert values == [part.strip() for part in text.split(",") if part.strip()]
    try:
        numbers = CommaSeparated(int).convert(text, None, None)
    except click.ClickException as error:
        assert error.exit_code == 2  # noqa: PT017  # most texts raise, some do not
    else:
        assert len(numbers) == len(values)


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cnnbench list | true"
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
