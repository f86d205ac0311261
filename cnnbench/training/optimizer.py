"""The optimizers by name, always in PyTorch's fused form where the device has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cnnbench.errors import lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from cnnbench.cell import Recipe

SGD_MOMENTUM = 0.9


def make_optimizer(
    model: nn.Module, recipe: Recipe, device: torch.device, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the parameters of `model` that are trained.

    Fused, so that gradient scaling needs no read-back in each step: the kernel itself skips an update
    whose gradients overflowed. With `capturable` the learning rate is a tensor, so that a CUDA graph
    sees the schedule change it.
    """
    make = lookup("optimizer", recipe.optimizer, _MAKERS)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate = torch.tensor(recipe.learning_rate, device=device) if capturable else recipe.learning_rate
    options: dict[str, Any] = {"lr": rate, "weight_decay": recipe.weight_decay, "fused": True}
    if capturable and recipe.optimizer != "sgd":
        options["capturable"] = True
    return make(parameters, **options)


def _sgd(parameters: list[nn.Parameter], **options: Any) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(parameters, momentum=SGD_MOMENTUM, nesterov=True, **options)
    # PyTorch leaves it unwritten until the first update. Where that one overflows in fp16, the fused kernel
    # skips it, and the second would go on from whatever the memory held.
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


_MAKERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": _sgd,
}
