"""A ResNet of the document's ResidualBlock, for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.blocks import ResidualBlock
from cnnbench.architectures.parameters import require_whole


class ResNet(nn.Module):
    """A 3x3 stem, four stages of residual blocks, global average pooling and a linear layer.

    Widths and strides of the stages are those of He et al., arXiv:1512.03385, table 1, and the
    defaults make the ResNet-18 shape. The paper's stem, a 7x7 convolution and max-pooling, would
    leave a single pixel of a 32x32 image; a 3x3 convolution of stride 1 leaves 4x4.

    Args:
        num_classes: Size of the output.
        width: Channels of the stem and of the first stage; each further stage doubles them.
        depth: Blocks in each stage.

    Raises:
        InvalidValueError: A size that is impossible.
    """

    def __init__(self, *, num_classes: int = 10, width: int = 64, depth: int = 2) -> None:
        """Build with PyTorch's default initialisation."""
        require_whole(num_classes=num_classes, width=width, depth=depth)
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.stage1 = _stage(width, width, stride=1, depth=depth)
        self.stage2 = _stage(width, 2 * width, stride=2, depth=depth)
        self.stage3 = _stage(2 * width, 4 * width, stride=2, depth=depth)
        self.stage4 = _stage(4 * width, 8 * width, stride=2, depth=depth)
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


def _stage(in_channels: int, out_channels: int, *, stride: int, depth: int) -> nn.Sequential:
    blocks = [ResidualBlock(in_channels, out_channels, stride)]
    blocks += [ResidualBlock(out_channels, out_channels) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
