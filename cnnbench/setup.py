"""Puts a cell's parts together: data, model, precision, checkpointing, optimizer, step."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from cnnbench import architectures
from cnnbench.checkpointing import apply_checkpointing
from cnnbench.data.device_data import open_prepared
from cnnbench.data.device_loader import DeviceLoader
from cnnbench.data.host_data import open_on_host
from cnnbench.data.worker_loader import WorkerLoader
from cnnbench.errors import MissingWeightsError, UnsupportedError
from cnnbench.precision import Precision, precision
from cnnbench.training.features import once_unsupported
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.parallel import TeamStep
from cnnbench.training.pipeline import PipelinedStep, own_part
from cnnbench.training.step import GraphedStep, TrainingStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.cell import Cell
    from cnnbench.data.device_data import DeviceData
    from cnnbench.environment import DatasetInfo
    from cnnbench.training.parallel import Team

MEMORY_FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# Two images tell the segments: BatchNorm is in evaluation mode then.
NUM_EXAMPLE_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A cell's data on its device, and how to make a fresh training step for it.

    With a `team` this is one rank's part: a share of each batch, and a model that trains with the others'.
    `pids` are those of processes that work for it: the ranks, and whoever loads its batches.
    """

    cell: Cell
    device: torch.device
    precision: Precision
    data: DeviceData
    weights: str
    missing_weights: str | None
    team: Team | None = None
    pids: list[int] = field(default_factory=list)

    def loader(self, split: str) -> DeviceLoader:
        """Return the loader of `train`, `val` or `test`; only training images are augmented."""
        recipe = self.cell.recipe
        kind: Callable[..., DeviceLoader] = DeviceLoader
        if self.cell.loader == "workers":
            kind = partial(WorkerLoader, device=self.device, pids=self.pids)
        return kind(
            getattr(self.data, split),
            batch_size=self.cell.batch_size // (self.team.num_shares if self.team else 1),
            augment=recipe.augmentation if split == "train" else "none",
            channels_last=self.cell.memory_format == "channels_last",
        )

    def training_step(self) -> tuple[TrainingStep, tuple[str, ...]]:
        """Return a step around a fresh model and optimizer, and remarks; the same for the same seed.

        Raises:
            UnsupportedError: this model cannot be checkpointed so.
            ArchitectureError: this model cannot be built.
        """
        cell, recipe = self.cell, self.cell.recipe
        torch.manual_seed(cell.seed)
        model = architectures.build(
            cell.architecture,
            num_classes=_known(recipe.num_classes),
            image_size=_known(recipe.image_size),
            weights=self.weights,
        )
        memory_format = MEMORY_FORMATS[cell.memory_format]
        model = model.to(self.device).to(memory_format=memory_format)
        if recipe.dropout:
            add_dropout(model, recipe.dropout)
        size = _known(recipe.image_size)
        example = torch.zeros(NUM_EXAMPLE_IMAGES, 3, size, size, device=self.device)
        example = example.to(memory_format=memory_format)
        graphed = cell.compile == "graph"
        segments, notes = apply_checkpointing(model, cell.checkpointing, example, captured=graphed)
        if cell.compile not in {"off", "graph"}:
            model.compile(mode=cell.compile)
        model.train()
        kind: Callable[..., TrainingStep] = GraphedStep if graphed else TrainingStep
        if self.team and self.team.kind == "pipelined":
            part = own_part(model, self.team, example, segments, batch_size=cell.batch_size)
            model, notes = part.module, (*notes, part.note)
            kind = partial(PipelinedStep, team=self.team, part=part)
        elif self.team:
            model = self.team.distribute(model)
            kind = partial(TeamStep, team=self.team)
        optimizer = make_optimizer(model, recipe, self.device, capturable=graphed)
        step = kind(
            model,
            optimizer,
            precision=self.precision,
            device=self.device,
            label_smoothing=recipe.label_smoothing,
        )
        return step, notes


def set_up(
    cell: Cell, dataset: DatasetInfo, device: torch.device, team: Team | None = None
) -> Bench:
    """Check that `device` can do what `cell` asks, set the numeric switches and load the data.

    Raises:
        UnsupportedError: saying what the device cannot do.
    """
    mode = precision(cell.precision)
    reason = mode.unsupported_reason(device) or compile_unsupported(cell.compile, device)
    if cell.recipe.features == "once":
        reason = reason or once_unsupported(cell)
    if cell.loader == "workers" and team:
        reason = reason or "loader=workers feeds one device alone"
    if reason:
        raise UnsupportedError(reason)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and streams that name no device belong to this one
        _limit_memory(cell, device)
    mode.apply()
    # Batch shapes are fixed: let cuDNN try its algorithms once, before any window.
    torch.backends.cudnn.benchmark = True
    weights, missing = _find_weights(cell)
    opened = open_on_host if cell.loader == "workers" else partial(open_prepared, device=device)
    data = opened(
        dataset,
        image_size=_known(cell.recipe.image_size),
        statistics=architectures.weights_statistics(cell.architecture, weights),
        train_subset=cell.recipe.train_subset,
    )
    return Bench(
        cell=cell,
        device=device,
        precision=mode,
        data=data,
        weights=weights,
        missing_weights=missing,
        team=team,
        pids=list(team.pids) if team else [],
    )


def _limit_memory(cell: Cell, device: torch.device) -> None:
    """Let CUDA's allocator reserve no more than the budget; a CPU's peak is held against it afterwards."""
    if cell.memory_budget_bytes is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        fraction = min(1.0, cell.memory_budget_bytes / total)
        torch.cuda.set_per_process_memory_fraction(fraction, device)


def _find_weights(cell: Cell) -> tuple[str, str | None]:
    """Return which weights the cell gets, and why these are not the ones it wants.

    Throughput and memory do not depend on the weights, so a cell whose weights are missing is still
    profiled; it must not be trained, for it could claim no accuracy.
    """
    weights = architectures.resolved_weights(cell.architecture, cell.recipe.weights)
    try:
        architectures.find_weights(cell.architecture, weights)
    except MissingWeightsError as error:
        return "none", str(error)
    return weights, None


def add_dropout(model: nn.Module, probability: float) -> None:
    """Drop inputs of the model's last linear layer while it trains, in place, without a new key."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not heads:
        msg = f"dropout needs a linear layer to act on; {type(model).__name__} has none"
        raise UnsupportedError(msg)

    def drop(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return functional.dropout(inputs[0], probability, training=module.training)

    heads[-1].register_forward_pre_hook(drop)


def compile_unsupported(mode: str, device: torch.device) -> str | None:
    """Return why a model cannot be compiled so on `device`, or `None` when it can."""
    if mode == "off":
        return None
    if device.type == "cuda":
        return None if mode == "graph" else _lacks_c_compiler(mode)
    if mode in {"graph", "reduce-overhead"}:
        return f"compile={mode} records CUDA graphs, which need a CUDA device"
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        return f"compile={mode} on a CPU needs a C++ compiler, and {compiler} is not installed"
    return None


def _lacks_c_compiler(mode: str) -> str | None:
    """Return why Triton, which compiles a launcher for its kernels, cannot; `None` when it can."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    if any(shutil.which(compiler) for compiler in compilers):
        return None
    return (
        f"compile={mode} on CUDA needs a C compiler, and {' or '.join(compilers)} is not installed"
    )


def _known(value: int | None) -> int:
    """Return a recipe's number that planning has taken from the data set."""
    if value is None:
        msg = "the cell was not resolved against its data set"
        raise ValueError(msg)
    return value
