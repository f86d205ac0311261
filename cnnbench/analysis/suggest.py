"""What was not measured and would be worth measuring: cells that may beat the best one, with the reason."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnbench.analysis.settings import setting_key
from cnnbench.cell import MEMORY_FORMATS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.analysis.settings import Objective, Setting
    from cnnbench.cell import Cell
    from cnnbench.record import Record

WANTED_SEEDS = 4
LESS_MEMORY = {"none": "block"}


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A cell worth running, why, and the command that does."""

    cell: Cell
    why: str

    @property
    def command(self) -> str:
        """Return the command that measures it."""
        cell, recipe = self.cell, self.cell.recipe
        words = ["cnnbench", "run", "--architecture", cell.architecture]
        words += ["--precision", cell.precision, "--batch-size", str(cell.batch_size)]
        words += ["--checkpointing", cell.checkpointing, "--memory-format", cell.memory_format]
        words += ["--compile", cell.compile, "--seed", str(cell.seed), "--dataset", cell.dataset]
        words += ["--epochs", str(recipe.epochs), "--weights", recipe.weights]
        return shlex.join(words)


def suggestions(
    best: Setting,
    measured: list[Setting],
    records: list[Record],
    objective: Objective,
    *,
    budget_mib: float | None,
    default: Cell | None,
) -> list[Suggestion]:
    """Return what would be worth measuring beside `best`, the most telling first.

    Args:
        best: the recommended setting.
        measured: all settings of the architecture that have the objective.
        records: all its records, whatever came of them: what failed is not suggested again.
        objective: what counts.
        budget_mib: what a setting may take; larger forecasts are not suggested.
        default: the document's default, where that was not measured.
    """
    known = {setting_key(record.cell) for record in records}
    found: list[Suggestion] = []
    if default is not None:
        found.append(
            Suggestion(cell=default, why="the document's default: without it, no gain is known")
        )
    for cell, why in _neighbours(best, measured, records, budget_mib):
        if setting_key(cell) not in known and cell not in (one.cell for one in found):
            found.append(Suggestion(cell=cell, why=why))
    return [*found, *_again(best, measured, objective)]


def _neighbours(
    best: Setting, measured: list[Setting], records: list[Record], budget_mib: float | None
) -> Iterator[tuple[Cell, str]]:
    """Yield the cells one step away from the best one, each with the reason to try it."""
    cell = best.cell
    batches = [one.cell.batch_size for one in measured]
    if cell.batch_size == max(batches):
        doubled = replace(cell, batch_size=2 * cell.batch_size)
        need = _line(doubled, measured)
        if need is None or budget_mib is None or need <= budget_mib:
            text = "" if need is None else f"; would need about {need:,.0f} MiB"
            yield (
                doubled,
                f"the largest batch measured is the best: a larger one may be better{text}",
            )
    elsewhere = {r.cell.precision for r in records if r.status == "unsupported"}
    if not any(r.memory and r.memory.peak_reserved_bytes for r in records):
        elsewhere.add("tf32")  # which only GPUs have
    for precision in PRECISIONS:
        if precision not in elsewhere:
            yield replace(cell, precision=precision), "this precision was not measured here"
    for layout in MEMORY_FORMATS:
        yield replace(cell, memory_format=layout), "this memory layout was not measured here"
    over = budget_mib is not None and any((s.memory_mib or 0) > budget_mib for s in measured)
    if over and cell.checkpointing in LESS_MEMORY:
        tighter = replace(
            cell, checkpointing=LESS_MEMORY[cell.checkpointing], batch_size=2 * cell.batch_size
        )
        yield tighter, "the budget binds: recomputing may make room for a larger batch"


def _line(cell: Cell, measured: list[Setting]) -> float | None:
    """Return the memory that the two largest measured batches foretell of `cell`; peaks are linear in it."""
    alike = sorted(
        (one.cell.batch_size, one.memory_mib)
        for one in measured
        if one.memory_mib is not None
        and setting_key(replace(one.cell, batch_size=cell.batch_size)) == setting_key(cell)
    )
    if len(alike) < 2:  # noqa: PLR2004 - a line takes two points
        return None
    (small, less), (large, more) = alike[-2:]
    return more + (more - less) / (large - small) * (cell.batch_size - large)


def _again(best: Setting, measured: list[Setting], objective: Objective) -> Iterator[Suggestion]:
    """Yield what was measured, but not well enough."""
    for one in measured:
        if not one.is_valid and objective.gain(one.value, best.value) > 1:
            doubts = "; ".join(dict.fromkeys(t for r in one.records for t in r.validity_reasons))
            factor = objective.gain(one.value, best.value)
            why = f"it looked {factor:.2f} times as good, but is suspect ({doubts})"
            yield Suggestion(cell=one.cell, why=why)
    if len(best.records) < WANTED_SEEDS:
        seed = 1 + max(record.cell.seed for record in best.records)
        why = "the recommended setting again, in another process: it tells how processes differ"
        yield Suggestion(cell=replace(best.cell, seed=seed), why=why)
