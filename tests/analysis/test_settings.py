"""Records become settings: seeds together, invalid ones left out; budgets are amounts with a unit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cnnbench.analysis.settings import (
    OBJECTIVES,
    memory_of,
    objective_named,
    parse_budget,
    settings_of,
)
from cnnbench.errors import InvalidValueError, UnknownNameError
from sample_records import sample_memory
from sample_sweep import spoilt, sweep, with_cell

THROUGHPUT = OBJECTIVES["throughput"]


def test_seeds_of_a_setting_are_its_records() -> None:
    records = sweep(precisions=("fp32",), batch_sizes=(32,))
    again = [with_cell(record, seed=1) for record in records]
    found = settings_of([*records, *again], THROUGHPUT)
    assert [len(one.records) for one in found] == [2] * len(records)


def test_what_failed_or_is_invalid_is_no_setting() -> None:
    first, second, third = sweep(precisions=("fp32",))[:3]
    records = [spoilt(first, "failed", ""), replace(second, validity="invalid"), third]
    assert [one.records for one in settings_of(records, THROUGHPUT)] == [(third,)]


def test_against_a_budget_counts_the_process_on_a_gpu_and_tensors_on_a_cpu() -> None:
    on_cpu, on_gpu = sweep(precisions=("fp32",))[0], sweep(precisions=("fp32",), cuda=True)[0]
    assert memory_of(on_cpu) == ("peak_allocated_mib", on_cpu.metrics()["peak_allocated_mib"])
    assert memory_of(on_gpu) == ("process_mib", on_gpu.metrics()["process_mib"])
    nothing = sample_memory(peak_allocated_bytes=None, process_bytes=None)
    assert memory_of(replace(on_cpu, memory=nothing)) is None


@pytest.mark.parametrize(
    ("text", "mib"),
    [("16GiB", 16384), ("16 gib", 16384), ("0.5GiB", 512), ("1048576KiB", 1024), ("1GB", 953.67)],
)
def test_a_budget_is_read_in_any_unit(text: str, mib: float) -> None:
    assert parse_budget(text) == pytest.approx(mib, rel=1e-5)


@pytest.mark.parametrize(
    "text",
    ["", "16", "12 bananas", "-1GiB", "0MiB", "GiB", "nanGiB", "infMiB", "1e999GiB", "16GiBs"],
)
def test_no_amount_is_refused_and_repeated(text: str) -> None:
    with pytest.raises(InvalidValueError, match="16GiB") as refusal:
        parse_budget(text)
    assert repr(text) in str(refusal.value)


def test_an_unknown_objective_is_answered_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="throughput, time-to-accuracy, energy"):
        objective_named("beauty")
