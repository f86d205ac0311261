"""The training step as anyone would write it by hand: what the harness is held against.

Nothing of cnnbench is in it but the model, so that both train the same.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cnnbench import build

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_IMAGES = 2048
IMAGE_SIZE = 32
WINDOW_SECONDS = 0.2
NUM_WARMUP_STEPS = 10


def make_loop(architecture: str, precision: str, batch_size: int) -> Callable[[int], float]:
    """Return what trains so many steps on random images that lie in memory, and gives the seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    shape = (NUM_IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE)
    data = torch.randint(256, shape, dtype=torch.uint8, device=device)
    targets = torch.randint(10, (NUM_IMAGES,), device=device)
    model = build(architecture, num_classes=10, image_size=IMAGE_SIZE)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    order, start = torch.randperm(NUM_IMAGES, device=device), 0
    total = torch.zeros((), device=device)
    correct = torch.zeros((), device=device, dtype=torch.int64)

    def step() -> None:
        nonlocal order, start
        if start + batch_size > NUM_IMAGES:
            order, start = torch.randperm(NUM_IMAGES, device=device), 0
        index = order[start : start + batch_size]
        start += batch_size
        images = data.index_select(0, index).float().mul(1 / 255).sub_(0.5)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = targets[index]
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits = model(images)
            loss = functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            total.add_(loss.detach() * batch_size)
            correct.add_((logits.argmax(1) == labels).sum())

    def run(num_steps: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(num_steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return run
