"""A ResNet of the document's ResidualBlock, for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.blocks import ResidualBlock
from cnnbench.architectures.parameters import require_flag, require_whole
from cnnbench.architectures.style import Style


class ResNet(nn.Module):
    """A 3x3 stem, four stages of residual blocks, global average pooling and a linear layer.

    Widths and strides of the stages are those of He et al., arXiv:1512.03385, table 1, and the
    defaults make the ResNet-18 shape. The paper's stem, a 7x7 convolution and max-pooling, would
    leave a single pixel of a 32x32 image; a 3x3 convolution of stride 1 leaves 4x4.

    Args:
        num_classes: Size of the output.
        width: Channels of the stem and of the first stage; each further stage doubles them.
        depth: Blocks in each stage.
        residual: Whether the blocks have shortcuts; without them this is a plain network.
        kernel_size: Of all convolutions but the shortcuts'; odd.
        activation: `relu`, `silu`, `gelu` or `leaky_relu`.
        normalization: `batch` or `none`.
        norm_placement: `before_activation` or `after_activation`; see `ResidualBlock`.
        convolution: `dense` or `depthwise_separable`; the stem and the shortcuts stay dense.

    Raises:
        InvalidValueError: A value that is impossible.
    """

    def __init__(  # noqa: PLR0913 (what the brackets may hold)
        self,
        *,
        num_classes: int = 10,
        width: int = 64,
        depth: int = 2,
        residual: bool = True,
        kernel_size: int = 3,
        activation: str = "relu",
        normalization: str = "batch",
        norm_placement: str = "before_activation",
        convolution: str = "dense",
    ) -> None:
        """Build with PyTorch's default initialisation."""
        require_whole(num_classes=num_classes, width=width, depth=depth)
        require_flag(residual=residual)
        style = Style(
            kernel_size=kernel_size,
            activation=activation,
            normalization=normalization,
            norm_placement=norm_placement,
            convolution=convolution,
        )
        super().__init__()
        self.stem = nn.Sequential(
            style.convolve_densely(3, width, bias=not style.is_normalized),
            *style.finishing(width),
        )

        def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
            first = ResidualBlock(in_channels, out_channels, stride, style=style, residual=residual)
            blocks = nn.Sequential(first)
            for _ in range(depth - 1):
                blocks.append(
                    ResidualBlock(out_channels, out_channels, style=style, residual=residual)
                )
            return blocks

        self.stage1 = stage(width, width, 1)
        self.stage2 = stage(width, 2 * width, 2)
        self.stage3 = stage(2 * width, 4 * width, 2)
        self.stage4 = stage(4 * width, 8 * width, 2)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, height, width)."""
        x = self.stem(x)
        x = self.stage1(x)
        x = self.stage2(x)
        x = self.stage3(x)
        x = self.stage4(x)
        x = functional.adaptive_avg_pool2d(x, 1)
        logits: Tensor = self.fc(x.flatten(1))
        return logits
