"""The gate from end to end: real workers of two states of the code, and of one against a baseline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import cnnbench
from cnnbench.regress.arms import side
from cnnbench.regress.baseline import baseline_path, latest_path
from cnnbench.regress.gate import Clock, Limits, measure_by_turns
from cnnbench.regress.history import read_history
from cnnbench.regress.machine import this_machine
from cnnbench.regress.results import read_results, write_results
from cnnbench.regress.revision import WORKLOADS, checkout, find_revision, state
from cnnbench.regress.suite import load_suite
from command import environment, run_here
from processes import descendants
from repositories import git

TIMED = "training/simple_cnn(width=4)-fp32-b32-none"
TRAINED = "accuracy/simple_cnn(width=8)-fp32-b64-none"

SUITE = """
[recipe]
image_size = 16
weights = "none"
[timing]
window_seconds = 0.01
min_windows = 3
max_windows = 3
limit_seconds = 0.1
warmup_steps = 1
[[training]]
architecture = "simple_cnn(width=4)"
batch_size = 32
"""
ACCURACY = """
[[accuracy]]
architecture = "simple_cnn(width=8)"
batch_size = 64
recipe = { epochs = 5 }
"""
VANISHED = """
[[inference]]
architecture = "simple_cnn(width=4)"
"""

# What the change does: computes fp32 in bf16, divides pixels by 255 twice, and drops a test.
EDITS = (
    (
        "cnnbench/precision.py",
        "            return nullcontext()\n",
        "            return torch.autocast(device.type, dtype=torch.bfloat16)\n",
    ),
    ("cnnbench/data/device_loader.py", "1 / (_MAX_GREY * std)", "1 / (_MAX_GREY**2 * std)"),
    ("suite.toml", VANISHED, ""),
)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of this very package, with a commit and a harmful change since."""
    repository = tmp_path_factory.mktemp("changed") / "repository"
    package = Path(cnnbench.__file__).parent
    shutil.copytree(package, repository / "cnnbench", ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "suite.toml").write_text(SUITE + ACCURACY + VANISHED)
    git(repository, "init", "-q", "-b", "main")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "before")
    for name, old, new in EDITS:
        text = (repository / name).read_text()
        assert text.count(old) == 1, name
        (repository / name).write_text(text.replace(old, new))
    return repository


@pytest.fixture(scope="module")
def judged(changed: Path) -> dict[str, Any]:
    """Return what the gate says of the change, having written everything it can."""
    command = ["regress", "--base", "HEAD", "--suite", "suite.toml", "--device", "cpu", "--json"]
    command += ["--markdown", "said.md", "--junit", "said.xml", "--budget", "10m"]
    done = subprocess.run(
        [sys.executable, "-m", "cnnbench", *command],
        cwd=changed,
        env={**environment(changed), "PYTHONPATH": str(changed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def verdicts(said: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(f["test"], f["measure"]): f["verdict"] for f in said["findings"]}


def test_each_harm_of_a_change_is_found_by_its_own_verdict(judged: dict[str, Any]) -> None:
    found = verdicts(judged)
    assert judged["verdict"] == "regressed"
    assert found[TIMED, "precision"] == "regressed"
    assert found[TRAINED, "accuracy"] == "regressed"
    assert found["inference/simple_cnn(width=4)-fp32-b64-none", "presence"] == "regressed"
    assert found[TIMED, "allocated memory"] == "same"
    precision = next(f for f in judged["findings"] if f["measure"] == "precision")
    assert (precision["base"], precision["candidate"]) == ("fp32", "bf16")


def test_both_sides_are_named_and_the_change_is_not_a_commit(judged: dict[str, Any]) -> None:
    assert judged["base"]["commit"] == judged["candidate"]["commit"]
    assert (judged["base"]["is_dirty"], judged["candidate"]["is_dirty"]) == (False, True)
    assert judged["compared_with"].endswith("(--base HEAD)")


def test_what_was_found_and_measured_is_written(changed: Path, judged: dict[str, Any]) -> None:
    del judged
    results_dir = changed / "results" / "local"
    assert (changed / "said.md").read_text().startswith("## Regression")
    assert "<failure" in (changed / "said.xml").read_text()
    assert (results_dir / "regress" / "report.md").exists()
    latest = read_results(latest_path(results_dir))
    assert latest.tests[TIMED].runs[0].effective_precision == "bf16"
    assert latest.environment["device"] == latest.machine.device
    assert latest.verdict == "regressed"
    assert len({run.seed for run in latest.tests[TRAINED].runs}) >= 5
    points = read_history(results_dir, latest.machine)
    assert [point.test for point in points] == [TIMED, TRAINED]
    assert points[0].images_per_second


ALONE = ("--suite", "suite.toml", "--device", "cpu", "--budget", "1s", "--json")


def test_what_looks_slower_is_measured_by_turns_with_the_baselines_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout()
    commit, _ = state(root)
    if root is None or commit is None or not find_revision(root, commit).has(WORKLOADS):
        pytest.skip("these tests do not run from a git checkout")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "suite.toml").write_text(SUITE)
    assert run_here("regress", *ALONE, "--no-compare", folder=tmp_path) == 0
    assert run_here("accept", "--device", "cpu", folder=tmp_path) == 0
    path = baseline_path(tmp_path / "results" / "local", this_machine("cpu"))
    kept = read_results(path)
    # A baseline as of a much faster day.
    runs = tuple(
        replace(run, windows=tuple(replace(w, seconds=w.seconds / 10) for w in run.windows))
        for run in kept.tests[TIMED].runs
    )
    fast = {TIMED: replace(kept.tests[TIMED], runs=runs)}
    write_results(replace(kept, tests=fast, commit=commit, is_dirty=False), path)
    capsys.readouterr()
    status = run_here("regress", *ALONE, folder=tmp_path)
    said = json.loads(capsys.readouterr().out)
    # In a second there is time for a single pair, which decides nothing; the old numbers do not count.
    assert status == 3
    assert said["compared_with"].startswith("the baseline of")
    assert "measured by turns with the baseline's commit" in said["notes"][0]
    found = verdicts(said)
    assert found.pop((TIMED, "throughput")) == "inconclusive"
    assert set(found.values()) == {"same"}
    assert (tmp_path / "results" / "local" / "regress" / "trend.png").exists()


def test_each_round_has_fork_servers_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.regress.gate.MAX_RUNS", 2)
    (tmp_path / "suite.toml").write_text(SUITE)
    seen: list[set[int]] = []
    with (
        side("base", "cpu", tmp_path, tmp_path) as base,
        side("candidate", "cpu", tmp_path, tmp_path) as candidate,
    ):
        (race,) = measure_by_turns(
            (base, candidate),
            load_suite(tmp_path / "suite.toml"),
            limits=Limits(process_seconds=600.0, clock=Clock(seconds=600.0)),
            delta=0.0,  # which nothing can settle
            say=lambda _: seen.append(descendants(os.getpid())),
        )
    assert race.num_runs == len(seen) == 2
    assert all(first.isdisjoint(second) for first, second in pairwise(seen))
