"""The trace is one that a browser opens, and the table names what took the time."""

from __future__ import annotations

import csv
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import EventList, FunctionEvent

from cnnbench.measure.trace import COLUMNS, NUM_STEPS, operator_rows, write_trace

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


def event(name: str, start: float, end: float, device: str = "CPU", **other: Any) -> FunctionEvent:
    """Return what the profiler of a GPU notes of something that took `end - start` microseconds."""
    return FunctionEvent(
        id=0,
        name=name,
        thread=1,
        start_us=start,
        end_us=end,
        input_shapes=[],
        stack=[],
        use_device="cuda",
        device_type=getattr(DeviceType, device),
        **other,
    )


def test_the_devices_time_is_that_of_the_operators_and_of_what_none_of_them_launched() -> None:
    update = event("Optimizer.step#SGD.step", 0, 9, is_user_annotation=True)
    outer, inner = event("aten::matmul", 10, 30), event("aten::mm", 12, 20)
    inner.append_kernel("gemm", 0, 300.0)
    other = event("aten::add", 31, 33)
    other.append_kernel("elementwise", 0, 60.3)
    on_device = [
        event("gemm", 20, 320, "CUDA"),
        event("elementwise", 320, 380.3, "CUDA"),
        # Of a graph that was replayed: nothing on the CPU is linked to them.
        event("elementwise", 400, 490, "CUDA"),
        event("conv", 490, 640, "CUDA"),
        event("Optimizer.step#SGD.step", 10, 640, "CUDA", is_user_annotation=True),
    ]
    events = EventList([update, outer, inner, other, *on_device], use_device="cuda")
    events._build_tree()  # noqa: SLF001 (as the profiler does)
    rows = {row["operator"]: row for row in operator_rows(events, "cuda")}
    own = {name: row["self_ms"] * NUM_STEPS for name, row in rows.items() if row["self_ms"]}
    assert own == pytest.approx(
        {"aten::mm": 0.3, "aten::add": 0.0603, "elementwise": 0.09, "conv": 0.15}
    )
    assert rows["aten::matmul"]["total_ms"] * NUM_STEPS == pytest.approx(0.3)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["operators", "graph"])
def test_on_cuda_the_table_counts_the_devices_time_once(tmp_path: Path, way: str) -> None:
    square, out = torch.randn(2048, 2048, device="cuda"), torch.empty(2048, 2048, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()

    def step() -> None:
        with torch.profiler.record_function("Optimizer.step#like"):
            torch.mm(square, square, out=out)

    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        step()
    trace, operators = tmp_path / "trace.json.gz", tmp_path / "operators.csv"
    write_trace(
        step if way == "operators" else graph.replay,
        torch.device("cuda"),
        trace=trace,
        operators=operators,
    )
    rows = read(operators)
    assert sum(float(row["self_fraction"]) for row in rows) == pytest.approx(1)
    assert float(rows[0]["self_fraction"]) > 0.9
    assert (rows[0]["operator"] == "aten::mm") == (way == "operators")
