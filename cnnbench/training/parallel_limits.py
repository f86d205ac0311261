"""Which cells cannot run on several devices, here or anywhere, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnbench.architectures import is_frozen
from cnnbench.cell import split_parallelism

if TYPE_CHECKING:
    from cnnbench.cell import Cell

# With four times as many micro-batches as ranks GPipe's ranks hardly wait for each other (Huang et al.
# 2019, arXiv:1811.06965, section 2.3).
MICRO_BATCHES_PER_RANK = 4


def num_micro_batches(num_ranks: int) -> int:
    """Return into how many micro-batches a pipeline of `num_ranks` cuts a batch."""
    return MICRO_BATCHES_PER_RANK * num_ranks


def unsupported_reason(cell: Cell, device: torch.device) -> str | None:
    """Return why `cell` cannot run on several devices here, or `None` when it can."""
    _, size = split_parallelism(cell.parallelism)
    on_gpu = device.type == "cuda"
    there = torch.cuda.device_count() if on_gpu else len(os.sched_getaffinity(0))
    reason = None
    if there < size:
        reason = f"needs {size} {'GPUs' if on_gpu else 'processors'}, and this machine has {there}"
    elif _has_computed():
        reason = "forks this process, which must not have computed yet: not with isolation=inline"
    reason = reason or _unsupported_setting(cell)
    return f"parallelism={cell.parallelism} {reason}" if reason else None


def _unsupported_setting(cell: Cell) -> str | None:
    kind, size = split_parallelism(cell.parallelism)
    if kind != "pipelined" and cell.batch_size % size:
        return f"cannot share out a batch of {cell.batch_size} images evenly"
    if cell.compile != "off":
        return f"runs uncompiled only, not with compile={cell.compile}"
    if cell.timing.max_windows == 0:
        return "is profiled only, and this cell is not to be timed"
    return _OF_KIND[kind](cell) if kind in _OF_KIND else None


def _unsupported_sharding(cell: Cell) -> str | None:
    if cell.checkpointing == "stage":
        return "gathers weights part by part, and checkpointing=stage recomputes across parts"
    if cell.precision == "fp16":
        return "does not go with fp16: each rank would scale its part of the gradients alone"
    if cell.recipe.optimizer == "sgd":
        return "goes with adam and adamw: PyTorch's fused SGD takes no sharded weights"
    return None


def _unsupported_pipelining(cell: Cell) -> str | None:
    _, size = split_parallelism(cell.parallelism)
    number = num_micro_batches(size)
    if cell.batch_size % number:
        return f"cannot cut a batch of {cell.batch_size} images into {number} equal micro-batches"
    if cell.precision == "fp16":
        return "does not go with fp16: one rank's overflow would not keep the others from updating"
    if is_frozen(cell.architecture):
        return "needs gradients that pass from part to part, and none passes a frozen trunk"
    return None


_OF_KIND = {"sharded": _unsupported_sharding, "pipelined": _unsupported_pipelining}


def _has_computed() -> bool:
    """Say whether a fork of this process could hang: it has threads, or a CUDA context."""
    return len(list(Path("/proc/self/task").iterdir())) > 1 or torch.cuda.is_initialized()
