"""The fastest setting of each architecture is found, whatever order the cells ended in."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cnnbench.analysis.best import best_settings, images_per_second
from sample_sweep import spoilt, sweep, with_cell

if TYPE_CHECKING:
    from cnnbench.record import Record

RECORDS = sweep(epochs=0)


def simple_cnns() -> list[Record]:
    return [r for r in RECORDS if r.cell.architecture == "simple_cnn"]


def test_the_fastest_cell_of_each_architecture_is_best() -> None:
    for architecture, best in best_settings(RECORDS).items():
        rates = [images_per_second(r) for r in RECORDS if r.cell.architecture == architecture]
        assert len(rates) == 8
        assert images_per_second(best.record) == max(rates)


def test_architectures_come_in_order_of_appearance() -> None:
    assert list(best_settings(RECORDS)) == list(dict.fromkeys(r.cell.architecture for r in RECORDS))


@pytest.mark.parametrize("spoil", ["failed", "out_of_memory", "invalid"])
def test_what_failed_or_is_invalid_is_never_best(spoil: str) -> None:
    records = simple_cnns()
    fastest = best_settings(records)["simple_cnn"].record
    worse = replace(fastest, validity="invalid") if spoil == "invalid" else None
    changed = [(worse or spoilt(r, spoil, "")) if r is fastest else r for r in records]
    assert best_settings(changed)["simple_cnn"].record.cell != fastest.cell


def test_a_suspect_cell_may_be_best() -> None:
    records = [replace(record, validity="suspect") for record in simple_cnns()]
    assert best_settings(records)


def test_of_equals_the_smaller_batch_wins_in_any_order() -> None:
    one = simple_cnns()[0]
    twice = replace(one, cell=replace(one.cell, batch_size=one.cell.batch_size * 2))
    assert one.profile is not None
    slower = tuple(replace(w, seconds=2 * w.seconds) for w in one.profile.windows)
    twice = replace(twice, profile=replace(one.profile, windows=slower))
    seeds = [with_cell(one, seed=seed) for seed in (3, 1, 2)]
    records = [twice, *seeds, one]
    for _ in range(20):
        random.shuffle(records)
        assert best_settings(records)["simple_cnn"].record is one


def test_the_gain_is_over_fp32_without_checkpointing_at_the_smallest_batch() -> None:
    best = best_settings(RECORDS)["simple_cnn"]
    [plain] = [r for r in simple_cnns() if r.cell.name == "simple_cnn-fp32-b32-none"]
    assert best.baseline is plain
    assert best.speedup == images_per_second(best.record) / images_per_second(plain)
    ratio = best.record.metrics()["peak_allocated_mib"] / plain.metrics()["peak_allocated_mib"]
    assert best.memory_ratio == ratio


def test_without_a_default_measured_there_is_no_gain() -> None:
    best = best_settings(r for r in RECORDS if r.cell.precision == "bf16")["simple_cnn"]
    assert best.baseline is None
    assert best.speedup is None
    assert best.memory_ratio is None


def test_a_default_on_other_data_or_another_device_is_no_baseline() -> None:
    records = simple_cnns()
    fastest = best_settings(records)["simple_cnn"].record
    elsewhere = [with_cell(r, dataset="cifar10") if r is not fastest else r for r in records]
    slower_machine = [replace(r, device="abacus") if r is not fastest else r for r in records]
    assert best_settings([fastest, *elsewhere])["simple_cnn"].baseline is None
    assert best_settings([fastest, *slower_machine])["simple_cnn"].baseline is None


def test_cells_that_only_trained_have_no_best() -> None:
    assert best_settings(replace(record, profile=None) for record in RECORDS) == {}
