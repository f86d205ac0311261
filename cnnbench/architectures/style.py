"""What a network's layers are made of: convolution, normalisation, activation, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from cnnbench.architectures.parameters import require_choice, require_odd

if TYPE_CHECKING:
    from collections.abc import Callable

# Each as a function and as a module. GELU is the exact one, LeakyReLU's slope is PyTorch's 0.01.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module]]] = {
    "relu": (functional.relu, nn.ReLU),
    "silu": (functional.silu, nn.SiLU),
    "gelu": (functional.gelu, nn.GELU),
    "leaky_relu": (functional.leaky_relu, nn.LeakyReLU),
}
NORMALIZATIONS = ("none", "batch")
NORM_PLACEMENTS = ("before_activation", "after_activation")
CONVOLUTIONS = ("dense", "depthwise_separable")


@dataclass(frozen=True, kw_only=True)
class Style:
    """How each layer of a network is made; the defaults are the document's ResidualBlock.

    Args:
        kernel_size: Of the convolutions that look around; odd, so that padding keeps the size.
        activation: One of `ACTIVATIONS`.
        normalization: One of `NORMALIZATIONS`.
        norm_placement: Whether the normalisation comes `before_activation` (convolution,
            normalisation, activation: Ioffe and Szegedy, arXiv:1502.03167) or `after_activation`.
        convolution: `dense`, or `depthwise_separable`: one filter a channel, then a 1x1 convolution,
            nothing in between (Chollet, "Xception", arXiv:1610.02357).

    Raises:
        InvalidValueError: A choice that there is none of, or an even size.
    """

    kernel_size: int = 3
    activation: str = "relu"
    normalization: str = "batch"
    norm_placement: str = "before_activation"
    convolution: str = "dense"

    def __post_init__(self) -> None:
        """Refuse what no layer can be made of."""
        require_odd(kernel_size=self.kernel_size)
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("normalization", self.normalization, NORMALIZATIONS)
        require_choice("norm_placement", self.norm_placement, NORM_PLACEMENTS)
        require_choice("convolution", self.convolution, CONVOLUTIONS)

    @property
    def is_normalized(self) -> bool:
        """Say whether there is any normalisation."""
        return self.normalization != "none"

    def convolve(
        self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True
    ) -> nn.Module:
        """Return a convolution that keeps the size of its input, or divides it by `stride`."""
        if self.convolution == "dense":
            return self.convolve_densely(in_channels, out_channels, stride=stride, bias=bias)
        size, padding = self.kernel_size, self.kernel_size // 2
        # A bias of the first would only be a part of the second's.
        return nn.Sequential(
            nn.Conv2d(
                in_channels, in_channels, size, stride, padding, groups=in_channels, bias=False
            ),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias),
        )

    def convolve_densely(
        self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True
    ) -> nn.Conv2d:
        """Return a dense convolution whatever the style: what looks at the three colours is one.

        So it is in MobileNet (Howard et al., arXiv:1704.04861, table 1): there is little to separate.
        """
        padding = self.kernel_size // 2
        return nn.Conv2d(in_channels, out_channels, self.kernel_size, stride, padding, bias=bias)

    def normalize(self, channels: int) -> nn.Module | None:
        """Return a normalisation of `channels`, or `None` where there is none."""
        return nn.BatchNorm2d(channels) if self.is_normalized else None

    def activate(self, x: Tensor) -> Tensor:
        """Return the activation of `x`."""
        return ACTIVATIONS[self.activation][0](x)

    def finish(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """Return what follows a convolution: `norm`, where there is one, and the activation."""
        if norm is None:
            return self.activate(x)
        if self.norm_placement == "after_activation":
            return norm(self.activate(x))  # type: ignore[no-any-return]
        return self.activate(norm(x))

    def finishing(self, channels: int) -> tuple[nn.Module, ...]:
        """Return what `finish` does as modules, for a row of them."""
        norm, activation = self.normalize(channels), ACTIVATIONS[self.activation][1]()
        if norm is None:
            return (activation,)
        if self.norm_placement == "after_activation":
            return (activation, norm)
        return (norm, activation)


RESIDUAL = Style()
