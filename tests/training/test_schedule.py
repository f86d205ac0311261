"""Every schedule, step by step, against its formula."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from cnnbench.cell import SCHEDULES
from cnnbench.errors import UnknownNameError
from cnnbench.training.schedule import PLATEAU_FACTOR, PLATEAU_PATIENCE, make_schedule

if TYPE_CHECKING:
    from cnnbench.training.schedule import Schedule

RATE = 0.1
NUM_EPOCHS = 5
NUM_STEPS = 8
MOMENTUM = 0.9


def make(name: str, *, capturable: bool = False) -> tuple[Schedule, torch.optim.Optimizer]:
    rate = torch.tensor(RATE) if capturable else RATE
    parameters = [nn.Parameter(torch.zeros(3))]
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM, fused=True)
    schedule = make_schedule(name, optimizer, num_epochs=NUM_EPOCHS, num_steps=NUM_STEPS)
    return schedule, optimizer


def rates(name: str, val_losses: list[float], *, capturable: bool = False) -> list[float]:
    """Return the rate of each step of a training run with these validation losses."""
    schedule, optimizer = make(name, capturable=capturable)
    seen = []
    for loss in val_losses:
        for _ in range(NUM_STEPS):
            seen.append(schedule.learning_rate)
            optimizer.step()
            schedule.after_step()
        schedule.after_epoch(loss)
    return seen


FALLING = [1 / number for number in range(1, NUM_EPOCHS + 1)]


def test_every_schedule_of_a_recipe_can_be_made_and_no_other() -> None:
    for name in SCHEDULES:
        assert make(name)[0].learning_rate > 0
    with pytest.raises(UnknownNameError, match="unknown schedule 'cosin'"):
        make("cosin")


def test_a_constant_rate_stays() -> None:
    assert set(rates("constant", [1.0] * NUM_EPOCHS)) == {RATE}


def test_a_plateau_lowers_the_rate_to_a_tenth_after_more_than_its_patience() -> None:
    flat = [1.0] * (PLATEAU_PATIENCE + 4)
    by_epoch = rates("plateau", flat)[::NUM_STEPS]
    assert PLATEAU_PATIENCE == 5
    assert by_epoch[:7] == [RATE] * 7
    assert by_epoch[7:] == pytest.approx([RATE * PLATEAU_FACTOR] * 2)


def test_a_plateau_keeps_the_rate_while_the_loss_falls() -> None:
    assert set(rates("plateau", FALLING)) == {RATE}


def test_a_plateau_lowers_again_and_again() -> None:
    by_epoch = rates("plateau", [1.0] * 16)[::NUM_STEPS]
    assert by_epoch[-1] == pytest.approx(RATE / 100)


def test_a_cosine_falls_from_the_full_rate_to_zero() -> None:
    total = NUM_EPOCHS * NUM_STEPS
    expected = [RATE * (1 + math.cos(math.pi * step / total)) / 2 for step in range(total)]
    assert rates("cosine", FALLING) == pytest.approx(expected, abs=1e-9)
    schedule, optimizer = make("cosine")
    for _ in range(total):
        optimizer.step()
        schedule.after_step()
    assert schedule.learning_rate == pytest.approx(0, abs=1e-12)


def test_one_cycle_rises_to_the_recipes_rate_and_falls_below_its_start() -> None:
    seen = rates("one_cycle", FALLING)
    peak = seen.index(max(seen))
    assert max(seen) == pytest.approx(RATE, rel=0.01)
    assert 0 < peak < len(seen) / 2
    assert seen[: peak + 1] == sorted(seen[: peak + 1])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert seen[-1] < seen[0] < RATE


def test_one_cycle_leaves_the_momentum_alone() -> None:
    schedule, optimizer = make("one_cycle")
    for _ in range(NUM_STEPS):
        optimizer.step()
        schedule.after_step()
        assert optimizer.param_groups[0]["momentum"] == MOMENTUM


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_in_a_tensor_follows_the_same_schedule_in_place(name: str) -> None:
    losses = [1.0] * NUM_EPOCHS
    plain, in_tensor = rates(name, losses), rates(name, losses, capturable=True)
    assert in_tensor == pytest.approx(plain, rel=1e-5, abs=1e-8)
    schedule, optimizer = make(name, capturable=True)
    rate = optimizer.param_groups[0]["lr"]
    optimizer.step()
    schedule.after_step()
    # A CUDA graph reads this very tensor.
    assert optimizer.param_groups[0]["lr"] is rate
