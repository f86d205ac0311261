"""What came of a cell, whatever came of it: its measurement and its training, and its row of the table."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from cnnbench.cell import Cell, Recipe
from cnnbench.diagnosis import Diagnosis, diagnose
from cnnbench.measurement import Memory, Probe, Profile, Roofline

STATUSES = ("completed", "out_of_memory", "diverged", "timeout", "failed", "unsupported")
VALIDITIES = ("valid", "suspect", "invalid")
MIB = 2**20


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
    """One finished cell, whatever came of it.

    `probes` are what proved `effective_precision`, `kernels` the names of the CUDA kernels that multiplied
    in a step, and `flags` PyTorch's numeric switches as the step found them. `notes` are remarks that are
    no faults; `unknowns` say, by what was asked, why it could not be measured. `artifacts` are the names
    of the files that the cell left beside its record. `forecast_bytes` is the peak memory that was forecast.
    """

    sweep_id: str
    cell: Cell
    cell_hash: str
    environment_hash: str
    status: str
    device: str
    validity: str = "valid"
    validity_reasons: tuple[str, ...] = ()
    effective_precision: str | None = None
    probes: tuple[Probe, ...] = ()
    kernels: tuple[str, ...] = ()
    flags: dict[str, str] = field(default_factory=dict)
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    profile: Profile | None = None
    memory: Memory | None = None
    forecast_bytes: int | None = None
    roofline: Roofline | None = None
    fit: Fit | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    unknowns: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    started_at: float = 0.0
    finished_at: float = 0.0
    start_seconds: float | None = None
    stderr_tail: str = field(default="", repr=False)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Return what the curves say of the training; `None` where nothing was trained."""
        if self.fit is None:
            return None
        return diagnose(
            self.fit.epochs,
            num_classes=self.cell.recipe.num_classes or 1,
            diverged=self.status == "diverged",
        )

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
            "diagnosis": self.diagnosis.kind if self.diagnosis else None,
            **self.metrics(),
            "error": self.error,
        }
        return {name: row.get(name) for name in COLUMNS}

    def metrics(self) -> dict[str, Any]:
        """Return the measured columns; `stop_reason` is the one that is text."""
        return dict(self._metrics)

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        """Hold them: tables, figures and judgements ask again and again."""
        return {
            "num_parameters": self.num_parameters,
            "forecast_mib": _mib(self.forecast_bytes),
            **self._profile_metrics(),
            **self._memory_metrics(),
            **self._roofline_metrics(),
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
            "joules_per_image": (
                profile.energy.joules_per_step / batch_size if profile.energy else None
            ),
        }

    def _memory_metrics(self) -> dict[str, Any]:
        memory = self.memory
        if memory is None:
            return {}
        return {
            "peak_allocated_mib": _mib(memory.peak_allocated_bytes),
            "peak_reserved_mib": _mib(memory.peak_reserved_bytes),
            "process_mib": _mib(memory.process_bytes),
            "setup_peak_mib": _mib(memory.setup_peak_bytes),
            "data_mib": _mib(memory.data_bytes),
            "num_alloc_retries": memory.num_alloc_retries,
        }

    def _roofline_metrics(self) -> dict[str, Any]:
        roofline, profile = self.roofline, self.profile
        if roofline is None:
            return {}
        metrics = {"model_gflops_per_image": roofline.model_flops / self.cell.batch_size / 1e9}
        if profile is None:
            return metrics
        rate = roofline.model_flops / profile.median_step_seconds
        return {
            **metrics,
            "mfu": rate / roofline.peak_flops_per_second,
            "roofline_fraction": roofline.bound_seconds / profile.median_step_seconds,
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
    "parallelism",
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
    "forecast_mib",
    "peak_reserved_mib",
    "process_mib",
    "setup_peak_mib",
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
    *("environment_hash", "stop_reason", "diagnosis"),
    *METRIC_COLUMNS,
    "error",
)
