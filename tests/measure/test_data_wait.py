"""The timer around batches: it adds up, it forgets what it has told, it changes no batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench.measure.data_wait import CudaTimedBatches, TimedBatches, timed_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")


def numbered(seconds: float = 0.0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    number = 0
    while True:
        if seconds:
            time.sleep(seconds)
        yield torch.full((2, 3), float(number)), torch.tensor([number])
        number += 1


def test_batches_come_unchanged_and_in_order() -> None:
    batches = timed_batches(numbered(), CPU)
    for number in range(3):
        images, labels = batches.next()
        assert images.tolist() == [[number] * 3] * 2
        assert labels.tolist() == [number]


def test_only_the_time_for_batches_counts() -> None:
    batches = timed_batches(numbered(0.02), CPU)
    start = time.perf_counter()
    for _ in range(3):
        batches.next()
        time.sleep(0.1)
    total = time.perf_counter() - start
    seconds = batches.seconds()
    assert seconds is not None
    # Sleep is never shorter than asked: 60 ms for batches, and 300 ms of the total beside them.
    assert 0.06 <= seconds <= total - 0.3


def test_what_was_told_is_forgotten() -> None:
    batches = timed_batches(numbered(0.01), CPU)
    batches.next()
    assert batches.seconds()
    assert batches.seconds() == 0


def test_the_timer_suits_the_device() -> None:
    assert type(timed_batches(numbered(), CPU)) is TimedBatches


@pytest.mark.gpu
def test_on_cuda_the_devices_time_for_batches_counts() -> None:
    device = torch.device("cuda")

    def batches(num_products: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        square = torch.randn(2048, 2048, device=device)
        while True:
            for _ in range(num_products):
                square = (square @ square).clamp(-1, 1)
            yield square, square

    light, heavy = (timed_batches(batches(number), device) for number in (1, 50))
    assert type(heavy) is CudaTimedBatches
    for timer in (light, heavy):
        for _ in range(3):
            timer.next()
        timer.seconds()
        for _ in range(5):
            timer.next()
    light_seconds, heavy_seconds = light.seconds(), heavy.seconds()
    assert light_seconds is not None
    assert heavy_seconds is not None
    assert 0 < light_seconds < heavy_seconds
    assert heavy.seconds() == 0
