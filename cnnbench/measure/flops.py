"""How many floating-point operations a training step takes, counted as it would be executed.

Counted are convolutions and matrix products, a multiplication and an addition as two operations: the
field's convention. Recomputation by checkpointing is left out, so that the number belongs to the model
and not to the setting (PaLM, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import nn

# Enough for BatchNorm in training mode; the count is proportional to it.
NUM_IMAGES = 2


def training_flops_per_image(model: nn.Module, *, image_size: int) -> float:
    """Return the operations of one forward and backward pass of `model`, per image.

    The pass runs on a copy without data (PyTorch's meta device): nothing is computed, and `model` is
    left as it is. Frozen parameters get no gradients and so cost none.

    Args:
        model: a classifier as it will be trained, before checkpointing is applied.
        image_size: the side of its images in pixels.
    """
    bare = copy.deepcopy(model).to("meta").train()
    images = torch.zeros(NUM_IMAGES, 3, image_size, image_size, device="meta")
    labels = torch.zeros(NUM_IMAGES, dtype=torch.int64, device="meta")
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        loss = functional.cross_entropy(bare(images), labels)
        if loss.requires_grad:
            loss.backward()
    return float(counter.get_total_flops()) / NUM_IMAGES


def _convolution_backward(*shapes: Any, **_: Any) -> int:
    """Count a convolution's gradients, each of which takes what the forward pass takes.

    PyTorch's own formula (to 2.15 at least) lets the weight's gradient of a grouped convolution connect
    all channels: a depthwise layer would read 98 times its forward pass instead of twice.
    """
    grad_output, _, weight = shapes[:3]
    transposed, output_mask = shapes[7], shapes[10]
    # A transposed convolution's weight has its input channels first, and meets each input position.
    positions = shapes[1] if transposed else grad_output
    per_gradient: int = 2 * positions[0] * math.prod(positions[2:]) * math.prod(weight)
    return per_gradient * sum(map(bool, output_mask[:2]))
