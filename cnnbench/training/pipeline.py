"""One model on several ranks, each with a part of its layers: micro-batches pass through one by one.

After GPipe (Huang et al. 2019, arXiv:1811.06965), run by `torch.distributed.pipelining`. Of its
schedules this is 1F1B (Narayanan et al. 2021, arXiv:2006.09503, "PipeDream-Flush"), which idles as long
as GPipe's own and updates from the same gradients, but lets the backward pass of a micro-batch begin as
soon as it can: a rank keeps the activations of at most as many micro-batches as there are ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from cnnbench.training.cut import cut
from cnnbench.training.parallel import STEP, TeamStep
from cnnbench.training.parallel_limits import num_micro_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.checkpointing import Segment
    from cnnbench.precision import Precision
    from cnnbench.training.parallel import Team
    from cnnbench.training.step import Tally

FORMATS = (torch.contiguous_format, torch.channels_last)
NUM_IMAGE_DIMENSIONS = 4


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one rank has of a model, and what is to be known of the whole."""

    module: nn.Module
    memory_format: torch.memory_format
    num_parameters: int
    num_trainable_parameters: int
    note: str


def own_part(
    model: nn.Module,
    team: Team,
    example: torch.Tensor,
    segments: Sequence[Segment],
    *,
    batch_size: int,
) -> Part:
    """Return the part of `model` that the rank of `team` trains; the rest of `model` is emptied.

    Args:
        model: the whole, the same on every rank.
        team: whose rank it is.
        example: one small batch, shape (B, 3, H, W).
        segments: those that the model recomputes.
        batch_size: images in a whole batch, for the note.

    Raises:
        UnsupportedError: the model cannot be cut so.
    """
    made = cut(model, team.size, example, segments)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    num_parameters = sum(p.numel() for p in model.parameters())
    weights = [sum(p.numel() for p in part.parameters()) for part in made.parts]
    note = (
        f"cut before {', '.join(made.borders)}: the ranks have {_shares(made.flops)} of the forward"
        f" pass's operations and {_shares(weights)} of the weights; {_micro_batches(batch_size, team)}"
    )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):  # noqa: SLF001 (its public children are many)
        note += ", and batch normalization sees one of them at a time"
    for rank, part in enumerate(made.parts):
        if rank != team.rank:
            # Whatever still refers to it, such as a segment, then keeps no weights.
            part.to("meta")
    return Part(
        module=made.parts[team.rank],
        memory_format=next(f for f in FORMATS if example.is_contiguous(memory_format=f)),
        num_parameters=num_parameters,
        num_trainable_parameters=sum(trained),
        note=note,
    )


def _shares(amounts: Sequence[int]) -> str:
    whole = max(1, sum(amounts))
    return ", ".join(f"{amount / whole:.0%}" for amount in amounts)


def _micro_batches(batch_size: int, team: Team) -> str:
    number = num_micro_batches(team.size)
    size = batch_size // number
    return f"a batch passes as {number} micro-batches of {size} {'images' if size > 1 else 'image'}"


class PipelinedStep(TeamStep):
    """A step in which each rank runs its own part, on one micro-batch after the other.

    Gradients are those of the whole batch's mean loss, with one exception: batch normalization
    normalizes each micro-batch by its own statistics, and moves its running ones once for each. All
    ranks make the same batches: the first takes the images, the last the labels. So only the last knows
    the loss, and the tally of any other stays empty.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        part: Part,
        team: Team,
        precision: Precision,
        device: torch.device,
        label_smoothing: float = 0.0,
    ) -> None:
        """Take the part whose module `model` is, beside what every step of a team takes."""
        # Imported here, for it takes seconds that no other cell need wait.
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B  # noqa: PLC0415

        super().__init__(
            model,
            optimizer,
            team=team,
            precision=precision,
            device=device,
            label_smoothing=label_smoothing,
        )
        self._part = part
        self._is_first, self._is_last = team.rank == 0, team.rank == team.size - 1
        stage = PipelineStage(_Connected(part, precision, device), team.rank, team.size, device)
        # On every rank: that there is a loss tells the schedule that a backward pass follows.
        self._schedule = Schedule1F1B(stage, num_micro_batches(team.size), loss_fn=self._loss)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, tally: Tally) -> None:
        """Train on a batch with the others; of the last rank, add its loss and its hits to `tally`."""
        self._team.tell(STEP)
        self.num_attempts += 1
        losses, logits = self._pass(images, labels)
        if logits is not None:
            tally.add(torch.stack(losses).mean(), logits, labels)

    def run_eagerly(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train likewise, to be watched."""
        self._team.tell(STEP)
        self.num_attempts += 1
        self._pass(images, labels)

    def count_parameters(self) -> tuple[int, int]:
        """Return how many parameters the whole model has, and how many of them are trained."""
        return self._part.num_parameters, self._part.num_trainable_parameters

    def has_finite_loss(self, tally: Tally) -> bool:
        """Say whether the loss stayed finite, as far as this rank can see.

        One that does not know the loss sees what it does: where it is not finite, neither is any
        gradient of it, nor any weight after that step.
        """
        if self._is_last:
            return super().has_finite_loss(tally)
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def _pass(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Train on a batch, and return the micro-batches' losses and the logits; of the last rank only."""
        self.optimizer.zero_grad(set_to_none=True)
        inputs = (images,) if self._is_first else ()
        losses: list[torch.Tensor] = []
        known: dict[str, Any] = {"target": labels, "losses": losses} if self._is_last else {}
        logits: torch.Tensor | None = self._schedule.step(*inputs, **known)
        self.optimizer.step()
        return losses, logits

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self._precision.autocast(self._device):
            return functional.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)


class _Connected(nn.Module):
    """A part between its neighbours, which runs in the cell's precision and memory format.

    Autocast is here, for it is meant for the forward pass alone. What is sent, forward or back, must
    lie in memory in the order of its indices, which in channels_last it does not.
    """

    def __init__(self, part: Part, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self._module = part.module
        self._format = part.memory_format
        self._autocast = partial(precision.autocast, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x.register_hook(torch.Tensor.contiguous)
        if x.ndim == NUM_IMAGE_DIMENSIONS:
            x = x.contiguous(memory_format=self._format)
        with self._autocast():
            out: torch.Tensor = self._module(x)
        return out.contiguous()
