"""What died, was half written or came back later is put right, and only that."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cnnbench import owner
from cnnbench.owner import Owner
from cnnbench.tracking import Reconciled, SweepLog, Tracker
from sample_records import (
    STARTED_AT,
    sample_cell,
    sample_environment,
    sample_record,
)
from tracked import SWEEP_ID, all_runs, kinds, leave_half_written, open_sweep, three_records

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_logging_a_cell_again_supersedes_its_former_run(sweep: SweepLog) -> None:
    first = sweep.log(sample_record())
    second = sweep.log(sample_record())
    client = sweep.tracker.client
    former = client.get_run(first)
    assert former.data.tags["kind"] == "superseded"
    assert former.info.status == "KILLED"
    assert former.info.end_time == round(sample_record().finished_at * 1000)
    assert client.get_run(second).data.tags["kind"] == "cell"


def test_logging_a_cell_leaves_other_sweeps_and_other_cells_alone(tracker: Tracker) -> None:
    other = tracker.sweep("quick-other", profile="quick", environment=sample_environment())
    other.log(sample_record(sweep_id="quick-other"))
    sweep = open_sweep(tracker)
    sweep.log(sample_record())
    sweep.log(sample_record(cell=sample_cell(seed=1)))
    assert kinds(sweep) == [("cell", "FINISHED")] * 3


def test_a_half_written_run_is_superseded_and_its_cell_logged(sweep: SweepLog) -> None:
    complete, half, missing = three_records()
    kept = sweep.log(complete)
    torn = leave_half_written(sweep, half)
    done = sweep.reconcile([complete, half, missing])
    assert done.superseded == (torn,)
    assert done.logged == (half.cell.name, missing.cell.name)
    assert kinds(sweep) == [("cell", "FINISHED")] * 3 + [("superseded", "KILLED")]
    assert sweep.tracker.client.get_run(kept).data.tags["kind"] == "cell"


def test_reconciling_twice_changes_nothing_the_second_time(sweep: SweepLog) -> None:
    records = three_records()
    leave_half_written(sweep, records[0])
    sweep.reconcile(records)
    before = kinds(sweep)
    assert sweep.reconcile(records) == Reconciled()
    assert kinds(sweep) == before


def test_a_kill_while_superseding_is_made_good(sweep: SweepLog) -> None:
    record = sample_record()
    leave_half_written(sweep, record, kind="superseded")
    sweep.reconcile([record])
    assert kinds(sweep) == [("cell", "FINISHED"), ("superseded", "KILLED")]


def test_a_later_record_of_a_cell_replaces_the_run_of_an_earlier_one(sweep: SweepLog) -> None:
    first = sample_record(status="failed", profile=None, fit=None, error="lost its worker")
    again = sample_record(started_at=STARTED_AT + 100, finished_at=STARTED_AT + 109)
    sweep.log(first)
    assert sweep.reconcile([first, again]).logged == (again.cell.name,)
    assert kinds(sweep) == [("cell", "FINISHED"), ("superseded", "KILLED")]


def test_reconciling_leaves_complete_runs_without_a_record_and_the_sweeps_run(
    sweep: SweepLog,
) -> None:
    record = sample_record()
    sweep.log(record)
    sweep.finish([record])
    assert sweep.reconcile([]) == Reconciled(is_finished=True)
    assert kinds(sweep) == [("cell", "FINISHED"), ("sweep", "FINISHED")]


def test_a_sweeps_own_run_must_have_ended_after_its_last_record(sweep: SweepLog) -> None:
    record = sample_record()
    assert not sweep.reconcile([record]).is_finished
    sweep.finish([record])
    assert sweep.reconcile([record]).is_finished
    later = sample_record(cell=sample_cell(seed=1), finished_at=time.time() + 1000)
    sweep.log(later)
    assert not sweep.reconcile([record, later]).is_finished


@pytest.fixture
def other_process() -> Iterator[Owner]:
    """A living process of this machine that is not this one."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = owner._start(process.pid)  # noqa: SLF001 (as that process would see itself)
        assert start
        yield Owner(host=socket.gethostname(), pid=process.pid, start=start)
        process.communicate(b"\n")


def leave_running(sweep: SweepLog, writer: Owner, *, sweep_id: str, kind: str = "cell") -> str:
    """Do what `writer` does that has begun to log a cell of `sweep_id`."""
    tags = {
        "kind": kind,
        "sweep_id": sweep_id,
        "cell_hash": sample_record().cell_hash,
        "host": writer.host,
        "pid": str(writer.pid),
        "process_start": writer.start,
    }
    run = sweep.tracker.client.create_run(sweep.experiment_id, tags=tags)
    return str(run.info.run_id)


def test_what_dead_processes_left_running_is_closed_and_what_living_ones_write_is_not(
    sweep: SweepLog, other_process: Owner
) -> None:
    dead = replace(other_process, start="another boot")
    far = replace(dead, host="elsewhere")
    left = leave_running(sweep, dead, sweep_id="quick-other")
    own = leave_running(sweep, dead, sweep_id="quick-other", kind="sweep")
    begun = leave_running(sweep, other_process, sweep_id="quick-other")
    here = leave_running(sweep, other_process, sweep_id=SWEEP_ID)
    away = leave_running(sweep, far, sweep_id="quick-other")
    assert sweep.reconcile([]).superseded == (left,)
    runs = {run.info.run_id: run for run in all_runs(sweep)}
    assert runs[left].info.status == runs[own].info.status == "KILLED"
    assert runs[left].data.tags["kind"] == "superseded"
    assert runs[own].data.tags["kind"] == "sweep"
    for run_id in (begun, here, away):
        assert runs[run_id].info.status == "RUNNING"
        assert runs[run_id].data.tags["kind"] == "cell"


def test_reconciling_fills_an_empty_store_from_the_journal(sweep: SweepLog) -> None:
    records = three_records()
    assert len(sweep.reconcile(records).logged) == 3
    assert kinds(sweep) == [("cell", "FINISHED")] * 3


def test_reconciling_reads_every_page_of_runs(
    sweep: SweepLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.tracking.runs.RUNS_PER_PAGE", 2)
    records = three_records()
    sweep.reconcile(records)
    assert sweep.reconcile(records) == Reconciled()
