"""A disk that is really full, a small one in memory: what was finished is kept, and gone on with."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench import api
from cnnbench.errors import DiskError
from cnnbench.sweep.journal import NAME, Journal, read_journal
from cnnbench.tracking import open_store
from command import TINY_PROFILE, run_here
from sample_records import sample_cell, sample_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.record import Record

# Builds as any model, and fills the disk up when it is told to.
FILLING_MODELS = """
from pathlib import Path
from torch import nn

def fill(path):
    block = 2**20
    with path.open("ab", buffering=0) as file:
        while block:
            try:
                file.write(b"x" * block)
            except OSError:
                block //= 2

def net(num_classes, fills=False):
    if fills and Path("fill").exists() and Path("builds").exists():
        fill(Path("disk/filler"))
    if fills:
        Path("builds").touch()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""
RUN = (
    *("run", "--profile", "tiny.toml", "--batch-size", "32", "--epochs", "0"),
    *("--architecture", "filling_models:net,filling_models:net(fills=True)"),
    *("--isolation", "inline"),
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a small disk in it, and a model that fills that."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    (tmp_path / "filling_models.py").write_text(FILLING_MODELS)
    (tmp_path / "fill").touch()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(num_threads)
    subprocess.run(["/bin/umount", "-l", str(disk)], check=True)


def free(place: Path) -> None:
    (place / "disk" / "filler").unlink()
    (place / "fill").unlink()


def test_a_journal_keeps_every_record_that_it_took(place: Path) -> None:
    path = place / "disk" / NAME
    with (
        (place / "disk" / "filler").open("wb", buffering=0) as filler,
        contextlib.suppress(OSError),
    ):
        while True:
            filler.write(b"x" * 4096)
    with (place / "disk" / "filler").open("r+b") as filler:
        filler.truncate((place / "disk" / "filler").stat().st_size - 6 * 4096)
    taken: list[Record] = []
    with Journal(path) as journal, pytest.raises(DiskError, match="No space left on device"):
        append_until_refused(journal, taken)
    assert taken
    assert read_journal(path) == taken
    (place / "disk" / "filler").unlink()
    with Journal(path) as journal:
        journal.append(sample_record(cell=sample_cell(seed=999)))
    assert read_journal(path)[:-1] == taken


def append_until_refused(journal: Journal, taken: list[Record]) -> None:
    for seed in range(100):
        record = sample_record(cell=sample_cell(seed=seed))
        journal.append(record)
        taken.append(record)


def test_a_sweep_ends_in_one_line_and_goes_on_when_there_is_room(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, "--results-dir", "disk/results", "--tracking-uri", "none")
    assert run_here(*run, folder=place) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("cnnbench: cannot write ")
    assert "No space left on device. Free it, or choose another" in err.splitlines()[-1]
    (kept,) = api.load(place / "disk" / "results")
    assert kept.cell.architecture == "filling_models:net"
    free(place)
    assert run_here(*run, folder=place) == 0
    first, second = api.load(place / "disk" / "results")
    assert first == kept
    assert second.status == "completed"


def test_a_store_on_a_full_disk_costs_no_cell(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{place}/disk/mlflow.db"
    assert run_here(*RUN, "--strict", "--tracking-uri", uri, folder=place) == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "MLflow does not take records" in err
    (command,) = [line.partition(" Later: ")[2] for line in err.splitlines() if "Later: " in line]
    assert [record.status for record in api.load(place / "results" / "local")] == [
        *("completed", "completed"),
    ]
    free(place)
    assert run_here(*command.split()[1:], folder=place) == 0
    assert "2 cells, 1 logged now" in capfd.readouterr().out
    tracker = open_store(uri, place / "results" / "local", create=False)
    ids = [experiment.experiment_id for experiment in tracker.client.search_experiments()]
    kinds = sorted(
        (run.data.tags["kind"], run.info.status) for run in tracker.client.search_runs(ids)
    )
    tracker.close()
    assert [kind for kind in kinds if kind[0] != "superseded"] == [
        *[("cell", "FINISHED")] * 2,
        ("sweep", "FINISHED"),
    ]
    assert ("superseded", "RUNNING") not in kinds
