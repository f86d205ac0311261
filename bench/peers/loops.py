"""The training loops that others write, each timed by itself, a window for each line that it reads.

`python -m bench.peers.loops NAME ARCHITECTURE PRECISION BATCH_SIZE IMAGE_SIZE` prints how many steps a window
has, then the seconds of one window a line. Data, model, precision, layout and optimizer are those of the
cell beside it, so that only what the name says differs:

    item         images in memory; loss and hits are read back in each step, two `.item()`
    torchvision  a `DataLoader` with v2 transforms (random crop, flip, normalisation) in worker processes
    loading      that loader alone, nothing trained
    timm         timm's benchmark procedure: one fixed random batch, 40 iterations, a synchronisation each
    fabric       Lightning Fabric's set-up, backward and precision around the same step

Nothing of cnnbench is in them but the model, and no code of others is copied.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import torch
from torch.nn import functional

from cnnbench import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    Batch = tuple[torch.Tensor, torch.Tensor]
    Step = Callable[[], None]

NUM_IMAGES = 2048
NUM_CLASSES = 10
WINDOW_SECONDS = 0.2
NUM_WARMUP_STEPS = 10
NUM_TIMM_ITERATIONS = 40
CROP_PADDING = 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a loop trains, and how."""

    architecture: str
    precision: str
    batch_size: int
    image_size: int

    @property
    def device(self) -> torch.device:
        """Return where it trains."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def model(self) -> nn.Module:
        """Return the cell's model, of the cell's seed."""
        torch.manual_seed(0)
        model = build(self.architecture, num_classes=NUM_CLASSES, image_size=self.image_size)
        return model.to(self.device).to(memory_format=torch.channels_last).train()

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def main() -> None:
    """Warm up, say how long a window is, and time one for each line that comes."""
    name, architecture, precision, batch_size, image_size = sys.argv[1:]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    setting = Setting(
        architecture=architecture,
        precision=precision,
        batch_size=int(batch_size),
        image_size=int(image_size),
    )
    step = LOOPS[name](setting)
    warm = seconds_of(step, NUM_WARMUP_STEPS) / NUM_WARMUP_STEPS
    num_steps = NUM_TIMM_ITERATIONS if name == "timm" else math.ceil(WINDOW_SECONDS / warm)
    click.echo(num_steps)
    for _ in sys.stdin:
        click.echo(seconds_of(step, num_steps))


def seconds_of(step: Step, num_steps: int) -> float:
    """Return the seconds that so many steps take, synchronised at both ends."""
    synchronise()
    begin = time.perf_counter()
    for _ in itertools.repeat(None, num_steps):
        step()
    synchronise()
    return time.perf_counter() - begin


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def item_step(setting: Setting) -> Step:
    """Train as the plain loop does, and read loss and hits back each time."""
    model, batches = setting.model(), resident_batches(setting)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    autocast = setting.autocast()
    total_loss, num_correct = 0.0, 0

    def step() -> None:
        nonlocal total_loss, num_correct
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits = model(images)
            loss = functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        num_correct += int((logits.argmax(1) == labels).sum().item())

    return step


def torchvision_step(setting: Setting) -> Step:
    """Train on what the DataLoader brings."""
    model, batches = setting.model(), loaded_batches(setting)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    autocast = setting.autocast()

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def loading_step(setting: Setting) -> Step:
    """Take a batch from the DataLoader, and do nothing with it."""
    batches = loaded_batches(setting)

    def step() -> None:
        next(batches)

    return step


def timm_step(setting: Setting) -> Step:
    """Train on one fixed batch and synchronise after each iteration."""
    model = setting.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    size = setting.image_size
    images = torch.randn(setting.batch_size, 3, size, size, device=setting.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(NUM_CLASSES, (setting.batch_size,), device=setting.device)
    autocast = setting.autocast()

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            logits = model(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        synchronise()

    return step


def fabric_step(setting: Setting) -> Step:
    """Train with Fabric's own precision, backward pass and wrapped model and optimizer."""
    from lightning_fabric import Fabric  # noqa: PLC0415 (an optional dependency)

    precision: Any = {"fp32": "32-true", "bf16": "bf16-mixed"}[setting.precision]
    fabric = Fabric(accelerator=setting.device.type, devices=1, precision=precision)
    own = setting.model()
    adam = torch.optim.Adam(own.parameters(), lr=1e-3, fused=True)
    model, optimizer = fabric.setup(own, adam)
    batches = resident_batches(setting)

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(images), labels)
        fabric.backward(loss)
        optimizer.step()

    return step


def resident_batches(setting: Setting) -> Iterator[Batch]:
    """Yield shuffled batches of random bytes that lie on the device."""
    device, size = setting.device, setting.image_size
    data = torch.randint(256, (NUM_IMAGES, 3, size, size), dtype=torch.uint8, device=device)
    targets = torch.randint(NUM_CLASSES, (NUM_IMAGES,), device=device)
    while True:
        order = torch.randperm(NUM_IMAGES, device=device)
        for stop in range(setting.batch_size, NUM_IMAGES + 1, setting.batch_size):
            index = order[stop - setting.batch_size : stop]
            images = data.index_select(0, index).float().mul(1 / 255).sub_(0.5)
            yield images.contiguous(memory_format=torch.channels_last), targets[index]


def loaded_batches(setting: Setting) -> Iterator[Batch]:
    """Yield what a DataLoader makes of such bytes, with a worker process for each processor."""
    from torchvision.transforms import v2  # noqa: PLC0415 (the other loops need none of it)

    size, device = setting.image_size, setting.device
    transform = v2.Compose(
        [
            v2.RandomCrop(size, padding=CROP_PADDING, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    loader = torch.utils.data.DataLoader(
        _Transformed(size, transform),
        batch_size=setting.batch_size,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        pin_memory=device.type == "cuda",
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, labels in loader:
            moved = images.to(device, non_blocking=True)
            yield (
                moved.contiguous(memory_format=torch.channels_last),
                labels.to(device, non_blocking=True),
            )


class _Transformed(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Random bytes as images, one at a time."""

    def __init__(self, image_size: int, transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
        shape = (NUM_IMAGES, 3, image_size, image_size)
        self.images = torch.randint(256, shape, dtype=torch.uint8)
        self.labels = torch.randint(NUM_CLASSES, (NUM_IMAGES,)).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


LOOPS: dict[str, Callable[[Setting], Step]] = {
    "item": item_step,
    "torchvision": torchvision_step,
    "loading": loading_step,
    "timm": timm_step,
    "fabric": fabric_step,
}


if __name__ == "__main__":
    main()
