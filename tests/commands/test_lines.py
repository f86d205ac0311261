"""Forecasts and largest batches as lines."""

from __future__ import annotations

from dataclasses import replace

from cnnbench.commands.lines import forecast_lines, largest_batch_lines
from cnnbench.forecast import Forecast, Outlook, Setting
from cnnbench.max_batch import LargestBatch
from cnnbench.outlook import Outlooks

MIB = 2**20
SETTING = Setting(architecture="resnet", image_size=32)
FORECAST = Forecast(
    batch_size=1024,
    parameters=43 * MIB,
    gradients=30 * MIB,
    optimizer=86 * MIB,
    activations=2000 * MIB,
    workspace=5 * MIB,
)
LARGEST = LargestBatch(
    status="completed",
    architecture="resnet",
    precision="fp32",
    checkpointing="none",
    memory_format="nchw",
    compile="off",
    seed=0,
    memory_budget_bytes=2 * 2**30,
    batch_size=1234,
    forecast_batch_size=1200,
    peak_bytes=2000 * MIB,
    num_tries=3,
)


def test_a_forecast_shows_its_parts_and_what_the_largest_batch_is_for() -> None:
    unknown = Outlook(setting=replace(SETTING, architecture="mine:net"), reason="it asks")
    known = Outlook(setting=SETTING, forecasts=(FORECAST,), largest_batch=7654)
    found = Outlooks(outlooks=(known, unknown), memory_bytes=16 * 2**30, memory_of="the budget")
    title, first, second, empty, memory, reason = forecast_lines(found)
    assert first.split() == [
        *("resnet", "fp32", "none", "nchw", "1,024"),
        *("43.0", "30.0", "86.0", "2,000.0", "5.0", "2,164.0", "7,654"),
    ]
    assert second.split() == ["mine:net", "fp32", "none", "nchw", "not", "known"]
    assert title.index("layout") == first.index("nchw")
    assert empty == ""
    assert memory == "largest batch: for the memory of 16 GiB, the budget"
    assert reason == "not known: mine:net: it asks"


def test_a_largest_batch_shows_its_peak_its_forecast_and_why_there_is_none() -> None:
    broken = replace(
        LARGEST,
        status="failed",
        batch_size=None,
        forecast_batch_size=None,
        peak_bytes=None,
        reason="out of bricks",
    )
    _, first, second, reason = largest_batch_lines([LARGEST, broken])
    assert first.split()[4:] == ["1,234", "2.0", "GiB", "1,200", "3"]
    assert second.split()[4:] == ["not", "known", "-", "not", "known", "3"]
    assert reason == "resnet-fp32-none: out of bricks"
