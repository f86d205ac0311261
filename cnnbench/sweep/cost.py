"""What a grid will cost, said before it runs."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.cell import Cell
    from cnnbench.record import Record


def describe(cells: Sequence[Cell], past: Sequence[Record]) -> str:
    """Say how long `cells` may take, from `past` records of the same architectures if there are any."""
    timed = sum(cell.timing.limit_seconds for cell in cells if cell.timing.max_windows)
    epochs = sum(cell.recipe.epochs for cell in cells)
    bound = (
        f"{len(cells)} cells: at most {_clock(timed)} of timed windows, and up to {epochs} epochs"
        " of training; set-up and warm-up come on top."
    )
    seconds: dict[str, list[float]] = {}
    for record in past:
        spent = record.finished_at - record.started_at
        seconds.setdefault(record.cell.architecture, []).append(spent)
    known = [statistics.mean(seconds[c.architecture]) for c in cells if c.architecture in seconds]
    if not known:
        return bound
    past_cells = f"Past cells of the same architectures suggest {_clock(sum(known))}"
    return f"{bound}\n{past_cells} for {len(known)} of them."


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
