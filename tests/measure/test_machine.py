"""The machine's accounting, held against what really ran."""

from __future__ import annotations

import os
import time

import pytest

from cnnbench.measure.machine import (
    Load,
    foreign_fraction,
    peak_resident_bytes,
    read_load,
    reset_peak_resident,
    resident_bytes,
)
from fresh_memory import MIB, fresh_memory
from neighbours import busy_neighbours


def load() -> Load:
    seen = read_load()
    assert seen is not None
    return seen


def test_our_own_work_is_ours() -> None:
    before = load()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    after = load()
    own = after.own_seconds - before.own_seconds
    assert own >= 0.3
    # The kernel counts the machine in ticks.
    assert after.busy_seconds - before.busy_seconds > own - 0.05


def test_what_others_do_is_foreign() -> None:
    with busy_neighbours():
        before, start = load(), time.perf_counter()
        time.sleep(0.5)
        fraction = foreign_fraction(before, load(), time.perf_counter() - start)
    assert fraction is not None
    ours_to_use = len(os.sched_getaffinity(0)) / (os.cpu_count() or 1)
    assert fraction > 0.25 * ours_to_use


@pytest.mark.parametrize(
    ("busy", "own", "expected"),
    [(0.5, 0.5, 0.0), (0.5, 0.6, 0.0), (1.0, 0.5, 0.5), (0.0, 0.0, 0.0)],
)
def test_the_foreign_share_is_of_all_processors(busy: float, own: float, expected: float) -> None:
    before = Load(busy_seconds=100.0, own_seconds=7.0)
    after = Load(busy_seconds=100.0 + busy, own_seconds=7.0 + own)
    share = foreign_fraction(before, after, 1.0)
    assert share == pytest.approx(expected / (os.cpu_count() or 1))


def test_an_unknown_load_is_unknown_and_not_none_at_all() -> None:
    known = Load(busy_seconds=1.0, own_seconds=1.0)
    assert foreign_fraction(None, known, 1.0) is None
    assert foreign_fraction(known, None, 1.0) is None
    assert foreign_fraction(known, known, 0.0) is None


def test_the_peak_keeps_what_has_been_given_back() -> None:
    reset_peak_resident()
    before = resident_bytes()
    block = fresh_memory(64)
    during = resident_bytes()
    block.close()
    after, peak = resident_bytes(), peak_resident_bytes()
    assert before is not None
    assert during is not None
    assert after is not None
    assert peak is not None
    assert during - before > 60 * MIB
    assert peak - before > 60 * MIB
    assert peak - after > 60 * MIB


def test_the_peak_can_be_forgotten() -> None:
    fresh_memory(64).close()
    reset_peak_resident()
    peak, now = peak_resident_bytes(), resident_bytes()
    assert peak is not None
    assert now is not None
    assert abs(peak - now) < 32 * MIB
