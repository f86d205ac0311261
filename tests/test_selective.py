"""`checkpointing=activations` keeps convolutions, repeats the cheap operators, and changes no number."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.checkpointing import apply_checkpointing, is_recomputing
from cnnbench.measure.memory import MemoryMeter
from cnnbench.measure.operators import watch
from cnnbench.selective import KeptOutputs
from sample_models import assert_equal_tensors, backward, batch, build, train

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = torch.zeros(2, 3, 32, 32)


def operators(model: nn.Module, *, again: bool) -> Counter[str]:
    """Count the kinds of operators of one step, of the first passes or of those that repeat."""
    images, labels = batch(0, 4, 32)
    seen = watch(lambda: backward(model, images, labels), is_recomputing=is_recomputing)
    return Counter(operation.kind for operation in seen if operation.is_recomputed == again)


def peak_bytes(architecture: str, checkpointing: str) -> int:
    model = build(architecture)
    apply_checkpointing(model, checkpointing, EXAMPLE)
    images, labels = batch(0, 16, 32)

    def step() -> None:
        model.zero_grad()
        backward(model, images, labels)

    step()
    peak = MemoryMeter().read(step, held=lambda: (), data_bytes=0).peak_allocated_bytes
    assert peak is not None
    return peak


def test_what_is_cheap_is_repeated_and_no_product_is() -> None:
    model = build("resnet(width=4,depth=2)")
    plain = operators(model, again=False)
    apply_checkpointing(model, "activations", EXAMPLE)
    assert operators(model, again=False)["convolution"] == plain["convolution"]
    again = operators(model, again=True)
    # 20 BatchNorms forward; what follows the last one that a gradient needs is not run again.
    assert again["normalization"] == 20
    assert again["activation"] >= 8
    assert not again["convolution"]
    assert not again["matmul"]


def test_it_saves_memory_and_less_than_recomputing_all() -> None:
    peaks = [
        peak_bytes("resnet(width=16,depth=2)", name) for name in ("none", "activations", "block")
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 3


class InPlace(nn.Module):
    """A block that overwrites what one of its convolutions gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> Any:
        out = self.first(x)
        out += 1
        return functional.relu(self.norm(self.second(functional.gelu(out))))


class Net(nn.Module):
    """One such block after another, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(InPlace(), nn.Conv2d(8, 3, 1), InPlace())
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.blocks(x).mean((2, 3)))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def test_a_kept_output_that_is_overwritten_is_computed_again() -> None:
    plain, ours = train(made(Net)), train(made(Net), "activations")
    assert ours.segments
    assert_equal_tensors(ours.gradients, plain.gradients)
    assert_equal_tensors(ours.model.state_dict(), plain.model.state_dict())
    # The first convolution of each of both blocks, whose outputs are overwritten.
    assert operators(ours.model, again=True)["convolution"] == 2


def test_what_was_kept_is_let_go_after_the_second_pass() -> None:
    kept = KeptOutputs()
    layer, images = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    with kept.keeping():
        first = layer(images)
    with kept.handing_out():
        second = layer(images)
    assert torch.equal(first, second)
    assert second.data_ptr() == first.data_ptr()
    with kept.handing_out():
        third = layer(images)
    assert third.data_ptr() != first.data_ptr()


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_under_autocast_the_gradients_are_the_plain_ones(name: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    gradients = []
    for checkpointing in ("none", "activations"):
        model = build("resnet(width=4,depth=2)")
        apply_checkpointing(model, checkpointing, EXAMPLE)
        images, labels = batch(0, 4, 32)
        with torch.autocast("cpu", dtype=dtype):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert_equal_tensors(*gradients)


def test_a_compiled_model_keeps_its_statistics_and_gradients() -> None:
    torch.compiler.reset()
    plain = train(made(Net))
    model = made(Net)
    model.compile()
    ours = train(model, "activations")
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-3, atol=1e-4)
    state = ours.model.state_dict()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)
