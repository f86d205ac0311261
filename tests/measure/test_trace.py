"""The trace is one that a browser opens, and the table names what took the time."""

from __future__ import annotations

import csv
import gzip
import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from cnnbench.measure.trace import COLUMNS, NUM_STEPS, write_trace

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_trace_holds_the_steps_and_the_table_their_operators(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 8, kernel_size=3)
    images = torch.randn(2, 3, 16, 16)
    num_runs = 0

    def step() -> None:
        nonlocal num_runs
        num_runs += 1
        model(images).sum().backward()

    trace, operators = tmp_path / "trace.json.gz", tmp_path / "operators.csv"
    write_trace(step, torch.device("cpu"), trace=trace, operators=operators)
    assert num_runs == NUM_STEPS + 1
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    convolutions = [event for event in events if event.get("name") == "aten::conv2d"]
    assert len(convolutions) == NUM_STEPS
    rows = read(operators)
    assert tuple(rows[0]) == COLUMNS
    by_name = {row["operator"]: row for row in rows}
    forward = by_name["aten::conv2d"]
    assert float(forward["num_calls"]) == 1.0
    assert forward["input_shapes"].startswith("[2, 3, 16, 16] [8, 3, 3, 3]")
    assert any("convolution_backward" in name.lower() for name in by_name)
    times = [float(row["self_ms"]) for row in rows]
    assert times == sorted(times, reverse=True)
    assert sum(float(row["self_fraction"]) for row in rows) == pytest.approx(1)


@pytest.mark.gpu
def test_on_cuda_the_table_counts_the_devices_time(tmp_path: Path) -> None:
    square = torch.randn(2048, 2048, device="cuda")

    def step() -> None:
        torch.mm(square, square)

    trace, operators = tmp_path / "trace.json.gz", tmp_path / "operators.csv"
    write_trace(step, torch.device("cuda"), trace=trace, operators=operators)
    assert any("aten::mm" in row["operator"] for row in read(operators))
