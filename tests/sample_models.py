"""Small models of every kind, and one way to train any of them for a step or two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cnnbench import architectures
from cnnbench.checkpointing import Segment, apply_checkpointing

NUM_CLASSES = 10

# One of each family of ARCHITECTURES, the smallest that has every part.
SMALL = (
    "simple_cnn(width=4,hidden=16)",
    "resnet(width=4,depth=2)",
    "mbconv_net(width=0.25,depth=0.5)",
    "transfer_resnet50",
    "transfer_resnet50(frozen=False)",
    "transfer_efficientnet_lite0(trainable=all)",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What training made of a model."""

    model: nn.Module
    segments: list[Segment]
    notes: tuple[str, ...]
    gradients: dict[str, torch.Tensor]


def build(architecture: str, image_size: int = 32, *, seed: int = 0) -> nn.Module:
    """Return the model as a cell of this seed gets it."""
    torch.manual_seed(seed)
    return architectures.build(
        architecture, num_classes=NUM_CLASSES, image_size=image_size, weights="none"
    )


def batch(number: int, batch_size: int, image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images (B, 3, S, S) and labels (B,) of one step; the same for the same number."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    return images, torch.randint(NUM_CLASSES, (batch_size,), generator=generator)


def backward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Run `model` forward and backward."""
    functional.cross_entropy(model(images), labels).backward()


def train(
    model: nn.Module,
    checkpointing: str = "none",
    *,
    num_steps: int = 2,
    image_size: int = 32,
    batch_size: int = 4,
    seed: int = 0,
) -> Trained:
    """Train `model` for some steps, its segments recomputed as `checkpointing` says."""
    example = torch.zeros(2, 3, image_size, image_size)
    segments, notes = apply_checkpointing(model, checkpointing, example)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    model.train()
    torch.manual_seed(seed)
    for number in range(num_steps):
        optimizer.zero_grad()
        backward(model, *batch(number, batch_size, image_size))
        optimizer.step()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return Trained(model=model, segments=segments, notes=notes, gradients=gradients)


def assert_equal_tensors(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Fail, naming the first, where tensors differ in any bit."""
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), f"{name} differs"
