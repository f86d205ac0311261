"""A profiler's view of a few steady steps, on request: a Chrome trace, and the operators by their time."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch.autograd.profiler_util import EventList

    from cnnbench.measure.timing import Step

NUM_STEPS = 3
COLUMNS = ("operator", "num_calls", "self_ms", "total_ms", "self_fraction", "input_shapes")


def write_trace(step: Step, device: torch.device, *, trace: Path, operators: Path) -> None:
    """Profile `NUM_STEPS` steps, after one that the profiler may spend on its own start.

    The profiler slows what it watches (https://docs.pytorch.org/docs/stable/profiler.html): shares are
    what to read here, times are those of the timed windows.

    Args:
        step: the training step, warm.
        device: where it runs.
        trace: written for chrome://tracing or Perfetto; gzipped when its name ends in `.gz`.
        operators: a CSV with one row for each operator and shapes of its inputs, by the time spent in
            it alone, in milliseconds a step: on the device where that is not the CPU. What no operator
            launched there, as in a CUDA graph, is under its kernels' names.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities):
        step()
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(NUM_STEPS):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    profiler.export_chrome_trace(str(trace))
    rows = list(operator_rows(profiler.events(), device.type))
    total = sum(row["self_ms"] for row in rows) or 1.0
    rows.sort(key=lambda row: -row["self_ms"])
    with operators.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(
            {**row, "self_fraction": row["self_ms"] / total} for row in rows if row["self_ms"] > 0
        )


def operator_rows(events: EventList, device_type: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a profiler's `events`, in which the device's time is counted once.

    The profiler has it up to three times: with the operators that launched kernels, with the kernels
    themselves, and with ranges like `Optimizer.step` on the device.
    """
    launched: Counter[str] = Counter()
    for event in events:
        for kernel in event.kernels:
            launched[kernel.name] += kernel.duration
    for event in events.key_averages(group_by_input_shapes=True):
        if event.device_type == DeviceType.CPU:
            yield _row(event, device_type)
        elif not event.is_user_annotation:
            row = _row(event, device_type)
            # To the nanosecond, in which the profiler counts.
            unlaunched = max(0.0, round(event.self_device_time_total - launched[event.key], 3))
            yield {**row, **dict.fromkeys(("self_ms", "total_ms"), _ms(unlaunched))}


def _row(event: Any, device_type: str) -> dict[str, Any]:
    kind = "device" if device_type == "cuda" else "cpu"
    microseconds = {part: getattr(event, f"{prefix}{kind}_time_total") for part, prefix in _PARTS}
    return {
        "operator": event.key,
        "num_calls": event.count / NUM_STEPS,
        "input_shapes": " ".join(str(shape) for shape in event.input_shapes if shape),
        **{part: _ms(value) for part, value in microseconds.items()},
    }


def _ms(microseconds: float) -> float:
    """Return the milliseconds of one step."""
    return microseconds / NUM_STEPS / 1e3


_PARTS = (("self_ms", "self_"), ("total_ms", ""))
