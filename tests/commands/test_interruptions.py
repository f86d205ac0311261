"""Real signals to a real run: nothing that was finished is lost, and no process stays."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from cnnbench.tracking import open_store
from command import TINY_PROFILE, cnnbench, start
from finished_run import records
from processes import descendants, is_running, wait_for, wait_until_ended

if TYPE_CHECKING:
    from pathlib import Path


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


def test_an_interrupted_gate_leaves_no_process_and_promises_nothing(tmp_path: Path) -> None:
    with start("regress", "--no-compare", "--device", "cpu", cwd=tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "starting the workers ...\n"
        wait_for(lambda: bool(descendants(process.pid)), said="the workers")
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. To begin again:\n  cnnbench regress --no-compare --device cpu" in err
    wait_until_ended(started)
