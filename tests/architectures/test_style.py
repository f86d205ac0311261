"""What the studies vary in our families: each choice changes what it names, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.architectures import build, check
from cnnbench.architectures.blocks import ResidualBlock
from cnnbench.architectures.style import ACTIVATIONS, Style
from cnnbench.errors import InvalidValueError
from sample_models import assert_equal_tensors, train

if TYPE_CHECKING:
    from collections.abc import Callable

STYLED = (
    "simple_cnn(width=4,hidden=16,normalization=batch)",
    "simple_cnn(width=4,hidden=16,normalization=batch,norm_placement=after_activation)",
    "simple_cnn(width=4,hidden=16,convolution=depthwise_separable,kernel_size=5)",
    "simple_cnn(width=4,hidden=16,activation=gelu)",
    "resnet(width=4,depth=1,normalization=none)",
    "resnet(width=4,depth=1,norm_placement=after_activation)",
    "resnet(width=4,depth=2,residual=false,activation=leaky_relu)",
    "resnet(width=4,depth=1,convolution=depthwise_separable,kernel_size=5)",
    "mbconv_net(width=0.25,depth=0.25,activation=relu)",
)


def model(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    return build(architecture, num_classes=10, image_size=32)


def num_parameters(architecture: str) -> int:
    return sum(parameter.numel() for parameter in model(architecture).parameters())


def added(architecture: str, parameters: str) -> int:
    """Return how many parameters more `architecture` has with these in its brackets."""
    name, _, rest = architecture.partition("(")
    inside = f"{rest.removesuffix(')')},{parameters}" if rest else parameters
    return num_parameters(f"{name}({inside})") - num_parameters(architecture)


@pytest.mark.parametrize("architecture", STYLED)
def test_every_style_classifies_at_any_size(architecture: str) -> None:
    for size in (8, 9, 32):
        check(build(architecture, num_classes=3, image_size=size), num_classes=3, image_size=size)


@pytest.mark.parametrize("architecture", STYLED)
@pytest.mark.parametrize("checkpointing", ["stage", "block"])
def test_checkpointing_changes_neither_gradients_nor_statistics_of_any_style(
    architecture: str, checkpointing: str
) -> None:
    plain, ours = (train(model(architecture), how) for how in ("none", checkpointing))
    assert ours.segments
    assert_equal_tensors(ours.gradients, plain.gradients)
    assert_equal_tensors(ours.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize(
    "architecture", ["simple_cnn", "resnet(width=4)", "mbconv_net(width=0.25)"]
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_changes_the_outputs_and_no_parameter(
    architecture: str, activation: str
) -> None:
    name = architecture.rstrip(")") + ("," if "(" in architecture else "(")
    plain, ours = model(architecture), model(f"{name}activation={activation})")
    assert_equal_tensors(dict(ours.state_dict()), dict(plain.state_dict()))
    images = torch.randn(2, 3, 32, 32)
    default = "silu" if "mbconv" in architecture else "relu"
    assert torch.equal(ours(images), plain(images)) is (activation == default)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("silu", lambda x: x * x.sigmoid()),
        ("gelu", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
    ],
)
def test_an_activation_is_its_formula_as_a_function_and_as_a_module(
    activation: str, formula: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = torch.linspace(-4, 4, 101)
    function, module = ACTIVATIONS[activation]
    torch.testing.assert_close(function(x), formula(x))
    assert torch.equal(module()(x), function(x))


def test_a_larger_kernel_has_as_many_weights_more_as_its_area() -> None:
    for size in (1, 5, 7):
        more = size**2 - 3**2
        assert added("simple_cnn", f"kernel_size={size}") == more * (3 * 16 + 16 * 32)
    # The stem, then of each stage two convolutions; the shortcuts stay 1x1.
    stages = 4 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 32 + 32 * 32
    assert added("resnet(width=4,depth=1)", "kernel_size=5") == (25 - 9) * (3 * 4 + stages)


def test_normalisation_adds_a_factor_and_a_shift_per_channel() -> None:
    assert added("simple_cnn", "normalization=batch") == 2 * (16 + 32)
    norms = 4 + 2 * 4 + 3 * (8 + 16 + 32)
    # What the batch normalisation after it makes needless, the bare stem has: a bias.
    assert added("resnet(width=4,depth=1)", "normalization=none") == 4 - 2 * norms


def test_without_normalisation_there_is_none_anywhere() -> None:
    bare = model("resnet(width=4,normalization=none)")
    assert not [m for m in bare.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not list(bare.buffers())


def test_separable_convolutions_have_one_filter_a_channel_and_a_1x1_convolution() -> None:
    dense, separable = 9 * 16 * 32, 9 * 16 + 16 * 32
    assert added("simple_cnn", "convolution=depthwise_separable") == separable - dense
    pairs = [(4, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)]
    saved = sum(9 * a * b - (9 * a + a * b) for a, b in pairs)
    assert added("resnet(width=4,depth=1)", "convolution=depthwise_separable") == -saved


def test_without_shortcuts_their_projections_are_gone_too() -> None:
    projections = sum(a * b + b + 2 * b for a, b in [(4, 8), (8, 16), (16, 32)])
    assert added("resnet(width=4,depth=3)", "residual=false") == -projections
    block = ResidualBlock(4, 4, residual=False).eval()
    x = torch.randn(2, 4, 5, 5)
    expected = functional.relu(block.conv2(functional.relu(block.conv1(x) * SCALE)) * SCALE)
    torch.testing.assert_close(block(x), expected)


# A fresh batch normalisation in evaluation mode divides by the root of 1 and its epsilon.
SCALE = (1 + 1e-5) ** -0.5


def test_the_placement_moves_the_normalisation_behind_the_activation() -> None:
    after = Style(norm_placement="after_activation")
    x = torch.randn(4, 3, 8, 8)
    norm = nn.BatchNorm2d(3)
    torch.testing.assert_close(after.finish(x, norm), norm(functional.relu(x)))
    torch.testing.assert_close(Style().finish(x, norm), functional.relu(norm(x)))
    for style in (Style(), after):
        row = nn.Sequential(*style.finishing(3))
        torch.testing.assert_close(row(x), style.finish(x, norm))
    for architecture in ("simple_cnn(normalization=batch)", "resnet(width=4,depth=1)"):
        assert added(architecture, "norm_placement=after_activation") == 0
        moved = model(f"{architecture[:-1]},norm_placement=after_activation)")
        assert not torch.equal(moved(x_of(32)), model(architecture)(x_of(32)))


def x_of(size: int) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_with_the_normalisation_behind_the_shortcut_is_added_last() -> None:
    block = ResidualBlock(3, 3, style=Style(norm_placement="after_activation"))
    x = x_of(8)
    out = block.bn1(functional.relu(block.conv1(x)))  # type: ignore[misc]
    out = block.bn2(functional.relu(block.conv2(out)))  # type: ignore[misc]
    torch.testing.assert_close(block(x), out + x)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("simple_cnn(kernel_size=4)", "kernel_size = 4 is impossible: it must be an odd"),
        ("simple_cnn(kernel_size=-1)", "kernel_size = -1"),
        ("resnet(kernel_size=true)", "kernel_size = True"),
        ("resnet(activation=swish)", "unknown activation 'swish'.* There are: relu, silu"),
        ("mbconv_net(activation=1)", "unknown activation '1'"),
        ("simple_cnn(normalization=layer)", "unknown normalization 'layer'"),
        ("resnet(norm_placement=before_activations)", "Did you mean 'before_activation'"),
        ("resnet(convolution=separable)", "Did you mean 'depthwise_separable'"),
        ("resnet(residual=no)", "residual = 'no' is impossible: it must be True or False"),
    ],
)
def test_an_impossible_choice_is_answered_with_those_there_are(
    architecture: str, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        build(architecture, num_classes=10, image_size=32)
    assert "\n" not in str(caught.value)
