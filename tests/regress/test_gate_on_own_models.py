"""The gate in a user's repository: its own models, in two states, from end to end."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from command import start
from repositories import git

BEFORE = """
import time
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, num_classes))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.layers(images)

def kept(num_classes):
    return Net(num_classes, width=8)

def grows(num_classes):
    return Net(num_classes, width=8)

def breaks(num_classes):
    return Net(num_classes, width=8)

def hangs(num_classes):
    return Net(num_classes, width=8)
"""
# A larger layer, a model that cannot be built, and one that waits for ever once it is warm.
EDITS = (
    ("def grows(num_classes):\n    return Net(num_classes, width=8)", "width=8", "width=100_000"),
    ("def breaks(num_classes):\n    return Net", "    return Net", "    return Nut"),
    (
        "        self.calls += 1",
        "+= 1",
        "+= 1\n        time.sleep(1e4 * (self.calls > 10 and self.hung))",
    ),
    ("def hangs(num_classes):\n    return Net", "return Net", "return Hung"),
    ("        self.calls = 0", "= 0", "= 0\n        self.hung = isinstance(self, Hung)"),
)
HUNG = """
class Hung(Net):
    pass
"""
NEW = "from mine.models import Net\n\ndef new(num_classes):\n    return Net(num_classes, width=4)\n"
SUITE = """
[recipe]
image_size = 8
weights = "none"
[timing]
window_seconds = 0.01
min_windows = 3
max_windows = 3
limit_seconds = 0.1
warmup_steps = 1
[[training]]
architecture = [
    "mine.models:kept", "mine.models:grows", "mine.models:breaks", "mine.models:hangs", "mine.later:new",
]
batch_size = 32
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the gate says of a commit of models and a harmful change since."""
    folder = tmp_path_factory.mktemp("own") / "models"
    (folder / "mine").mkdir(parents=True)
    models = folder / "mine" / "models.py"
    models.write_text(BEFORE)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "before")
    text = BEFORE
    for where, old, new in EDITS:
        assert text.count(where) == 1, where
        text = text.replace(where, where.replace(old, new))
    models.write_text(text + HUNG)
    (folder / "mine" / "later.py").write_text(NEW)
    (folder / "suite.toml").write_text(SUITE)
    command = ("regress", "--base", "HEAD", "--suite", "suite.toml", "--device", "cpu", "--json")
    python = folder.parent / "python"
    python.write_text(
        f"#!/bin/sh\necho \"$@\" >> '{folder.parent}/ran'\nexec '{sys.executable}' \"$@\"\n"
    )
    python.chmod(0o755)
    (folder / "requirements.lock").write_text("torch==99.0\n")
    limits = ("--budget", "40s", "--cell-timeout", "8", "--base-python", str(python))
    with start(*command, *limits, cwd=folder) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 1, err
    assert "cnnbench.sweep.server" in (folder.parent / "ran").read_text()
    said: dict[str, Any] = json.loads(out)
    return said


def findings(said: dict[str, Any], model: str) -> dict[str, tuple[str, str]]:
    name = f"training/mine.models:{model}-fp32-b32-none"
    found = [f for f in said["findings"] if f["test"] == name]
    return {finding["measure"]: (finding["verdict"], finding["reason"]) for finding in found}


def test_each_side_runs_its_own_models(judged: dict[str, Any]) -> None:
    assert judged["compared_with"].endswith("of models (--base HEAD)")
    assert (judged["base"]["is_dirty"], judged["candidate"]["is_dirty"]) == (False, True)
    assert findings(judged, "grows")["allocated memory"][0] == "regressed"
    assert findings(judged, "kept")["allocated memory"][0] == "same"


def test_a_model_that_can_no_longer_be_built_is_a_regression_of_its_own_test(
    judged: dict[str, Any],
) -> None:
    verdict, reason = findings(judged, "breaks")["status"]
    assert verdict == "regressed"
    assert "Nut" in reason


def test_a_model_that_hangs_is_ended_and_is_a_regression(judged: dict[str, Any]) -> None:
    assert findings(judged, "hangs") == {"status": ("regressed", "took longer than 8 s")}


def test_a_model_that_the_base_has_not_is_new(judged: dict[str, Any]) -> None:
    assert judged["new_tests"] == ["training/mine.later:new-fp32-b32-none"]


def test_versions_that_changed_and_were_not_measured_are_named(judged: dict[str, Any]) -> None:
    (note,) = judged["notes"]
    assert note.startswith("requirements.lock changed, and both sides ran on what is installed")
