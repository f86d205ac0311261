"""A network that is slower by a measured amount: a planted regression that a comparison must find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cnnbench.architectures.resnet import ResNet

if TYPE_CHECKING:
    import torch


class SlowedResNet(ResNet):
    """A ResNet with one more convolution, over its images, that changes no logit.

    Args:
        num_classes: size of the output.
        width: as ResNet's.
        depth: as ResNet's.
        extra: channels of the convolution; 0 adds none.
    """

    def __init__(
        self, *, num_classes: int = 10, width: int = 16, depth: int = 1, extra: int = 0
    ) -> None:
        """Build the network and the convolution."""
        super().__init__(num_classes=num_classes, width=width, depth=depth)
        self.ballast = nn.Conv2d(3, extra, kernel_size=3, padding=1) if extra else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, height, width)."""
        logits = super().forward(x)
        return logits if self.ballast is None else logits + 0.0 * self.ballast(x).mean()
