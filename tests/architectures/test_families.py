"""Our families: sizes, layouts, parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torchvision import models

from cnnbench.architectures import ARCHITECTURES, build, check
from cnnbench.architectures.mbconv_net import MBConvNet, round_channels
from cnnbench.architectures.resnet import ResNet
from cnnbench.architectures.simple_cnn import SimpleCNN
from cnnbench.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = (
    "simple_cnn",
    "simple_cnn(width=3,hidden=7)",
    "resnet(width=8,depth=1)",
    "mbconv_net(width=0.25,depth=0.25)",
    "transfer_resnet50",
    "transfer_resnet50(frozen=False)",
    "transfer_efficientnet_lite0(trainable=all)",
)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_family_classifies_at_its_default_size(name: str) -> None:
    model = build(name, num_classes=13, image_size=32, weights="none")
    check(model, num_classes=13, image_size=32)
    assert model.training


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_family_trains_in_either_layout(
    architecture: str, layout: torch.memory_format
) -> None:
    model = build(architecture, num_classes=4, image_size=32, weights="none")
    model.to(memory_format=layout)
    images = torch.randn(4, 3, 32, 32).to(memory_format=layout)
    torch.autograd.backward(nn.functional.cross_entropy(model(images), torch.arange(4)))
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) is parameter.requires_grad, name
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("architecture", SMALL)
def test_the_layout_does_not_change_the_outputs(architecture: str) -> None:
    # In double precision: layers add up in another order, which shows in the sixth digit of single.
    model = build(architecture, num_classes=4, image_size=32, weights="none").double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", ["simple_cnn", "resnet(width=8)", "mbconv_net(width=0.25)"])
@pytest.mark.parametrize("size", [8, 9, 50])
def test_any_image_size_from_8_works(name: str, size: int) -> None:
    check(build(name, num_classes=3, image_size=size), num_classes=3, image_size=size)


def test_simple_cnn_has_the_documents_number_of_parameters() -> None:
    assert num_parameters(SimpleCNN()) == 268_650


def test_simple_cnn_takes_images_down_to_4_pixels() -> None:
    check(SimpleCNN(image_size=4), num_classes=10, image_size=4)
    with pytest.raises(InvalidValueError, match="image_size = 3"):
        SimpleCNN(image_size=3)


def test_simple_cnn_names_its_stages_for_checkpointing() -> None:
    model = SimpleCNN()
    x = torch.randn(2, 3, 32, 32)
    for name in model.checkpoint_methods:
        x = getattr(model, name)(x)
    assert x.shape == (2, 32, 8, 8)


def test_resnet_is_resnet18_and_the_documents_biases() -> None:
    # torchvision's has a 7x7 stem (64 * 3 * 49 weights) and convolutions without biases.
    reference = num_parameters(models.resnet18(num_classes=10)) - 64 * 3 * 49 + 64 * 3 * 9
    num_biases = 4 * 64 + sum(5 * channels for channels in (128, 256, 512))
    assert num_parameters(ResNet()) == reference + num_biases


def test_resnet_ends_at_4x4_and_depth_counts_blocks() -> None:
    model = ResNet(width=8, depth=3)
    shapes = []
    for name in ("stem", "stage1", "stage2", "stage3", "stage4"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda _module, _args, out: shapes.append(tuple(out.shape[1:]))
        )
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert [len(model.get_submodule(f"stage{n}")) for n in (1, 2, 3, 4)] == [3, 3, 3, 3]  # type: ignore[arg-type]


def test_mbconv_net_is_efficientnet_b0_without_squeeze_and_excitation() -> None:
    reference = models.efficientnet_b0(num_classes=10)
    squeezes = [m for m in reference.modules() if type(m).__name__ == "SqueezeExcitation"]
    # The document's block keeps the expansion at 1: one 32x32 convolution and its normalisation.
    expansion = 32 * 32 + 2 * 32
    expected = num_parameters(reference) - sum(map(num_parameters, squeezes)) + expansion
    assert num_parameters(MBConvNet()) == expected


def test_mbconv_net_ends_at_4x4() -> None:
    model = MBConvNet()
    shapes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _module, _args, out: shapes.append(tuple(out.shape[1:])))
    model(torch.randn(2, 3, 32, 32))
    sizes = [(16, 32), (24, 32), (40, 16), (80, 8), (112, 8), (192, 4), (320, 4)]
    assert shapes == [(channels, size, size) for channels, size in sizes]


def test_mbconv_net_multipliers_follow_efficientnet_b4() -> None:
    # torchvision's B4 is B0 with width 1.4 and depth 1.8; its blocks lie at features[1:8].
    reference = models.efficientnet_b4().features
    model = MBConvNet(width=1.4, depth=1.8)
    assert [len(stage) for stage in model.stages] == [len(reference[i]) for i in range(1, 8)]  # type: ignore[arg-type]
    assert [stage[0].block[-1].num_features for stage in model.stages] == [  # type: ignore[index]
        reference[i][0].out_channels for i in range(1, 8)
    ]


def test_channels_are_multiples_of_8_and_never_lose_a_tenth() -> None:
    for tenth in range(1, 3000):
        channels = tenth / 10
        rounded = round_channels(channels)
        assert rounded % 8 == 0
        assert rounded >= max(8, 0.9 * channels)
        assert rounded - channels < 8


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("simple_cnn(width=0)", "'simple_cnn': width = 0 is impossible"),
        ("simple_cnn(width='a')", "width = 'a'"),
        ("simple_cnn(width=True)", "width = True"),
        ("simple_cnn(hidden=2.5)", "hidden = 2.5"),
        ("resnet(width=-1)", "'resnet': width = -1"),
        ("resnet(depth=0)", "depth = 0"),
        ("resnet(depth=None)", "depth = None"),
        ("mbconv_net(width=0)", "width = 0"),
        ("mbconv_net(width=-0.5)", "width = -0.5"),
        ("mbconv_net(depth=1e999)", "depth = inf"),
        ("mbconv_net(depth=[1])", r"depth = \[1\]"),
        ("transfer_resnet50(frozen=1)", "frozen = 1"),
    ],
)
def test_an_impossible_parameter_is_named(architecture: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        build(architecture, num_classes=10, image_size=32, weights="none")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_family_without_classes_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="num_classes = 0"):
        build(name, num_classes=0, image_size=32, weights="none")


def seeded(build_model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return build_model()


@pytest.mark.parametrize("name", ["simple_cnn", "resnet(width=8)", "mbconv_net(width=0.25)"])
def test_the_same_seed_builds_the_same_model(name: str) -> None:
    first, second = (
        seeded(lambda: build(name, num_classes=10, image_size=32)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
