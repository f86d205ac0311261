"""A network like EfficientNet of the document's MBConv, for small images."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.blocks import MBConv
from cnnbench.architectures.parameters import (
    require_choice,
    require_positive,
    require_whole,
)
from cnnbench.architectures.style import ACTIVATIONS

# Expansion, kernel size, stride, channels and number of blocks of each stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 1, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConvNet(nn.Module):
    """A 3x3 stem, seven stages of MBConv, a 1x1 head, global average pooling and a linear layer.

    `STAGES` is EfficientNet-B0 of Tan and Le, arXiv:1905.11946, table 1, except for two strides:
    the stem and the second stage have 1 instead of 2, so that a 32x32 image ends as 4x4, not as a
    single pixel. There is no dropout, and no squeeze-and-excitation (see `MBConv`).

    Args:
        num_classes: Size of the output.
        width: Multiplies the channels, rounded by `round_channels`; below 1 the head stays as wide.
        depth: Multiplies the number of blocks of each stage, rounded up.
        activation: One of `style.ACTIVATIONS`.

    Raises:
        InvalidValueError: A value that is impossible.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        width: float = 1.0,
        depth: float = 1.0,
        activation: str = "silu",
    ) -> None:
        """Build with PyTorch's default initialisation."""
        require_whole(num_classes=num_classes)
        require_positive(width=width, depth=depth)
        require_choice("activation", activation, ACTIVATIONS)
        super().__init__()
        in_channels = round_channels(32 * width)
        self.stem = _conv_bn_act(3, in_channels, kernel_size=3, activation=activation)
        self.stages = nn.Sequential()
        for expansion, kernel_size, stride, base_channels, base_depth in STAGES:
            channels = round_channels(base_channels * width)
            stage = nn.Sequential()
            for number in range(math.ceil(base_depth * depth)):
                sizes = (in_channels, channels, expansion, kernel_size, 1 if number else stride)
                stage.append(MBConv(*sizes, activation=activation))
                in_channels = channels
            self.stages.append(stage)
        head_channels = round_channels(1280 * max(1, width))
        self.head = _conv_bn_act(in_channels, head_channels, kernel_size=1, activation=activation)
        self.fc = nn.Linear(head_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = self.stem(x)
        x = self.stages(x)
        x = self.head(x)
        x = functional.adaptive_avg_pool2d(x, 1)
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def round_channels(channels: float) -> int:
    """Round to a multiple of 8, at least 8, and never below 90 % of `channels`.

    As `round_filters` of the EfficientNet authors' code does.

    >>> round_channels(20), round_channels(8.8), round_channels(11)
    (24, 8, 16)
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv_bn_act(
    in_channels: int, out_channels: int, *, kernel_size: int, activation: str
) -> nn.Sequential:
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False),
        nn.BatchNorm2d(out_channels),
        ACTIVATIONS[activation][1](),
    )
