"""The report says what share of its roofline each kind of operator takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cnnbench.measurement import OperatorKind
from cnnbench.report.page import render_page
from cnnbench.report.shares import breakdowns, shares_of
from sample_sweep import DIGITS, ENVIRONMENT, metered, sweep

if TYPE_CHECKING:
    from cnnbench.record import Record


def counted() -> Record:
    """Return a record whose step takes 2 s, of which operators must take 1.5 s."""
    record = metered(sweep(precisions=("fp32",), batch_sizes=(32,), checkpointings=("none",)))[0]
    assert record.profile is not None
    assert record.roofline is not None
    windows = tuple(replace(w, seconds=2.0 * w.num_steps) for w in record.profile.windows)
    kinds = (
        operators("activation", bound_seconds=0.3, by_bytes=0.3),
        operators("convolution", bound_seconds=1.2, by_bytes=0.3),
    )
    return replace(
        record,
        profile=replace(record.profile, windows=windows),
        roofline=replace(record.roofline, operators=kinds),
    )


def operators(kind: str, *, bound_seconds: float, by_bytes: float) -> OperatorKind:
    return OperatorKind(
        kind=kind,
        num_operators=7,
        flops=1000,
        recomputed_flops=0,
        bytes=1000,
        bound_seconds=bound_seconds,
        bytes_bound_seconds=by_bytes,
    )


def test_the_shares_are_of_the_bound_and_of_the_measured_step() -> None:
    first, second = shares_of(counted())
    assert (first.kind, second.kind) == ("convolution", "activation")
    assert first.of_bound == pytest.approx(0.8)
    assert first.of_step == pytest.approx(0.6)
    assert first.by_bytes == pytest.approx(0.25)
    assert second.by_bytes == pytest.approx(1)
    assert first.text == "80.0 % of the bound, 60.0 % of the step; 25.0 % by bytes (7 operators)"


def test_what_is_above_the_bound_is_the_rest_of_the_step() -> None:
    (found,) = breakdowns([counted()])
    assert found.rest == pytest.approx(0.25)
    assert found.rest_text == "25.0"


def test_a_record_that_was_not_counted_has_no_shares() -> None:
    record = counted()
    assert shares_of(replace(record, roofline=None)) == ()
    assert breakdowns([replace(record, roofline=None)]) == []


def test_the_page_shows_the_fastest_setting_of_each_architecture() -> None:
    records = metered(sweep())
    found = breakdowns(records)
    assert [one.architecture for one in found] == list(
        dict.fromkeys(record.cell.architecture for record in records)
    )
    page = render_page(records, ENVIRONMENT, DIGITS, "cnnbench run", [])
    assert page.count("<dt>above the bound</dt>") == len(found)
    without = render_page(sweep(), ENVIRONMENT, DIGITS, "cnnbench run", [])
    assert "Where the time goes" not in without
