"""Operations of single layers, forward and backward, equal what their shapes say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.measure.operators import watch

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_IMAGES, SIDE = 2, 12


def never() -> bool:
    return False


def flops(step: Callable[[], object]) -> int:
    def run() -> None:
        step()

    return sum(operation.flops for operation in watch(run, is_recomputing=never))


def images(channels: int, *, requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(NUM_IMAGES, channels, SIDE, SIDE, requires_grad=requires_grad)


# Each with its side after it and the operations of its forward pass.
CONVOLUTIONS = {
    "dense": (nn.Conv2d(6, 8, 3, padding=1), 2 * NUM_IMAGES * 12 * 12 * 8 * 6 * 9),
    "without padding": (nn.Conv2d(6, 8, 3), 2 * NUM_IMAGES * 10 * 10 * 8 * 6 * 9),
    "with a bias": (nn.Conv2d(6, 8, 3, bias=True), 2 * NUM_IMAGES * 10 * 10 * 8 * 6 * 9),
    "oblong": (nn.Conv2d(6, 8, (1, 5)), 2 * NUM_IMAGES * 12 * 8 * 8 * 6 * 5),
    "strided": (nn.Conv2d(6, 8, 3, stride=2, padding=1), 2 * NUM_IMAGES * 6 * 6 * 8 * 6 * 9),
    "dilated": (nn.Conv2d(6, 8, 3, dilation=2), 2 * NUM_IMAGES * 8 * 8 * 8 * 6 * 9),
    "1x1": (nn.Conv2d(6, 8, 1), 2 * NUM_IMAGES * 12 * 12 * 8 * 6),
    "grouped": (nn.Conv2d(6, 9, 3, padding=1, groups=3), 2 * NUM_IMAGES * 12 * 12 * 9 * 2 * 9),
    "depthwise": (nn.Conv2d(6, 6, 5, padding=2, groups=6), 2 * NUM_IMAGES * 12 * 12 * 6 * 25),
    "strided depthwise": (
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6),
        2 * NUM_IMAGES * 6 * 6 * 6 * 9,
    ),
    # It meets each position of its input.
    "transposed": (nn.ConvTranspose2d(6, 8, 2, stride=2), 2 * NUM_IMAGES * 12 * 12 * 6 * 8 * 4),
    "transposed and grouped": (
        nn.ConvTranspose2d(6, 8, 3, groups=2),
        2 * NUM_IMAGES * 12 * 12 * 6 * 4 * 9,
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_takes_what_its_shape_says_and_as_much_again_for_each_gradient(
    name: str,
) -> None:
    layer, forward = CONVOLUTIONS[name]
    assert flops(lambda: layer(images(6))) == forward
    assert flops(lambda: layer(images(6)).sum().backward()) == 3 * forward
    # The first layer of a network needs no gradient of its input, and a frozen one none of its weight.
    assert flops(lambda: layer(images(6, requires_grad=False)).sum().backward()) == 2 * forward
    layer.weight.requires_grad_(False)  # noqa: FBT003 (PyTorch's way)
    assert flops(lambda: layer(images(6)).sum().backward()) == 2 * forward
    layer.weight.requires_grad_()


def test_a_linear_layer_takes_two_operations_a_weight_and_row_and_as_much_for_each_gradient() -> (
    None
):
    layer, forward = nn.Linear(7, 5), 2 * 3 * 7 * 5
    assert flops(lambda: layer(torch.randn(3, 7))) == forward
    assert flops(lambda: layer(torch.randn(3, 7)).sum().backward()) == 2 * forward
    assert flops(lambda: layer(torch.randn(3, 7, requires_grad=True)).sum().backward()) == (
        3 * forward
    )


def test_products_with_vectors_count() -> None:
    matrix, vector = torch.randn(7, 5), torch.randn(5)
    assert flops(lambda: matrix @ vector) == 2 * 7 * 5
    assert flops(lambda: torch.addmv(torch.zeros(7), matrix, vector)) == 2 * 7 * 5
    assert flops(lambda: vector @ vector) == 2 * 5


def test_attention_and_batched_products_count() -> None:
    rows = torch.randn(2, 3, 4, 8)  # batch, heads, positions, features
    attention = nn.functional.scaled_dot_product_attention
    assert flops(lambda: attention(rows, rows, rows)) == 2 * (2 * 2 * 3 * 4 * 4 * 8)
    rows.requires_grad_()
    # The scores again, and two products for each of the two.
    backward = flops(lambda: attention(rows, rows, rows).sum().backward())
    assert backward == (2 + 5) * (2 * 2 * 3 * 4 * 4 * 8)
    assert flops(lambda: torch.bmm(rows[0], rows[0].detach().mT)) == 2 * 3 * 4 * 4 * 8


def test_what_is_no_product_counts_nothing() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    assert flops(lambda: layers(images(6)).sum().backward()) == 0


def test_pytorchs_own_counter_still_overcounts_a_depthwise_layer() -> None:
    """Once this fails, `_convolution_backward` in cnnbench.measure.flops can go."""
    channels = 16
    layer = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    forward = flops(lambda: layer(images(channels)))
    with FlopCounterMode(display=False) as counter:
        layer(images(channels)).sum().backward()
    assert flops(lambda: layer(images(channels)).sum().backward()) == 3 * forward
    # The weight's gradient counts as if every channel met every other.
    assert counter.get_total_flops() == (2 + channels) * forward
