"""A real server gets the same runs as a file; nobody else is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cnnbench.cell import plain_text
from cnnbench.record import METRIC_COLUMNS, PARAM_COLUMNS, Record
from cnnbench.tracking import Tracker, open_store
from mlflow_server import free_port, mlflow_server
from sample_records import (
    sample_environment,
)
from tracked import artifact, kinds, leave_half_written, open_sweep, search, three_records

if TYPE_CHECKING:
    import pytest


def test_a_server_gets_the_same_runs_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/served.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "served"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = tmp_path / "server.log"
    records = three_records()
    with mlflow_server(command, environment=environment, health=f"{address}/health", log=log):
        tracker = open_store(address, tmp_path / "results")
        sweep = open_sweep(tracker)
        sweep.log(records[0])
        run_id = sweep.log(records[0])
        torn = leave_half_written(sweep, records[1])
        done = sweep.reconcile(records)
        assert done.superseded == (torn,)
        assert done.logged == (records[1].cell.name, records[2].cell.name)
        sweep.finish(records)
        assert kinds(sweep) == [
            *[("cell", "FINISHED")] * 3,
            *[("superseded", "KILLED")] * 2,
            ("sweep", "FINISHED"),
        ]
        found = search(tracker, monkeypatch)
        for (_, run), record in zip(found.iterrows(), records, strict=True):
            row = record.row()
            assert [run[f"params.{name}"] for name in PARAM_COLUMNS] == [
                plain_text(row[name]) for name in PARAM_COLUMNS
            ]
            known = [name for name in METRIC_COLUMNS if row[name] is not None]
            assert [run[f"metrics.{name}"] for name in known] == [row[name] for name in known]
        assert (
            msgspec.json.decode(artifact(sweep, run_id, "record.json", tmp_path), type=Record)
            == records[0]
        )
        shown = tracker.ui(port=1)
        assert shown.command == ()
        assert shown.address.startswith(f"{address}/#/experiments/{sweep.experiment_id}/runs?")
    assert not (tmp_path / "results").exists()


def test_the_ui_opens_at_the_latest_sweep_on_this_machine_only(tracker: Tracker) -> None:
    assert tracker.ui(port=5001).address == "http://127.0.0.1:5001/#/experiments"
    full = tracker.sweep("full-1", profile="full", environment=sample_environment())
    quick = open_sweep(tracker)
    quick.finish([])
    full.finish([])
    shown = tracker.ui(port=5001)
    assert shown.command[shown.command.index("--host") + 1] == "127.0.0.1"
    assert f"/experiments/{full.experiment_id}/" in shown.address
    assert f"/experiments/{quick.experiment_id}/" in tracker.ui(port=5001, profile="quick").address


QUIET_SWEEP = """
import sys, threading
from pathlib import Path

seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen.append((event, arguments))
sys.addaudithook(watch)

from cnnbench.tracking import open_store
from sample_records import sample_dataset, sample_environment, sample_record

threads = threading.active_count()
tracker = open_store(None, Path(sys.argv[1]))
sweep = tracker.sweep(
    "s", profile="quick", environment=sample_environment(), dataset=sample_dataset()
)
sweep.log(sample_record(sweep_id="s"))
sweep.finish([])
tracker.close()
assert threading.active_count() == threads, threading.enumerate()
assert not seen, seen
"""


def test_a_sweep_prints_nothing_calls_nobody_and_leaves_no_thread(tmp_path: Path) -> None:
    # Not as under a test runner or a CI service, where MLflow sends nothing by itself.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[1:3])),
    }
    done = subprocess.run(
        [sys.executable, "-c", QUIET_SWEEP, str(tmp_path / "results")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert not (tmp_path / "home").exists()
