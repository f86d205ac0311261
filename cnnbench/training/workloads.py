"""What a cell's windows are filled with: training steps, inference, or fetching batches alone."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from cnnbench.errors import lookup

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.precision import Precision
    from cnnbench.training.step import Tally, TrainingStep

    # Returns images (B, 3, H, W) and labels (B,), both on the device.
    NextBatch = Callable[[], tuple[torch.Tensor, torch.Tensor]]
    Work = Callable[[], None]


def workload(
    name: str,
    step: TrainingStep,
    next_batch: NextBatch,
    tally: Tally,
    *,
    precision: Precision,
    device: torch.device,
) -> Work:
    """Return what one step of the workload `name` does; it does not wait for the device.

    Args:
        name: `training` (batch, forward, backward, update), `repeating` (the same, always on the first
            batch), `inference` (batch, and forward in evaluation mode without gradients) or `loading`
            (the batch alone).
        step: the training step, whose model inference runs as well.
        next_batch: fetches and augments a batch.
        tally: takes what training reports.
        precision: what inference computes in; training knows its own.
        device: where it runs.

    Raises:
        UnknownNameError: there is no such workload.
    """

    def train() -> None:
        images, labels = next_batch()
        step(images, labels, tally)

    first = cache(next_batch)

    def repeat() -> None:
        images, labels = first()
        step(images, labels, tally)

    def infer() -> None:
        images, _ = next_batch()
        with torch.inference_mode(), precision.autocast(device):
            step.model(images)

    def load() -> None:
        next_batch()

    works = {"training": train, "repeating": repeat, "inference": infer, "loading": load}
    chosen = lookup("workload", name, works)
    if chosen is infer:
        step.model.eval()
    return chosen
