"""What a training run's own curves say of it: underfitting, overfitting, diverged, plateaued or healthy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

DIAGNOSES = ("diverged", "overfitting", "underfitting", "plateaued", "healthy")

# Conventions, not laws: each diagnosis carries the numbers that it was made from.
MAX_RISE = 0.10
MAX_GAP = 0.10
MIN_FITTED = 0.75
MIN_PROGRESS = 0.01
MIN_PLATEAU_EPOCHS = 2
MAX_EXCESS = 2.0


class Epoch(Protocol):
    """What is looked at of an epoch."""

    @property
    def train_loss(self) -> float:
        """The mean loss of the training images."""

    @property
    def train_accuracy(self) -> float:
        """The share of training images that came out right."""

    @property
    def val_loss(self) -> float:
        """The mean loss of the validation images."""

    @property
    def val_accuracy(self) -> float:
        """The share of validation images that came out right."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One of `DIAGNOSES`, in the order in which they are looked for, and the numbers behind it.

    `gap` is training less validation accuracy in the last epoch. `rise` is how far the last validation
    loss lies above the lowest. `fitted` is the training accuracy on a scale from chance (0) to
    perfect (1). `progress` is how much of its value the validation loss's minimum has lost over the
    last third of the epochs; `None` with fewer than 3 epochs. `excess` is the last training loss as a
    multiple of the loss of a uniform guess; 1 is knowing nothing.

    - `diverged`: the loss became infinite or not a number, or the training loss ended at more than
      twice that of a uniform guess: larger numbers, and nothing learned.
    - `overfitting`: the validation loss rose by more than 10 % from its minimum while the training loss
      went on falling, or the gap is above 10 points.
    - `underfitting`: less than three quarters of the way from chance to perfect on the images it
      trains on.
    - `plateaued`: the last third (at least 2 epochs) brought no validation loss that is 1 % lower.
    """

    kind: str
    gap: float | None = None
    rise: float | None = None
    fitted: float | None = None
    progress: float | None = None
    excess: float | None = None

    @property
    def reason(self) -> str:
        """Return the numbers in words."""
        if self.gap is None or self.rise is None or self.fitted is None:
            return "the loss became infinite or not a number"
        if self.kind == "diverged":
            return f"the training loss ended at {self.excess:.1f} times that of a uniform guess"
        words = (
            f"{self.fitted:.0%} of the way from chance to perfect on the training images,"
            f" validation accuracy {-100 * self.gap:+.1f} points from it,"
            f" validation loss {self.rise:.0%} above its minimum"
        )
        if self.progress is None:
            return words
        return f"{words}, which fell by {self.progress:.1%} in the last third of the epochs"


def diagnose(epochs: Sequence[Epoch], *, num_classes: int, diverged: bool) -> Diagnosis | None:
    """Return the diagnosis of a training run; `None` where not even one epoch ended.

    Args:
        epochs: its curves, in order.
        num_classes: how many classes there are; chance is one over it.
        diverged: whether the run ended with a loss that is no finite number.
    """
    if diverged:
        return Diagnosis(kind="diverged")
    if not epochs:
        return None
    last = epochs[-1]
    losses = [epoch.val_loss for epoch in epochs]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    chance = 1 / num_classes if num_classes > 1 else 0.0
    found = Diagnosis(
        kind="healthy",
        gap=last.train_accuracy - last.val_accuracy,
        rise=losses[-1] / losses[lowest] - 1 if losses[lowest] > 0 else 0.0,
        fitted=(last.train_accuracy - chance) / (1 - chance),
        progress=_progress(losses),
        excess=last.train_loss / math.log(num_classes) if num_classes > 1 else None,
    )
    still_falls = last.train_loss < epochs[lowest].train_loss
    return replace(found, kind=_kind(found, len(epochs), still_falls=still_falls))


def _kind(found: Diagnosis, num_epochs: int, *, still_falls: bool) -> str:
    gap, rise, fitted, progress, excess = (
        value or 0.0
        for value in (found.gap, found.rise, found.fitted, found.progress, found.excess)
    )
    if excess > MAX_EXCESS:
        return "diverged"
    if gap > MAX_GAP or (rise > MAX_RISE and still_falls):
        return "overfitting"
    if fitted < MIN_FITTED:
        return "underfitting"
    if num_epochs // 3 >= MIN_PLATEAU_EPOCHS and progress < MIN_PROGRESS:
        return "plateaued"
    return "healthy"


def _progress(losses: Sequence[float]) -> float | None:
    third = len(losses) // 3
    if third == 0:
        return None
    before = min(losses[:-third])
    return (before - min(losses)) / before if before > 0 else 0.0
