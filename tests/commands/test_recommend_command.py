"""`cnnbench recommend` answers with a setting, refuses in one line, and writes nothing."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING

import pytest

from command import listing, run_here
from sample_journal import leave_sweep
from sample_sweep import sweep

if TYPE_CHECKING:
    from pathlib import Path

ASKED = ("recommend", "--architecture", "simple_cnn")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    leave_sweep(folder / "results" / "local" / "quick-1", sweep(batch_sizes=(64, 128)))
    return folder


def test_the_latest_sweep_is_asked_where_none_is_named(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = listing(home)
    assert run_here(*ASKED, folder=home) == 0
    out = capfd.readouterr().out
    assert "bf16, batch 128" in out
    assert "def step(images, labels):" in out
    assert run_here(*ASKED, "results/local/quick-1", folder=home) == 0
    assert capfd.readouterr().out == out
    assert listing(home) == before


def test_json_and_snippet_are_all_there_is_on_stdout(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*ASKED, "--json", "--memory-budget", "1GiB", folder=home) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["memory_budget_mib"] == 1024
    assert run_here(*ASKED, "--snippet", folder=home) == 0
    code = capfd.readouterr().out
    ast.parse(code)
    assert code == answer["snippet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--architecture", "lenet"], "'lenet' was not measured"),
        (["--architecture", "simple_cnn", "--memory-budget", "12 bananas"], "12 bananas"),
        (["--architecture", "simple_cnn", "--memory-budget", "1KiB"], "the least needs"),
        (["--architecture", "simple_cnn", "--objective", "energy"], "no joules_per_image"),
        (["--architecture", "simple_cnn", "nowhere"], "there is no sweep in nowhere"),
        (["--architecture", "simple_cnn", "sqlite:///nowhere.db"], "nowhere.db"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(
    home: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = listing(home)
    assert run_here("recommend", *arguments, folder=home) == 2
    out, err = capfd.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert said in line
    assert listing(home) == before
