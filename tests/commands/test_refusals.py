"""Everything that `cnnbench run` refuses: one line, status 2, nothing written."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cnnbench.cli import main
from cnnbench.errors import CnnbenchError
from cnnbench.tracking import open_store
from command import as_a_process, listing, refusal, run_here

if TYPE_CHECKING:
    from pathlib import Path


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


def test_debug_shows_where_an_error_comes_from(place: Path) -> None:
    with as_a_process(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cnnbench", "--debug", "run", "--precision", "fp23"])
        with pytest.raises(CnnbenchError, match="fp23"):
            main()
