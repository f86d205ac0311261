"""Costs counted without running anything, and the width at which two networks cost the same."""

from __future__ import annotations

import pytest
import torch

from cnnbench.architectures import build
from cnnbench.errors import InvalidValueError
from cnnbench.measure.equal_cost import (
    forward_flops,
    match,
    num_parameters,
    width_of_equal_flops,
    width_of_equal_parameters,
    with_width,
)

SEPARABLE = "simple_cnn(convolution=depthwise_separable)"


def test_forward_operations_are_the_analytic_count() -> None:
    first = 2 * 32**2 * 16 * 3 * 9
    second = 2 * 16**2 * 32 * 16 * 9
    linear = 2 * (32 * 8 * 8 * 128 + 128 * 10)
    assert forward_flops("simple_cnn") == first + second + linear
    separable = 2 * 16**2 * (16 * 9 + 16 * 32)
    assert forward_flops(SEPARABLE) == first + separable + linear
    assert forward_flops("simple_cnn(activation=gelu,normalization=batch)") == (
        first + second + linear
    )


def test_operations_depend_on_image_size_and_classes() -> None:
    assert forward_flops("simple_cnn", 20, 32) - forward_flops("simple_cnn") == 2 * 128 * 10
    assert forward_flops("simple_cnn", 10, 16) < forward_flops("simple_cnn") / 3


def test_parameters_are_counted_as_those_of_the_model() -> None:
    assert num_parameters("simple_cnn") == 268_650
    assert num_parameters("resnet(width=8)", 7, 16) == sum(
        p.numel() for p in build("resnet(width=8)", num_classes=7, image_size=16).parameters()
    )


def test_nothing_is_allocated_and_no_random_number_drawn() -> None:
    before = torch.get_rng_state()
    # 4 TB of weights.
    assert num_parameters("simple_cnn(width=16384,hidden=1000000)") > 10**12 / 2
    assert torch.equal(torch.get_rng_state(), before)


PAIRS = [
    ("simple_cnn", SEPARABLE),
    ("resnet(width=16,depth=1)", "resnet(depth=1,convolution=depthwise_separable)"),
    ("resnet(width=64)", "resnet(residual=false)"),
]


@pytest.mark.parametrize(
    ("baseline", "variant"),
    [
        *PAIRS,
        ("simple_cnn", "simple_cnn(kernel_size=5)"),
        ("simple_cnn", "simple_cnn(kernel_size=7)"),
        ("simple_cnn(width=64)", "simple_cnn(kernel_size=5)"),
    ],
)
def test_the_found_width_takes_as_many_operations_within_2_percent(
    baseline: str, variant: str
) -> None:
    width = width_of_equal_flops(baseline, variant, num_classes=10, image_size=32)
    found = forward_flops(with_width(variant, width))
    assert found == pytest.approx(forward_flops(baseline), rel=0.02)


@pytest.mark.parametrize(("baseline", "variant"), PAIRS)
def test_the_found_width_has_as_many_parameters_within_2_percent(
    baseline: str, variant: str
) -> None:
    width = width_of_equal_parameters(baseline, variant, num_classes=10, image_size=32)
    found = num_parameters(with_width(variant, width))
    assert found == pytest.approx(num_parameters(baseline), rel=0.02)


def test_the_found_width_is_the_nearest() -> None:
    found = match(forward_flops, "simple_cnn", SEPARABLE, 10, 32)
    for width in (found.width - 1, found.width + 1):
        cost = forward_flops(with_width(SEPARABLE, width))
        assert abs(cost - found.baseline_cost) > abs(found.cost - found.baseline_cost)
    assert found.difference == pytest.approx(found.cost / found.baseline_cost - 1)


def test_a_network_costs_as_much_as_itself() -> None:
    assert width_of_equal_flops("resnet(width=23)", "resnet(width=5)") == 23


def test_what_cannot_be_matched_closely_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="Choose a wider baseline"):
        width_of_equal_flops("resnet(width=2,depth=1)", "resnet(depth=1,kernel_size=7)")
    with pytest.raises(InvalidValueError, match="unknown parameter 'width'"):
        width_of_equal_flops("simple_cnn", "transfer_efficientnet_lite0")
