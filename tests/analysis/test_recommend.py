"""The recommendation is the best valid setting that fits, and says what it does not know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.analysis.recommend import Recommendation, recommend
from cnnbench.analysis.settings import OBJECTIVES
from cnnbench.errors import StoreError
from cnnbench.measurement import Energy
from sample_sweep import spoilt, sweep, with_cell

if TYPE_CHECKING:
    from cnnbench.record import Record

RECORDS = sweep(batch_sizes=(32, 64, 128))
NAME = "simple_cnn"


def found(
    records: list[Record] = RECORDS, objective: str = "throughput", **how: Any
) -> Recommendation:
    return recommend(records, NAME, OBJECTIVES[objective], **how)


def rate(record: Record) -> float:
    return float(record.metrics()["images_per_second"])


def ours(records: list[Record] = RECORDS) -> list[Record]:
    return [record for record in records if record.cell.architecture == NAME]


def test_the_fastest_valid_setting_is_recommended() -> None:
    best = max(ours(), key=rate)
    assert found().best.records == (best,)
    doubtful = [replace(r, validity="suspect") if r is best else r for r in RECORDS]
    second = found(doubtful)
    assert second.best.records == (sorted(ours(), key=rate)[-2],)
    assert second.num_doubtful == 1
    assert "suspect" in second.suggestions[0].why or any(
        "suspect" in one.why for one in second.suggestions
    )


def test_where_all_are_suspect_the_best_of_them_is_recommended_with_low_confidence() -> None:
    reason = ("noise of 14 % above 10 %",)
    doubtful = [replace(r, validity="suspect", validity_reasons=reason) for r in RECORDS]
    answer = found(doubtful)
    assert rate(answer.best.records[0]) == max(map(rate, ours()))
    assert answer.level == "low"
    assert "noise of 14 %" in answer.reasons[0]


def test_under_a_budget_only_what_fits_is_recommended() -> None:
    peaks = sorted(r.metrics()["peak_allocated_mib"] for r in ours())
    budget = peaks[len(peaks) // 2]
    answer = found(budget_mib=budget)
    fitting = [r for r in ours() if r.metrics()["peak_allocated_mib"] <= budget]
    assert answer.best.records == (max(fitting, key=rate),)
    assert answer.num_over_budget == len(ours()) - len(fitting)


def test_unknown_memory_fits_no_budget() -> None:
    unknown = [replace(r, memory=None) for r in RECORDS]
    with pytest.raises(StoreError, match=r"fits into 100 MiB: what they need is not known"):
        found(unknown, budget_mib=100.0)


def test_a_budget_too_small_is_answered_with_the_least_need() -> None:
    with pytest.raises(StoreError, match=r"fits into 1 MiB: the least needs \d+ MiB"):
        found(budget_mib=1.0)


def test_the_gain_is_over_fp32_at_batch_64_without_checkpointing() -> None:
    gain = found().gain
    assert gain is not None
    default = gain.default.cell
    assert (default.precision, default.batch_size, default.checkpointing) == ("fp32", 64, "none")
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.ratio < gain.high
    assert gain.ratio == pytest.approx(max(map(rate, ours())) / rate(gain.default.records[0]))


def test_a_default_that_was_not_measured_gives_no_gain_and_is_suggested_first() -> None:
    answer = found(sweep(batch_sizes=(32, 128)))
    assert answer.gain is None
    first = answer.suggestions[0].cell
    assert (first.precision, first.batch_size, first.checkpointing) == ("fp32", 64, "none")
    assert "--batch-size 64" in answer.suggestions[0].command


def test_a_larger_batch_is_suggested_only_within_the_budget_and_never_twice() -> None:
    batches = {one.cell.batch_size for one in found().suggestions}
    assert 256 in batches
    tight = max(r.metrics()["peak_allocated_mib"] for r in ours())
    assert 256 not in {one.cell.batch_size for one in found(budget_mib=tight).suggestions}
    best = found().best.cell
    tried = spoilt(with_cell(ours()[0], **{**_axes(best), "batch_size": 256}), "out_of_memory", "")
    assert 256 not in {one.cell.batch_size for one in found([*RECORDS, tried]).suggestions}


def _axes(cell: Any) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("precision", "checkpointing", "batch_size")}


def test_nothing_on_the_frontier_is_beaten() -> None:
    answer = found()
    for one in answer.frontier:
        for record in ours():
            cheaper = record.metrics()["peak_allocated_mib"] <= (one.memory_mib or 0)
            assert not (cheaper and rate(record) > one.value)
    assert answer.best in answer.frontier


def test_several_seeds_that_agree_make_the_confidence_high() -> None:
    seeds = [with_cell(record, seed=seed) for record in RECORDS for seed in range(1, 5)]
    only_wide_gaps = [r for r in [*RECORDS, *seeds] if r.cell.batch_size != 64]
    alone = found([r for r in RECORDS if r.cell.batch_size != 64])
    answer = found(only_wide_gaps)
    assert alone.level == "medium"
    assert answer.confidence is not None
    assert answer.level == ("high" if answer.confidence >= 0.95 else "medium")
    assert len(answer.best.records) == 5


def test_the_least_time_to_the_target_is_recommended() -> None:
    records = [
        replace(r, cell=replace(r.cell, recipe=replace(r.cell.recipe, target_accuracy=0.8)))
        for r in RECORDS
    ]
    answer = found(records, "time-to-accuracy")
    times = [r.metrics()["time_to_accuracy_seconds"] for r in ours(records)]
    assert answer.best.value == min(time for time in times if time is not None)
    assert answer.confidence is None
    assert answer.level == "low"


def test_the_least_energy_is_recommended_where_it_was_measured() -> None:
    with pytest.raises(StoreError, match="no joules_per_image was measured"):
        found(objective="energy")
    metered = [
        replace(
            r, profile=replace(r.profile, energy=Energy(joules=n + 5.0, seconds=2, num_steps=1))
        )
        for n, r in enumerate(ours())
        if r.profile
    ]
    answer = found(metered, "energy")
    assert answer.best.value == min(r.metrics()["joules_per_image"] for r in metered)


def test_of_two_devices_the_one_measured_last_counts() -> None:
    moved = [replace(r, device="another", finished_at=r.finished_at + 1e6) for r in RECORDS]
    answer = found([*moved[:8], *RECORDS])
    assert {r.device for r in answer.best.records} == {"another"}


def test_an_architecture_that_was_not_measured_is_answered_with_those_that_were() -> None:
    with pytest.raises(
        StoreError, match=r"'lenet' was not measured\. There are: simple_cnn, resnet"
    ):
        recommend(RECORDS, "lenet", OBJECTIVES["throughput"])
