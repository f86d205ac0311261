"""The machine's noise floor: measured on real cells, kept beside the results, and only for its machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cnnbench import noise
from cnnbench.cell import Timing
from cnnbench.errors import StoreError
from cnnbench.noise import Noise, delta, load_noise, measure_noise
from cnnbench.stats import MIN_DELTA, MIN_PAIRS
from cnnbench.sweep.run import look
from cnnbench.sweep.workers import launcher
from neighbours import busy_neighbours
from sample_records import sample_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.sweep.workers import Launcher

BRIEF = Timing(window_seconds=0.02, min_windows=3, max_windows=3, limit_seconds=0.1, warmup_steps=1)


@pytest.fixture(autouse=True)
def brief_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = replace(noise.CPU_CELL, architecture="simple_cnn(width=4)", timing=BRIEF)
    monkeypatch.setattr(noise, "CPU_CELL", cell)
    monkeypatch.setattr(noise, "NUM_PAIRS", MIN_PAIRS)
    monkeypatch.setattr(noise, "MAX_PAIRS", MIN_PAIRS)


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Launcher, Launcher]]:
    with launcher("forkserver") as ours, launcher("forkserver") as theirs:
        yield ours, theirs


def test_the_noise_is_measured_between_processes_and_kept_for_this_machine(
    workers: tuple[Launcher, Launcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever else uses the machine that runs the tests: here, they are not to matter.
    monkeypatch.setattr("cnnbench.measurement.MAX_FOREIGN_FRACTION", 2.0)
    said: list[str] = []
    folder = tmp_path / "results"
    environment = look(workers[0], "cpu")
    found = measure_noise(workers, environment, "cpu", folder, say=said.append)
    assert found.floor > 0
    assert found.num_pairs == len(said) >= MIN_PAIRS
    assert found.device == environment.device
    assert load_noise(folder, environment) == found
    assert delta(folder, environment) == found.delta
    changed = replace(environment, code_digest="another", num_threads=99)
    assert load_noise(folder, changed) == found
    upgraded = replace(environment, torch="99.0")
    assert load_noise(folder, upgraded) is None
    assert delta(folder, upgraded) == MIN_DELTA


def test_beside_neighbours_that_never_rest_there_is_no_noise_floor_to_keep(
    workers: tuple[Launcher, Launcher], tmp_path: Path
) -> None:
    environment = look(workers[0], "cpu")
    with busy_neighbours(), pytest.raises(StoreError, match="others used the machine"):
        measure_noise(workers, environment, "cpu", tmp_path, say=lambda _: None)
    assert load_noise(tmp_path, environment) is None


def test_a_quiet_machine_still_calls_two_percent_no_news() -> None:
    quiet = Noise(floor=0.004, num_pairs=10, cell="c", device="d", num_threads=1, machine_hash="e")
    assert quiet.delta == MIN_DELTA
    assert replace(quiet, floor=0.07).delta == 0.07


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    environment = sample_environment()
    (tmp_path / noise.NAME).write_text("{torn")
    assert load_noise(tmp_path, environment) is None
    assert delta(tmp_path, environment) == MIN_DELTA
