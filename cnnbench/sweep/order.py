"""In which order cells run: those that can use each other's compiled code together, short ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnbench.cell import Cell


def in_order(
    cells: Sequence[Cell], *, forecast_mib: Mapping[str, float] | None = None
) -> list[Cell]:
    """Return `cells` in the order in which they should run; what comes of them does not depend on it.

    Cells of one model in one precision, layout and mode of compilation stay together, the groups in the
    order of their first cells: they share kernels that were compiled or tuned. In a group those with the
    least to do come first, so that there is something to see soon; of equal ones those that need the
    least memory, so that what may not fit comes last.

    Args:
        cells: what is to run.
        forecast_mib: the peak memory that is expected of cells, by their hash; between cells of which
            nothing is expected the batch size decides.
    """
    memory = forecast_mib or {}
    first: dict[tuple[object, ...], int] = {}
    for number, cell in enumerate(cells):
        first.setdefault(_group(cell), number)

    def rank(cell: Cell) -> tuple[float, ...]:
        return (first[_group(cell)], *_work(cell), memory.get(cell.hash, 0.0), cell.batch_size)

    return sorted(cells, key=rank)


def _group(cell: Cell) -> tuple[object, ...]:
    recipe = cell.recipe
    return (
        *(cell.architecture, recipe.image_size, recipe.num_classes, cell.dataset),
        *(cell.compile, cell.memory_format, cell.precision),
    )


def _work(cell: Cell) -> tuple[float, float]:
    """Return what bounds the time of a cell among those of its group: of its windows, and of its epochs."""
    timed = cell.timing.limit_seconds if cell.timing.max_windows else 0.0
    images_an_epoch = cell.recipe.train_subset or float("inf")
    return timed, cell.recipe.epochs * images_an_epoch if cell.recipe.epochs else 0.0
