"""How long training steps wait for their batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    Batch = tuple[torch.Tensor, torch.Tensor]


class TimedBatches:
    """Hands out batches and adds up the time that each took to come."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        """Take the endless batches."""
        self._batches = batches
        self._seconds = 0.0

    def next(self) -> Batch:
        """Return the next batch."""
        start = time.perf_counter()
        batch = next(self._batches)
        self._seconds += time.perf_counter() - start
        return batch

    def seconds(self) -> float | None:
        """Return the seconds waited since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class CudaTimedBatches(TimedBatches):
    """Measures in the stream, between events: what the device spends on batches or idles for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        """Take the endless batches."""
        super().__init__(batches)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def next(self) -> Batch:
        """Return the next batch, an event before and after it."""
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        batch = next(self._batches)
        end.record()
        self._events.append((start, end))
        return batch

    def seconds(self) -> float | None:
        """Return the seconds since this was last asked; call it only after the window's end."""
        torch.cuda.synchronize()
        milliseconds = sum(float(start.elapsed_time(end)) for start, end in self._events)
        self._events.clear()
        return milliseconds / 1e3


def timed_batches(batches: Iterator[Batch], device: torch.device) -> TimedBatches:
    """Return the timer that is right for `device`."""
    return CudaTimedBatches(batches) if device.type == "cuda" else TimedBatches(batches)
