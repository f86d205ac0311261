"""The document's first network: two convolutions, two linear layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.parameters import require_whole
from cnnbench.architectures.style import Style


class SimpleCNN(nn.Module):
    """Two 3x3 convolutions, each followed by ReLU and max-pooling, then two linear layers.

    The document's own (section 1), for any image size, number of classes and width. With its
    defaults it has 268,650 parameters, and the document's checkpoints load into it. The document
    flattens by `view(-1, 32 * 8 * 8)`, which fails on channels_last tensors and, at another image
    size, folds pixels into the batch unnoticed; `flatten(1)` does neither.

    Args:
        num_classes: Size of the output.
        image_size: Side of the square images in pixels, at least 4.
        width: Channels of the first convolution; the second has twice as many.
        hidden: Size of the first linear layer's output.
        kernel_size: Of both convolutions; odd.
        activation: `relu`, `silu`, `gelu` or `leaky_relu`, of the first linear layer as well.
        normalization: `none` or `batch`, of the convolutions' outputs.
        norm_placement: `before_activation` or `after_activation`.
        convolution: `dense` or `depthwise_separable`; the first, on three colours, stays dense.

    Raises:
        InvalidValueError: A value that is impossible.
    """

    checkpoint_methods = ("stage1", "stage2")

    def __init__(  # noqa: PLR0913 (what the brackets may hold)
        self,
        *,
        num_classes: int = 10,
        image_size: int = 32,
        width: int = 16,
        hidden: int = 128,
        kernel_size: int = 3,
        activation: str = "relu",
        normalization: str = "none",
        norm_placement: str = "before_activation",
        convolution: str = "dense",
    ) -> None:
        """Build with PyTorch's default initialisation."""
        require_whole(num_classes=num_classes, width=width, hidden=hidden)
        require_whole(image_size=image_size, low=4)
        super().__init__()
        self.style = Style(
            kernel_size=kernel_size,
            activation=activation,
            normalization=normalization,
            norm_placement=norm_placement,
            convolution=convolution,
        )
        self.conv1 = self.style.convolve_densely(3, width)
        self.norm1 = self.style.normalize(width)
        self.conv2 = self.style.convolve(width, 2 * width)
        self.norm2 = self.style.normalize(2 * width)
        self.fc1 = nn.Linear(2 * width * (image_size // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, image_size, image_size)."""
        x = self.stage1(x)
        x = self.stage2(x)
        x = self.style.activate(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits

    def stage1(self, x: Tensor) -> Tensor:
        """Return (batch, width, image_size / 2, image_size / 2)."""
        return functional.max_pool2d(self.style.finish(self.conv1(x), self.norm1), 2)

    def stage2(self, x: Tensor) -> Tensor:
        """Return (batch, 2 * width, image_size / 4, image_size / 4)."""
        return functional.max_pool2d(self.style.finish(self.conv2(x), self.norm2), 2)
