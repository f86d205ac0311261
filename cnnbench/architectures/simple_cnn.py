"""The document's first network: two convolutions, two linear layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.parameters import require_whole


class SimpleCNN(nn.Module):
    """Two 3x3 convolutions, each followed by max-pooling, then two linear layers.

    The document's own (section 1), for any image size, number of classes and width. With its
    defaults it has 268,650 parameters, and the document's checkpoints load into it. The document
    flattens by `view(-1, 32 * 8 * 8)`, which fails on channels_last tensors and, at another image
    size, folds pixels into the batch unnoticed; `flatten(1)` does neither.

    Args:
        num_classes: Size of the output.
        image_size: Side of the square images in pixels, at least 4.
        width: Channels of the first convolution; the second has twice as many.
        hidden: Size of the first linear layer's output.

    Raises:
        InvalidValueError: A size that is impossible.
    """

    checkpoint_methods = ("stage1", "stage2")

    def __init__(
        self, *, num_classes: int = 10, image_size: int = 32, width: int = 16, hidden: int = 128
    ) -> None:
        """Build with PyTorch's default initialisation."""
        require_whole(num_classes=num_classes, width=width, hidden=hidden)
        require_whole(image_size=image_size, low=4)
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(2 * width * (image_size // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, image_size, image_size)."""
        x = self.stage1(x)
        x = self.stage2(x)
        x = functional.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits

    def stage1(self, x: Tensor) -> Tensor:
        """Return (batch, width, image_size / 2, image_size / 2)."""
        return functional.max_pool2d(functional.relu(self.conv1(x)), 2)

    def stage2(self, x: Tensor) -> Tensor:
        """Return (batch, 2 * width, image_size / 4, image_size / 4)."""
        return functional.max_pool2d(functional.relu(self.conv2(x)), 2)
