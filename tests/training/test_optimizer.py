"""The recipe's numbers reach the optimizer, and its update is the textbook's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from cnnbench.cell import OPTIMIZERS, Recipe
from cnnbench.errors import UnknownNameError
from cnnbench.training.optimizer import SGD_MOMENTUM, make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")

TEXTBOOK: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda parameters, **options: torch.optim.SGD(
        parameters, momentum=SGD_MOMENTUM, nesterov=True, **options
    ),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    images = torch.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(5):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_fused_optimizer_updates_like_the_plain_one(name: str, weight_decay: float) -> None:
    recipe = Recipe(optimizer=name, learning_rate=0.05, weight_decay=weight_decay)
    ours, plain = model(), model()
    optimizer = make_optimizer(ours, recipe, CPU)
    assert optimizer.param_groups[0]["fused"] is True
    theirs = TEXTBOOK[name](plain.parameters(), lr=0.05, weight_decay=weight_decay, fused=False)
    for a, b in zip(train(ours, optimizer), train(plain, theirs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_momentum_that_begins_at_zero_is_that_which_begins_with_a_gradient(
    weight_decay: float,
) -> None:
    ours, plain = model(), model()
    optimizer = make_optimizer(
        ours, Recipe(optimizer="sgd", learning_rate=0.05, weight_decay=weight_decay), CPU
    )
    theirs = TEXTBOOK["sgd"](plain.parameters(), lr=0.05, weight_decay=weight_decay, fused=True)
    for a, b in zip(train(ours, optimizer), train(plain, theirs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_overflow_in_the_first_step_leaves_nothing_to_the_second(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritten(like: torch.Tensor, **options: Any) -> torch.Tensor:
        return torch.full_like(like, torch.nan, **options)

    recipe = Recipe(optimizer=name, learning_rate=0.05)
    ours, plain = model(), model()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty_like", unwritten)
        optimizer = make_optimizer(ours, recipe, CPU)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(ours(torch.full((4, 3), torch.inf)).square().mean()).backward()
        scaler.step(optimizer)
    for parameter, before in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, before)
    for a, b in zip(
        train(ours, optimizer), train(plain, make_optimizer(plain, recipe, CPU)), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_changes_what_is_trained(name: str) -> None:
    trained: list[Any] = []
    for weight_decay in (0.0, 0.1):
        ours = model()
        recipe = Recipe(optimizer=name, learning_rate=0.05, weight_decay=weight_decay)
        trained.append(train(ours, make_optimizer(ours, recipe, CPU)))
    assert not torch.equal(trained[0][0], trained[1][0])


def test_what_is_frozen_is_not_the_optimizers() -> None:
    ours = model()
    ours.get_submodule("0").requires_grad_(requires_grad=False)
    optimizer = make_optimizer(ours, Recipe(), CPU)
    assert sum(p.numel() for p in optimizer.param_groups[0]["params"]) == 8 * 2 + 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_what_is_trained_has_a_state(name: str) -> None:
    ours = model()
    ours.get_submodule("0").requires_grad_(requires_grad=False)
    optimizer = make_optimizer(ours, Recipe(optimizer=name), CPU)
    train(ours, optimizer)
    assert set(optimizer.state) == set(ours.get_submodule("2").parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_is_a_tensor_where_a_graph_must_see_it_change(name: str) -> None:
    recipe = Recipe(optimizer=name, learning_rate=0.05)
    optimizer = make_optimizer(model(), recipe, CPU, capturable=True)
    rate = optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    assert float(rate) == pytest.approx(0.05)
    assert isinstance(make_optimizer(model(), recipe, CPU).param_groups[0]["lr"], float)


def test_an_unknown_optimizer_is_named() -> None:
    recipe = Recipe()
    object.__setattr__(recipe, "optimizer", "adamax")
    with pytest.raises(UnknownNameError, match="There are: adam, adamw, sgd"):
        make_optimizer(model(), recipe, CPU)
