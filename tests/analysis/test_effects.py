"""Only cells that differ in one axis alone are compared."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from cnnbench.analysis.effects import one_factor_effects
from sample_sweep import spoilt, sweep

RECORDS = sweep(epochs=0)


def test_every_pair_that_differs_in_one_axis_is_found() -> None:
    effects = one_factor_effects(RECORDS)
    assert len(effects) == 32
    for effect in effects:
        ours, theirs = asdict(effect.variant.cell), asdict(effect.baseline.cell)
        assert {name for name in ours if ours[name] != theirs[name]} == {effect.factor}


def test_ratios_are_the_variant_over_the_baseline() -> None:
    effect = one_factor_effects(RECORDS)[0]
    ours, theirs = effect.variant.metrics(), effect.baseline.metrics()
    assert effect.change == "bf16 instead of fp32"
    assert effect.throughput_ratio == pytest.approx(
        ours["images_per_second"] / theirs["images_per_second"]
    )
    assert effect.memory_ratio == ours["peak_allocated_mib"] / theirs["peak_allocated_mib"]


def test_trainings_of_other_length_still_pair() -> None:
    longer = [
        replace(r, cell=replace(r.cell, recipe=replace(r.cell.recipe, epochs=9)))
        if r.cell.precision == "bf16"
        else r
        for r in RECORDS
    ]
    assert len(one_factor_effects(longer)) == 32


def test_other_environments_do_not_pair() -> None:
    moved = [
        replace(r, environment_hash="f" * 16) if r.cell.precision == "bf16" else r for r in RECORDS
    ]
    assert {effect.factor for effect in one_factor_effects(moved)} == {"checkpointing"}


def test_what_failed_does_not_pair() -> None:
    assert one_factor_effects([spoilt(record, "failed", "") for record in RECORDS]) == []
