"""What came of a cell: raw windows, epochs and peaks, with every rate derived beside them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, fields
from typing import Any

from cnnbench.cell import Cell, Recipe

STATUSES = ("completed", "out_of_memory", "diverged", "timeout", "failed", "unsupported")
VALIDITIES = ("valid", "suspect", "invalid")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Window:
    """`num_steps` consecutive training steps, synchronised only at their two ends.

    `foreign_fraction` is the share of the machine's processors that others took meanwhile (CPU only;
    `None`: unknown); `data_seconds` the part of `seconds` spent waiting for the next batch.
    """

    seconds: float
    num_steps: int
    data_seconds: float | None = None
    foreign_fraction: float | None = None

    @property
    def step_seconds(self) -> float:
        """Return the mean time of one step of this window."""
        return self.seconds / self.num_steps


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peaks of one training step in its steady state, and of the set-up before it, in bytes.

    `peak_allocated_bytes` counts tensors: the model, its gradients, the optimizer, one batch and the
    step's activations, without the resident data set (`data_bytes`). On a CPU it is the allocation peak
    that torch's profiler sees. `peak_reserved_bytes` is the CUDA caching allocator's; `process_bytes`
    what the driver charges the process with, on a CPU the peak resident set above that after imports.
    """

    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    process_bytes: int | None = None
    setup_peak_bytes: int | None = None
    data_bytes: int | None = None
    num_alloc_retries: int | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The timed windows of a cell, in the order measured, and what led up to them.

    `low_step_seconds` and `high_step_seconds` bound the median window's step time with 95 % confidence
    (bootstrap over `windows`, reproducible by `stats.median_interval`). `rejected_windows` were measured
    again because others used the machine.
    """

    windows: tuple[Window, ...]
    rejected_windows: tuple[Window, ...] = ()
    low_step_seconds: float
    high_step_seconds: float
    stop_reason: str
    num_warmup_steps: int
    setup_seconds: float
    compile_seconds: float | None = None

    @property
    def step_seconds(self) -> list[float]:
        """Return the step time of each window, in seconds."""
        return [window.step_seconds for window in self.windows]

    @property
    def median_step_seconds(self) -> float:
        """Return the median window's step time."""
        return statistics.median(self.step_seconds)

    @property
    def p95_step_seconds(self) -> float:
        """Return the step time that 95 % of the windows stay under (linear interpolation)."""
        ordered = sorted(self.step_seconds)
        position = 0.95 * (len(ordered) - 1)
        below = math.floor(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    @property
    def total_steps_per_second(self) -> float:
        """Return all steps over all time: unlike the median, it shows stalls."""
        return sum(w.num_steps for w in self.windows) / sum(w.seconds for w in self.windows)

    @property
    def data_wait_fraction(self) -> float | None:
        """Return the share of the windows' time spent waiting for data."""
        waits = [w.data_seconds for w in self.windows if w.data_seconds is not None]
        if len(waits) < len(self.windows):
            return None
        return sum(waits) / sum(w.seconds for w in self.windows)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images and one over the validation images."""

    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    train_seconds: float
    val_seconds: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A training run: its curves, and the test accuracy of the epoch with the best validation accuracy."""

    epochs: tuple[Epoch, ...]
    num_train_images: int
    test_accuracy: float | None = None
    accuracy_note: str | None = None
    stopped_early: bool = False
    skipped_steps: int | None = None
    final_loss_scale: float | None = None

    @property
    def best(self) -> Epoch | None:
        """Return the epoch with the highest validation accuracy, of equals the first."""
        return max(self.epochs, key=lambda epoch: epoch.val_accuracy, default=None)

    def seconds_to(self, accuracy: float) -> float | None:
        """Return the training time (validation left out) up to the first epoch that reached `accuracy`."""
        seconds = 0.0
        for epoch in self.epochs:
            seconds += epoch.train_seconds
            if epoch.val_accuracy >= accuracy:
                return seconds
        return None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished cell, whatever came of it. `notes` are remarks that are no faults."""

    sweep_id: str
    cell: Cell
    cell_hash: str
    environment_hash: str
    status: str
    device: str
    validity: str = "valid"
    validity_reasons: tuple[str, ...] = ()
    effective_precision: str | None = None
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    profile: Profile | None = None
    memory: Memory | None = None
    fit: Fit | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    started_at: float = 0.0
    finished_at: float = 0.0
    start_seconds: float | None = None
    stderr_tail: str = field(default="", repr=False)

    def row(self) -> dict[str, Any]:
        """Return the cell as one row of the table: the contract's columns, `None` where unknown."""
        row = {
            "sweep_id": self.sweep_id,
            "cell_hash": self.cell_hash,
            "status": self.status,
            "validity": self.validity,
            "validity_reasons": "; ".join(self.validity_reasons) or None,
            "device": self.device,
            **self.cell.params(),
            "effective_precision": self.effective_precision,
            "environment_hash": self.environment_hash,
            **self.metrics(),
            "error": self.error,
        }
        return {name: row.get(name) for name in COLUMNS}

    def metrics(self) -> dict[str, Any]:
        """Return the measured columns; `stop_reason` is the one that is text."""
        return {
            "num_parameters": self.num_parameters,
            **self._profile_metrics(),
            **self._memory_metrics(),
            **self._fit_metrics(),
        }

    def _profile_metrics(self) -> dict[str, Any]:
        profile = self.profile
        if profile is None:
            return {}
        batch_size = self.cell.batch_size
        return {
            "images_per_second": batch_size / profile.median_step_seconds,
            "images_per_second_low": batch_size / profile.high_step_seconds,
            "images_per_second_high": batch_size / profile.low_step_seconds,
            "images_per_second_total": batch_size * profile.total_steps_per_second,
            "step_ms_median": profile.median_step_seconds * 1e3,
            "step_ms_p95": profile.p95_step_seconds * 1e3,
            "num_windows": len(profile.windows),
            "num_rejected_windows": len(profile.rejected_windows),
            "stop_reason": profile.stop_reason,
            "data_wait_fraction": profile.data_wait_fraction,
            "setup_seconds": profile.setup_seconds,
            "compile_seconds": profile.compile_seconds,
        }

    def _memory_metrics(self) -> dict[str, Any]:
        memory = self.memory
        if memory is None:
            return {}
        return {
            "peak_allocated_mib": _mib(memory.peak_allocated_bytes),
            "peak_reserved_mib": _mib(memory.peak_reserved_bytes),
            "process_mib": _mib(memory.process_bytes),
            "data_mib": _mib(memory.data_bytes),
            "num_alloc_retries": memory.num_alloc_retries,
        }

    def _fit_metrics(self) -> dict[str, Any]:
        fit = self.fit
        if fit is None:
            return {}
        metrics: dict[str, Any] = {
            "epochs_run": len(fit.epochs),
            "skipped_steps": fit.skipped_steps,
        }
        if fit.best is None or self.status == "diverged":
            return metrics
        last, target = fit.epochs[-1], self.cell.recipe.target_accuracy
        return {
            **metrics,
            "train_accuracy": last.train_accuracy,
            "val_accuracy": last.val_accuracy,
            "best_val_accuracy": fit.best.val_accuracy,
            "test_accuracy": fit.test_accuracy,
            "val_loss": last.val_loss,
            "time_to_accuracy_seconds": fit.seconds_to(target) if target else None,
        }


def _mib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else num_bytes / MIB


RECIPE_COLUMNS = tuple(f.name for f in fields(Recipe) if f.name != "epochs")

PARAM_COLUMNS = (
    "architecture",
    "precision",
    "batch_size",
    "checkpointing",
    "memory_format",
    "compile",
    "loader",
    "dataset",
    *RECIPE_COLUMNS,
    "epochs",
    "seed",
)

METRIC_COLUMNS = (
    "num_parameters",
    "images_per_second",
    "images_per_second_low",
    "images_per_second_high",
    "images_per_second_total",
    "step_ms_median",
    "step_ms_p95",
    "num_windows",
    "num_rejected_windows",
    "peak_allocated_mib",
    "peak_reserved_mib",
    "process_mib",
    "data_mib",
    "num_alloc_retries",
    "data_wait_fraction",
    "setup_seconds",
    "compile_seconds",
    "epochs_run",
    "train_accuracy",
    "val_accuracy",
    "best_val_accuracy",
    "test_accuracy",
    "val_loss",
    "time_to_accuracy_seconds",
    "skipped_steps",
    "model_gflops_per_image",
    "mfu",
    "roofline_fraction",
    "joules_per_image",
)

COLUMNS = (
    *("sweep_id", "cell_hash", "status", "validity", "validity_reasons", "device"),
    *("architecture", "precision", "effective_precision"),
    *PARAM_COLUMNS[2:],
    *("environment_hash", "stop_reason"),
    *METRIC_COLUMNS,
    "error",
)
