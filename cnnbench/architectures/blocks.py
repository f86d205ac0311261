"""The document's two building blocks, whose checkpoints load, and what the studies vary in them."""

from __future__ import annotations

from torch import Tensor, nn

from cnnbench.architectures.style import ACTIVATIONS, RESIDUAL, Style


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut around them.

    The document's own (section 2) by default. Its convolutions keep their biases, although the batch
    normalisation after each of them cancels these. After He et al., "Deep Residual Learning for
    Image Recognition", arXiv:1512.03385, figure 2.

    With the normalisation `after_activation` each convolution is followed by activation, then
    normalisation, and the shortcut is added last: two activations as before, and the shortcut stays
    as clear. Without normalisation the shortcut has none either.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution. The shortcut is a 1x1 convolution where this is not 1 or
            the numbers of channels differ.
        style: What the layers are made of.
        residual: Whether there is a shortcut at all; without one this is He et al.'s plain network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        style: Style = RESIDUAL,
        residual: bool = True,
    ) -> None:
        """Build with PyTorch's default initialisation."""
        super().__init__()
        self.style = style
        self.conv1 = style.convolve(in_channels, out_channels, stride=stride)
        self.bn1 = style.normalize(out_channels)
        self.conv2 = style.convolve(out_channels, out_channels)
        self.bn2 = style.normalize(out_channels)

        self.shortcut = nn.Sequential() if residual else None
        if self.shortcut is not None and (stride != 1 or in_channels != out_channels):
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride))
            norm = style.normalize(out_channels)
            if norm is not None:
                self.shortcut.append(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride), rounded up."""
        out = self.style.finish(self.conv1(x), self.bn1)
        out = self.conv2(out)
        if self.style.norm_placement == "after_activation":
            out = self.style.finish(out, self.bn2)
            return out if self.shortcut is None else out + self.shortcut(x)
        if self.bn2 is not None:
            out = self.bn2(out)
        if self.shortcut is not None:
            out += self.shortcut(x)
        return self.style.activate(out)


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
        activation: One of `style.ACTIVATIONS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        kernel_size: int,
        stride: int,
        *,
        activation: str = "silu",
    ) -> None:
        """Build with PyTorch's default initialisation."""
        super().__init__()
        expanded = in_channels * expansion
        padding = kernel_size // 2
        activate = ACTIVATIONS[activation][1]
        self.block = nn.Sequential(
            nn.Conv2d(in_channels, expanded, kernel_size=1, bias=False),
            nn.BatchNorm2d(expanded),
            activate(),
            nn.Conv2d(
                expanded, expanded, kernel_size, stride, padding, groups=expanded, bias=False
            ),
            nn.BatchNorm2d(expanded),
            activate(),
            nn.Conv2d(expanded, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.use_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out_channels, height / stride, width / stride), rounded up."""
        out: Tensor = self.block(x)
        return x + out if self.use_residual else out
