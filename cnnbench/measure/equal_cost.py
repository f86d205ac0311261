"""The width at which one network costs as much as another: counted on no device, so in no time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cnnbench import architectures
from cnnbench.cell import parse_call
from cnnbench.errors import InvalidValueError
from cnnbench.measure.operators import OperatorWatch

if TYPE_CHECKING:
    from collections.abc import Callable

# Channels are whole: narrow networks cannot be matched more closely than this, and beyond it
# "equal" would be the wrong word.
MAX_DIFFERENCE = 0.05
MAX_WIDTH = 4096


@dataclass(frozen=True, kw_only=True)
class Match:
    """The width found; `cost` is the variant's at it and `baseline_cost` what it was to be."""

    width: int
    cost: int
    baseline_cost: int

    @property
    def difference(self) -> float:
        """Return by which part the variant costs more than the baseline (less: below 0)."""
        return self.cost / self.baseline_cost - 1


def width_of_equal_flops(
    baseline: str, variant: str, num_classes: int = 10, image_size: int = 32
) -> int:
    """Return the width at which `variant` takes as many operations an image as `baseline`.

    A network trains for three times its forward pass, whatever it is made of, so the forward pass is
    compared. The nearest whole width is taken; `match` says how near that is.

    Args:
        baseline: an architecture, as `resnet(width=16)`.
        variant: another, as `resnet(convolution=depthwise_separable)`; a width that it names is
            only where the search would have begun.
        num_classes: how many classes there are.
        image_size: the side of the images in pixels.

    Raises:
        InvalidValueError: `variant` has no whole `width`, or none costs within 5 % of `baseline`.
    """
    return match(forward_flops, baseline, variant, num_classes, image_size).width


def width_of_equal_parameters(
    baseline: str, variant: str, num_classes: int = 10, image_size: int = 32
) -> int:
    """Return the width at which `variant` has as many parameters as `baseline`; else as above.

    Raises:
        InvalidValueError: `variant` has no whole `width`, or none comes within 5 % of `baseline`.
    """
    return match(num_parameters, baseline, variant, num_classes, image_size).width


def match(
    cost: Callable[[str, int, int], int],
    baseline: str,
    variant: str,
    num_classes: int,
    image_size: int,
) -> Match:
    """Return the width of `variant` whose `cost` is nearest to that of `baseline`.

    Args:
        cost: `forward_flops` or `num_parameters`; it must grow with the width.
        baseline: an architecture.
        variant: another.
        num_classes: how many classes there are.
        image_size: the side of the images in pixels.

    Raises:
        InvalidValueError: `variant` has no whole `width`, or none comes within 5 % of `baseline`.
    """
    wanted = cost(baseline, num_classes, image_size)

    def cost_at(width: int) -> int:
        return cost(with_width(variant, width), num_classes, image_size)

    low, high = 1, 2
    while high < MAX_WIDTH and cost_at(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost_at(middle) < wanted else (low, middle)
    found = min(
        (Match(width=width, cost=cost_at(width), baseline_cost=wanted) for width in (low, high)),
        key=lambda found: abs(math.log(found.cost / found.baseline_cost)),
    )
    if abs(found.difference) > MAX_DIFFERENCE:
        msg = (
            f"no width of {variant!r} costs what {baseline!r} does: the nearest, {found.width}, "
            f"differs by {found.difference:+.1%}. Choose a wider baseline."
        )
        raise InvalidValueError(msg)
    return found


def with_width(architecture: str, width: int) -> str:
    """Return `architecture` with this width, its other parameters as they are.

    >>> with_width("resnet(width=64,activation=silu)", 16)
    "resnet(width=16,activation='silu')"
    """
    name, parameters = parse_call(architecture)
    values = ",".join(f"{key}={value!r}" for key, value in {**parameters, "width": width}.items())
    return f"{name}({values})"


def forward_flops(architecture: str, num_classes: int = 10, image_size: int = 32) -> int:
    """Return the operations of one image's forward pass: convolutions and matrix products."""
    model = _build(architecture, num_classes, image_size).eval()
    watch = OperatorWatch(lambda: False)
    with torch.no_grad(), torch.device("meta"), watch:
        model(torch.empty(1, 3, image_size, image_size))
    return sum(operation.flops for operation in watch.operations)


def num_parameters(architecture: str, num_classes: int = 10, image_size: int = 32) -> int:
    """Return how many parameters there are, frozen ones included."""
    model = _build(architecture, num_classes, image_size)
    return sum(parameter.numel() for parameter in model.parameters())


def _build(architecture: str, num_classes: int, image_size: int) -> torch.nn.Module:
    """Build without memory or numbers: the meta device knows shapes alone."""
    with torch.device("meta"):
        return architectures.build(
            architecture, num_classes=num_classes, image_size=image_size, weights="none"
        )
