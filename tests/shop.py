"""A launcher in a folder of models that misbehave, and what it takes to run a cell of one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.job import CellJob, Preflight
from cnnbench.sweep.plan import make_plan
from cnnbench.sweep.run import Observer, run_cells

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.workers import Launcher

TIMING = Timing(window_seconds=0.001, min_windows=2, max_windows=2, limit_seconds=1, warmup_steps=1)
DATASET = "synthetic(num_images=64)"


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A launcher with what the preflight found, in the folder of a module with models."""

    workers: Launcher
    ready: Ready
    folder: Path
    module: str

    def run(self, model: str, *, timeout_seconds: float | None = None, **recipe: Any) -> Record:
        """Run one cell of `model` to its end."""
        records: list[Record] = []
        run_cells(
            self.workers,
            [self.job(f"{self.module}:{model}", **recipe)],
            self.ready.environment,
            timeout_seconds=timeout_seconds,
            observer=Observer(),
            keep=records.append,
        )
        return records[0]

    def job(self, architecture: str, **recipe: Any) -> CellJob:
        """Return the job of one short cell."""
        cell = Cell(
            architecture=architecture,
            dataset=DATASET,
            batch_size=16,
            timing=TIMING,
            recipe=Recipe(**{"epochs": 0, **recipe}),
        )
        ready = replace(self.ready, model_digests={architecture: ""})
        plan = make_plan("test", [cell], ready)
        return CellJob(
            cell=plan.cells[0],
            dataset=ready.dataset,
            device="cpu",
            sweep_id=plan.sweep_id,
            environment_hash=plan.environment_hash(plan.cells[0]),
        )

    def told(self, name: str = "told.json") -> Any:
        """Return what a model has written down."""
        return json.loads((self.folder / name).read_text())


def preflight(folder: Path, *models: str, **changes: Any) -> Preflight:
    """Return what is asked before the first cell."""
    job = Preflight(
        device="cpu",
        dataset=DATASET,
        data_dir=str(folder),
        cache_dir=str(folder),
        download=False,
        image_size=8,
        models=tuple((model, "none") for model in models),
    )
    return replace(job, **changes)
