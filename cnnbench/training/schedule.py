"""The learning-rate schedules by name, each advanced once per epoch or once per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import lr_scheduler

from cnnbench.errors import lookup

if TYPE_CHECKING:
    import torch

PLATEAU_FACTOR = 0.1
PLATEAU_PATIENCE = 5


class Schedule:
    """A constant learning rate."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, num_epochs: int, num_steps: int
    ) -> None:
        """Take the optimizer to steer; `num_steps` are the steps of one epoch."""
        self.optimizer = optimizer
        self.num_epochs = num_epochs
        self.num_steps = num_steps

    @property
    def learning_rate(self) -> float:
        """Return the rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Advance by one step."""

    def after_epoch(self, val_loss: float) -> None:
        """Advance by one epoch, knowing its validation loss."""


class Plateau(Schedule):
    """A tenth of the rate after more than 5 epochs without a lower validation loss (the document's)."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, num_epochs: int, num_steps: int
    ) -> None:
        """Make PyTorch's scheduler."""
        super().__init__(optimizer, num_epochs=num_epochs, num_steps=num_steps)
        self._scheduler = lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="min", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
        )

    def after_epoch(self, val_loss: float) -> None:
        """Lower the rate when the validation loss has stopped falling."""
        self._scheduler.step(val_loss)


class Cosine(Schedule):
    """Half a cosine from the full rate to zero over all epochs (Loshchilov 2017, arXiv:1608.03983)."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, num_epochs: int, num_steps: int
    ) -> None:
        """Make PyTorch's scheduler."""
        super().__init__(optimizer, num_epochs=num_epochs, num_steps=num_steps)
        self._scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs * num_steps)

    def after_step(self) -> None:
        """Follow the cosine by one step."""
        self._scheduler.step()


class OneCycle(Schedule):
    """Up to the full rate and down again within one run (Smith 2018, arXiv:1708.07120).

    The momentum stays as it is: it would be a second factor, and a CUDA graph would not see it change.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, num_epochs: int, num_steps: int
    ) -> None:
        """Make PyTorch's scheduler, its peak at the recipe's learning rate."""
        super().__init__(optimizer, num_epochs=num_epochs, num_steps=num_steps)
        peak = float(optimizer.param_groups[0]["lr"])
        self._scheduler = lr_scheduler.OneCycleLR(
            optimizer, max_lr=peak, total_steps=num_epochs * num_steps + 1, cycle_momentum=False
        )

    def after_step(self) -> None:
        """Follow the cycle by one step."""
        self._scheduler.step()


_SCHEDULES = {"constant": Schedule, "plateau": Plateau, "cosine": Cosine, "one_cycle": OneCycle}


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, *, num_epochs: int, num_steps: int
) -> Schedule:
    """Return the schedule called `name`."""
    kind = lookup("schedule", name, _SCHEDULES)
    return kind(optimizer, num_epochs=num_epochs, num_steps=num_steps)
