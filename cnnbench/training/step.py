"""One training step: forward, loss, backward, update, with nothing read back from the device."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from cnnbench.precision import Precision


@dataclass(kw_only=True)
class Tally:
    """Sums kept on the device over an epoch, so that nothing waits for it before the epoch ends."""

    loss_sum: torch.Tensor
    num_correct: torch.Tensor
    num_images: int = 0

    @classmethod
    def on(cls, device: torch.device) -> Tally:
        """Return an empty tally on `device`."""
        return cls(
            loss_sum=torch.zeros((), device=device),
            num_correct=torch.zeros((), device=device, dtype=torch.int64),
        )

    @torch.no_grad()
    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add one batch: its mean `loss`, `logits` (B, C) and `labels` (B,)."""
        self.loss_sum += loss.detach() * len(labels)
        self.num_correct += (logits.argmax(dim=1) == labels).sum()
        self.num_images += len(labels)

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy; waits for the device."""
        count = max(1, self.num_images)
        return float(self.loss_sum) / count, int(self.num_correct) / count


class TrainingStep:
    """The plain step. Call it with images (B, 3, H, W) and labels (B,); both on the device."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision,
        device: torch.device,
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep what every step needs."""
        self.model = model
        self.optimizer = optimizer
        self.scaler = precision.grad_scaler(device)
        self._precision = precision
        self._device = device
        self._label_smoothing = label_smoothing
        self.num_attempts = 0
        # Of allocated memory, where a step is recorded once and then replayed.
        self.setup_peak_bytes = self.recorded_peak_bytes = 0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, tally: Tally) -> None:
        """Train on one batch and add its loss and its hits to `tally`."""
        self.num_attempts += 1
        loss, logits = self._compute(images, labels)
        tally.add(loss, logits, labels)

    def _compute(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision.autocast(self._device):
            logits = self.model(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, logits

    def run_eagerly(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on one batch operator by operator, nothing compiled and nothing replayed: to be watched."""
        self.num_attempts += 1
        with torch.compiler.set_stance("force_eager"):
            TrainingStep._compute(self, images, labels)

    def count_parameters(self) -> tuple[int, int]:
        """Return how many parameters the model has, and how many of them are trained."""
        parameters = list(self.model.parameters())
        trained = [p for p in parameters if p.requires_grad]
        return sum(p.numel() for p in parameters), sum(p.numel() for p in trained)

    def has_finite_loss(self, tally: Tally) -> bool:
        """Say whether the losses in `tally` are finite numbers; waits for the device."""
        return math.isfinite(tally.read()[0])

    def skipped_steps(self) -> int | None:
        """Return how many updates the gradient scaler left out; `None` without one. Reads back."""
        if not self.scaler.is_enabled():
            return None
        states = self.optimizer.state.values()
        done = next((int(state["step"]) for state in states if "step" in state), None)
        return None if done is None else self.num_attempts - done

    def loss_scale(self) -> float | None:
        """Return the gradient scaler's present scale; `None` without one. Reads back."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else None


@contextmanager
def undone(step: TrainingStep) -> Iterator[None]:
    """Undo at the end what a fresh `step` trained inside the context, in the same memory."""
    tensors = [*step.model.parameters(), *step.model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    scaler_before = step.scaler.state_dict()
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        for state in step.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()  # as Adam begins; a zero momentum does what none does
    step.scaler.load_state_dict(scaler_before)


class GraphedStep(TrainingStep):
    """The whole step as one CUDA graph, replayed on static inputs.

    Capturing needs an optimizer made with `capturable=True`, and side-stream warm-up steps before it
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). What these train is undone.

    A replay allocates nothing: what the graph frees again stays in its pool and is counted no more. So the
    peak of a step is `recorded_peak_bytes`, seen while it was captured; `setup_peak_bytes` is what had been
    the highest until then.
    """

    NUM_WARMUP_STEPS = 3

    _graph: torch.cuda.CUDAGraph | None = None
    _images: torch.Tensor
    _labels: torch.Tensor
    _loss: torch.Tensor
    _logits: torch.Tensor

    def _compute(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._graph is None:
            self._capture(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        graph = self._graph
        if graph is not None:
            graph.replay()
        return self._loss, self._logits

    def _capture(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        stream = torch.cuda.Stream()
        with undone(self), torch.random.fork_rng([images.device]):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(self.NUM_WARMUP_STEPS):
                    super()._compute(self._images, self._labels)
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.setup_peak_bytes = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        # Beside us a thread may pin batches, whose calls would end a capture of the mode "global".
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._loss, self._logits = super()._compute(self._images, self._labels)
        self.recorded_peak_bytes = torch.cuda.max_memory_allocated()
        self._graph = graph
