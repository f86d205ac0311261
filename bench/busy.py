"""What a sweep spends its time on besides its cells: `make bench-harness ARGS="--only sweep"`.

The busy fraction is the time that cells profile and train, their set-up (data, model, the first step)
left out, over the whole call: the imports, the preflight, the peaks and the report are in the wall time.
The rest is told by parts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest import mock

from bench.figures import Figure, count_figure, figure
from cnnbench import api
from cnnbench.sweep.run import Observer
from cnnbench.tracking import SweepLog, tracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.cell import Cell
    from cnnbench.record import Record
    from cnnbench.results import Records

MIN_BUSY = 0.9
MAX_TRACKING_MS = 30.0
# Three sizes of batch in place of the profile's two make 48 cells of its 32.
AXES = {"batch_size": [16, 32, 64]}


@dataclass
class Clock(Observer):
    """Notes when what happens: `kept` by cell, when its record was on the disk and logged."""

    planned_at: float = 0.0
    first_cell_at: float = 0.0
    kept: dict[str, float] = field(default_factory=dict)

    def on_plan(self, *_: object) -> None:
        """Note the end of the preflight."""
        self.planned_at = time.time()

    def on_cell(self, cell: Cell) -> None:
        """Note the first cell."""
        del cell
        self.first_cell_at = self.first_cell_at or time.time()

    def on_record(self, record: Record) -> None:
        """Note that a record is kept."""
        self.kept[record.cell_hash] = time.time()


class TimedLog(SweepLog):
    """Logs as it always does, and notes when in `SPANS`."""

    def log(self, record: Record) -> str:
        """Log one cell between two looks at the clock."""
        start = time.time()
        run_id = super().log(record)
        SPANS.append((start, time.time()))
        return run_id


SPANS: list[tuple[float, float]] = []


def figures(folder: Path) -> list[Figure]:
    """Run the sweep in `folder` and return what it spent its time on."""
    SPANS.clear()
    clock = Clock()
    start = time.time()
    with mock.patch.object(tracker, "SweepLog", TimedLog):
        records = api.run("quick", observer=clock, results_dir=folder, tracking_uri=None, **AXES)
    end = time.time()
    return list(_told(records, clock, start, end))


def _told(records: Records, clock: Clock, start: float, end: float) -> Iterator[Figure]:
    device = records[0].device
    workload = f"quick profile, {len(records)} cells"
    own = sum(_own_seconds(record) for record in records)
    setup = sum(record.profile.setup_seconds for record in records if record.profile)
    spans = [record.finished_at - record.started_at for record in records]
    last_kept = max(clock.kept.values())
    parts = {
        "sweep_wall": ("the whole call", end - start),
        "sweep_before": ("imports, preflight and plan", clock.planned_at - start),
        "sweep_peaks": ("the device's peaks", clock.first_cell_at - clock.planned_at),
        "sweep_setup": ("cells' data, model and first step", setup),
        "sweep_between": (
            "starting, ending, journalling and logging cells",
            last_kept - clock.first_cell_at - sum(spans),
        ),
        "sweep_after": ("tables and report", end - last_kept),
    }
    busy = own / (end - start)
    yield figure("sweep_busy", workload, [busy], "of 1", device=device, at_least=MIN_BUSY)
    for name, (what, seconds) in parts.items():
        yield figure(name, f"{workload}: {what}", [seconds], "s", device=device)
    yield figure(
        "sweep_tracking_per_cell",
        f"{workload}: MLflow on SQLite",
        [1e3 * (stop - begin) for begin, stop in SPANS],
        "ms",
        device=device,
        at_most=MAX_TRACKING_MS,
    )
    yield count_figure(
        "sweep_tracking_beside_cells",
        f"{workload}: logged while a cell ran, or after the last was kept",
        sum(_is_beside(span, records) or span[1] > last_kept for span in SPANS),
        device=device,
        total=len(SPANS),
        at_most=0,
    )


def _own_seconds(record: Record) -> float:
    setup = record.profile.setup_seconds if record.profile else 0.0
    return record.finished_at - record.started_at - setup


def _is_beside(span: tuple[float, float], records: Records) -> bool:
    """Say whether MLflow was written to while any cell's worker was at work."""
    start, stop = span
    return any(start < one.finished_at and stop > one.started_at for one in records)
