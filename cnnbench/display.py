"""What a sweep looks like while it runs: a live display in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from cnnbench.sweep.run import Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cnnbench.cell import Cell
    from cnnbench.job import Finding
    from cnnbench.job import Progress as WorkerProgress
    from cnnbench.record import Record
    from cnnbench.sweep.plan import Plan

# Drawing takes processor time from the cell under way: seldom is enough.
REFRESHES_PER_SECOND = 1


class Pace:
    """Estimates the time left from the cells that have ended, each architecture by its own pace."""

    def __init__(self, cells: list[Cell]) -> None:
        """Take the cells that are to run."""
        self._left = [cell.architecture for cell in cells]
        self._seconds: dict[str, list[float]] = {}

    def add(self, record: Record) -> None:
        """Take a cell that has ended."""
        architecture = record.cell.architecture
        self._left.remove(architecture)
        seconds = record.finished_at - record.started_at
        self._seconds.setdefault(architecture, []).append(seconds)

    def seconds_left(self) -> float | None:
        """Return the estimate, or `None` before the first cell has ended."""
        ended = [seconds for group in self._seconds.values() for seconds in group]
        if not ended:
            return None
        overall = sum(ended) / len(ended)
        means = {name: sum(group) / len(group) for name, group in self._seconds.items()}
        return sum(means.get(name, overall) for name in self._left)


class PlainDisplay(Observer):
    """One line for each thing that happens, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._pace = Pace([])
        self._num_done = 0
        self._num_cells = 0

    def on_phase(self, text: str) -> None:
        """Say what is being done."""
        self._say(f"{text} ...")

    def on_plan(self, plan: Plan, cells: list[Cell]) -> None:
        """Say how many cells run and how many stand."""
        self._pace = Pace(cells)
        self._num_cells = len(plan.cells)
        self._num_done = self._num_cells - len(cells)
        self._say(plan_line(plan, cells))

    def on_record(self, record: Record) -> None:
        """Say what came of a cell."""
        self._num_done += 1
        self._pace.add(record)
        left = left_text(self._pace.seconds_left())
        self._say(f"[{self._num_done}/{self._num_cells}] {record_line(record)}{left}")

    def on_warning(self, text: str) -> None:
        """Say what the user should know."""
        self._say(f"note: {text}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """A progress bar with the cell under way, under the lines of the cells that have ended."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`, a terminal."""
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, left="")

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_phase(self, text: str) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=text)

    def on_plan(self, plan: Plan, cells: list[Cell]) -> None:
        """Start the bar."""
        super().on_plan(plan, cells)
        self._progress.update(self._task, total=self._num_cells, completed=self._num_done)

    def on_cell(self, cell: Cell) -> None:
        """Show the cell under way."""
        self._progress.update(self._task, description=escape(cell.name))

    def on_progress(self, cell: Cell, progress: WorkerProgress) -> None:
        """Show what its worker does."""
        text = progress.phase
        if progress.epoch is not None:
            text = f"epoch {progress.epoch}/{cell.recipe.epochs}"
        self._progress.update(self._task, description=f"{escape(cell.name)}: {text}")

    def on_record(self, record: Record) -> None:
        """Move the bar."""
        super().on_record(record)
        left = left_text(self._pace.seconds_left())
        self._progress.update(self._task, completed=self._num_done, left=left)


def plan_line(plan: Plan, cells: list[Cell]) -> str:
    """Say how many cells a sweep has and how many of them still have to run."""
    num_cells, num_done = len(plan.cells), len(plan.cells) - len(cells)
    noun = "1 cell" if num_cells == 1 else f"{num_cells} cells"
    if not cells:
        has = "has its result" if num_cells == 1 else "have their results"
        return f"{plan.sweep_id}: all of {noun} {has} already"
    resumed = f", {num_done} with a result already" if num_done else ""
    return f"{plan.sweep_id}: {noun}{resumed}"


def record_line(record: Record) -> str:
    """Say what came of one cell, in one line."""
    row = record.row()
    parts = [record.status.replace("_", " ")] if record.status != "completed" else []
    if row["images_per_second"] is not None:
        parts.append(f"{row['images_per_second']:,.0f} img/s")
    if row["peak_allocated_mib"] is not None:
        forecast = row["forecast_mib"]
        foreseen = "" if forecast is None else f" (forecast {forecast:,.0f})"
        parts.append(f"{row['peak_allocated_mib']:,.0f} MiB{foreseen}")
    if row["best_val_accuracy"] is not None:
        note = " (not meaningful)" if record.fit and record.fit.accuracy_note else ""
        parts.append(f"{row['best_val_accuracy']:.1%} val{note}")
    if record.validity != "valid":
        parts.append(f"{record.validity}: {'; '.join(record.validity_reasons)}")
    if record.error:
        parts.append(record.error)
    seconds = record.finished_at - record.started_at
    return f"{record.cell.name}  {'  '.join(parts)}  ({seconds:.1f} s)"


def left_text(seconds: float | None) -> str:
    """Say how much time is left, when that is known."""
    if not seconds:
        return ""
    clock = time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))  # noqa: PLR2004
    return f"  about {clock} left"


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Return what the doctor found as lines, each remedy under what it is for."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        status = finding.status.upper() if finding.status == "problem" else finding.status
        lines.append(f"{status:8} {finding.subject:{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':8} {'':{width}}  -> {finding.remedy}")
    return lines
