"""The document's two building blocks, letter for letter, so that its checkpoints load."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut around them.

    The document's own (section 2). Its convolutions keep their biases, although the batch
    normalisation after each of them cancels these. After He et al., "Deep Residual Learning for
    Image Recognition", arXiv:1512.03385, figure 2.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution. The shortcut is a 1x1 convolution where this is not 1 or
            the numbers of channels differ.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        """Build with PyTorch's default initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)

        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride), rounded up."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class MBConv(nn.Module):
    """An inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection.

    The document's own (section 2). EfficientNet's block also has squeeze-and-excitation, and leaves
    out the first convolution where `expansion` is 1. After Sandler et al., "MobileNetV2",
    arXiv:1801.04381, figure 3, and Tan and Le, "EfficientNet", arXiv:1905.11946.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: How many times wider than the input the depthwise convolution is.
        kernel_size: Of the depthwise convolution; odd.
        stride: Of the depthwise convolution. The input is added to the output where this is 1 and
            the numbers of channels are equal.
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int
    ) -> None:
        """Build with PyTorch's default initialisation."""
        super().__init__()
        expanded = in_channels * expansion
        padding = kernel_size // 2
        self.block = nn.Sequential(
            nn.Conv2d(in_channels, expanded, kernel_size=1, bias=False),
            nn.BatchNorm2d(expanded),
            nn.SiLU(),
            nn.Conv2d(
                expanded, expanded, kernel_size, stride, padding, groups=expanded, bias=False
            ),
            nn.BatchNorm2d(expanded),
            nn.SiLU(),
            nn.Conv2d(expanded, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.use_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride), rounded up."""
        out: Tensor = self.block(x)
        return x + out if self.use_residual else out
