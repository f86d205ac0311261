"""The training run of a cell: train, validate, remember the best epoch, test that one once."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cnnbench.record import Epoch, Fit
from cnnbench.training.early_stopping import EarlyStopping
from cnnbench.training.schedule import make_schedule
from cnnbench.training.step import Tally, TrainingStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from cnnbench.cell import Cell
    from cnnbench.data.device_loader import DeviceLoader
    from cnnbench.precision import Precision
    from cnnbench.training.schedule import Schedule

EVALUATION_BATCH_SIZE = 512


class DivergedError(Exception):
    """The loss became infinite or not a number; carries the epochs before that."""

    def __init__(self, message: str, fit: Fit) -> None:
        """Keep what was trained so far."""
        super().__init__(message)
        self.fit = fit


def fit(
    step: TrainingStep,
    cell: Cell,
    loaders: tuple[DeviceLoader, DeviceLoader, DeviceLoader],
    *,
    precision: Precision,
    on_epoch: Callable[[int, Epoch], None],
) -> Fit:
    """Train for the recipe's epochs, or until the validation loss stops falling.

    Args:
        step: the training step, its model and optimizer fresh.
        cell: what to train.
        loaders: the training, validation and test images.
        precision: the context in which validation and test run, too.
        on_epoch: called with the number (from 1) and the curves of each epoch that ended.

    Raises:
        DivergedError: the mean loss of an epoch is not finite.
    """
    train, val, test = loaders
    model, recipe = step.model, cell.recipe
    schedule = make_schedule(
        recipe.schedule, step.optimizer, num_epochs=recipe.epochs, num_steps=train.num_batches
    )
    stopping = EarlyStopping(recipe.patience)
    epochs: list[Epoch] = []
    best_accuracy, best_state = -1.0, {}
    stopped_early = False
    for number in range(1, recipe.epochs + 1):
        rate = schedule.learning_rate
        train_loss, train_accuracy, train_seconds = _train(
            step, train, schedule, seed=_epoch_seed(cell.seed, number)
        )
        val_loss, val_accuracy, val_seconds = evaluate(model, val, precision)
        for kind, loss in (("training", train_loss), ("validation", val_loss)):
            if not math.isfinite(loss):
                msg = f"the {kind} loss of epoch {number} is {loss}"
                raise DivergedError(msg, _result(step, epochs, train))
        epoch = Epoch(
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=rate,
            train_seconds=train_seconds,
            val_seconds=val_seconds,
        )
        epochs.append(epoch)
        on_epoch(number, epoch)
        if val_accuracy > best_accuracy:
            best_accuracy, best_state = val_accuracy, _copy_state(model)
        schedule.after_epoch(val_loss)
        if stopping.should_stop(val_loss):
            stopped_early = number < recipe.epochs
            break
    model.load_state_dict(best_state)
    _, test_accuracy, _ = evaluate(model, test, precision)
    return _result(step, epochs, train, test_accuracy=test_accuracy, stopped_early=stopped_early)


def _train(
    step: TrainingStep, loader: DeviceLoader, schedule: Schedule, *, seed: int
) -> tuple[float, float, float]:
    """Train one epoch; return its mean loss, its accuracy and its seconds."""
    step.model.train()
    tally = Tally.on(loader.device)
    start = time.perf_counter()
    for images, labels in loader.epoch(seed):
        step(images, labels, tally)
        schedule.after_step()
    loss, accuracy = tally.read()
    return loss, accuracy, time.perf_counter() - start


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: DeviceLoader, precision: Precision
) -> tuple[float, float, float]:
    """Return the mean cross-entropy, the accuracy and the seconds over every image of `loader`."""
    model.eval()
    tally = Tally.on(loader.device)
    start = time.perf_counter()
    for images, labels in loader.ordered(EVALUATION_BATCH_SIZE):
        with precision.autocast(loader.device):
            logits = model(images)
            loss = functional.cross_entropy(logits, labels)
        tally.add(loss, logits, labels)
    loss_mean, accuracy = tally.read()
    return loss_mean, accuracy, time.perf_counter() - start


def _result(
    step: TrainingStep,
    epochs: list[Epoch],
    train: DeviceLoader,
    *,
    test_accuracy: float | None = None,
    stopped_early: bool = False,
) -> Fit:
    return Fit(
        epochs=tuple(epochs),
        num_train_images=len(train.split),
        test_accuracy=test_accuracy,
        stopped_early=stopped_early,
        skipped_steps=step.skipped_steps(),
        final_loss_scale=step.loss_scale(),
    )


def _copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _epoch_seed(seed: int, number: int) -> int:
    """Return a seed of its own for each epoch; the same in every cell of one seed."""
    return (seed * 1_000_003 + number) % 2**63
