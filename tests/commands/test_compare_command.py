"""`cnnbench compare` takes folders and stores, prints three ways, and ends with the contract's codes."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cnnbench.tracking import open_store
from command import listing, run_here
from sample_journal import leave_sweep
from sample_sweep import ENVIRONMENT, sweep

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.record import Record

RECORDS = sweep(epochs=0, batch_sizes=(32,))


def faster(record: Record, factor: float) -> Record:
    assert record.profile is not None
    windows = tuple(replace(w, seconds=w.seconds / factor) for w in record.profile.windows)
    return replace(record, profile=replace(record.profile, windows=windows))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    leave_sweep(folder / "base" / "quick-1", RECORDS)
    upgraded = replace(ENVIRONMENT, torch="2.16.0")
    leave_sweep(folder / "slow", [faster(record, 0.8) for record in RECORDS], upgraded)
    leave_sweep(folder / "one", RECORDS[:1])
    leave_sweep(folder / "other", sweep(epochs=0, batch_sizes=(128,)))
    return folder


@pytest.mark.parametrize(
    ("base", "candidate", "status", "said"),
    [
        ("base", "base/quick-1", 0, "same, images/s 1.000 x"),
        ("base", "slow", 1, "regressed, images/s 0.800 x"),
        ("slow", "base", 0, "improved, images/s 1.250 x"),
        ("base", "other", 3, "invalid. 0 cells on both sides"),
    ],
)
def test_the_status_follows_the_verdict(
    home: Path,
    capfd: pytest.CaptureFixture[str],
    base: str,
    candidate: str,
    status: int,
    said: str,
) -> None:
    assert run_here("compare", base, candidate, folder=home) == status
    assert said in capfd.readouterr().out


def test_differences_of_the_environment_are_named(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_here("compare", "base", "slow", "--markdown", folder=home)
    assert "| torch | 2.15.0 | 2.16.0 |" in capfd.readouterr().out


def test_json_is_all_there_is_on_stdout(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = listing(home)
    assert run_here("compare", "base", "slow", "--json", "--delta", "0.3", folder=home) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["delta"], answer["overall"]["verdict"]) == (0.3, "same")
    assert len(answer["cells"]) == len(RECORDS)
    assert listing(home) == before


def test_a_store_is_a_side_like_any_other(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with closing(open_store(store, tmp_path)) as tracker:
        for sweep_id, records in (("first", RECORDS[:4]), ("second", RECORDS[:2])):
            own = [replace(record, sweep_id=sweep_id) for record in records]
            log = tracker.sweep(sweep_id, profile="quick", environment=ENVIRONMENT)
            for record in own:
                log.log(record)
            log.finish(own)
    for name, number in ((store, 2), (f"{store}#first", 4)):
        assert run_here("compare", "base", name, "--json", folder=home) in {0, 3}
        answer = json.loads(capfd.readouterr().out)
        assert [cell["ratio"] for cell in answer["cells"]] == [1.0] * number
        assert answer["environment"] == []
    assert run_here("compare", "base", f"{store}#third", folder=home) == 2
    assert "no sweep 'third'" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [("base", "nowhere"), ("sqlite:///no.db", "base"), ("base",)])
def test_what_is_not_there_is_refused_and_nothing_written(
    home: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    before = listing(home)
    assert run_here("compare", *arguments, folder=home) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert listing(home) == before
