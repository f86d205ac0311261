"""One call of `cnnbench forecast`: what cells will need, without running any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnbench.data.sizes import sizes_of
from cnnbench.forecast import PARTS, Setting, questions
from cnnbench.job import ForecastJob
from cnnbench.record import MIB
from cnnbench.session import Session
from cnnbench.sweep.foresight import foresee
from cnnbench.sweep.run import Observer
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.cell import Cell
    from cnnbench.environment import Environment
    from cnnbench.forecast import Outlook


@dataclass(frozen=True, kw_only=True)
class Outlooks:
    """What was forecast; `largest_batch` in them is for `memory_bytes`, which are `memory_of`."""

    outlooks: tuple[Outlook, ...]
    memory_bytes: int
    memory_of: str

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each setting and batch size; what is not known is `None`."""
        return [row for outlook in self.outlooks for row in _rows(outlook)]


def forecast_memory(profile: str, settings: dict[str, Any]) -> Outlooks:
    """Forecast the cells that `run` would run with the same arguments; nothing is written.

    Without a memory budget the largest batch is for the memory of the device, as far as it is known.

    Raises:
        CnnbenchError: what the user can put right.
    """
    session = Session(profile, settings, Observer())
    with launcher(session.options.isolation) as workers:
        environment = session.choose_profile(workers)
        memory_bytes, memory_of = _memory(session, environment)
        jobs = _jobs(session.cells(), memory_bytes, environment.device_type)
        return Outlooks(
            outlooks=tuple(foresee(workers, jobs)), memory_bytes=memory_bytes, memory_of=memory_of
        )


def _memory(session: Session, environment: Environment) -> tuple[int, str]:
    budget = session.options.budget_bytes
    if budget is not None:
        return budget, "the budget"
    if environment.device_memory_bytes is not None:
        return environment.device_memory_bytes, environment.device
    return environment.memory_bytes, "this machine"


def _jobs(cells: list[Cell], memory_bytes: int, device_type: str) -> list[ForecastJob]:
    """Return a job for each model that is to be built."""
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_model_of(cell), []).append(cell)
    return [
        ForecastJob(
            questions=questions(own, memory_bytes, device_type=device_type),
            image_size=image_size,
            num_classes=num_classes,
        )
        for (_, image_size, num_classes), own in groups.items()
    ]


def _model_of(cell: Cell) -> tuple[str, int, int]:
    """Return the cell's architecture, and the side of the images and the classes it is built for."""
    image_size, num_classes = sizes_of(cell.dataset)
    recipe = cell.recipe
    return cell.architecture, recipe.image_size or image_size, recipe.num_classes or num_classes


def _rows(outlook: Outlook) -> Iterator[dict[str, Any]]:
    named = {name: getattr(outlook.setting, name) for name in Setting.__dataclass_fields__}
    if outlook.reason is not None:
        yield {**named, "reason": outlook.reason}
        return
    for forecast in outlook.forecasts:
        yield {
            **named,
            "batch_size": forecast.batch_size,
            **{f"{name}_mib": getattr(forecast, name) / MIB for name in PARTS},
            "forecast_mib": forecast.total / MIB,
            "largest_batch": outlook.largest_batch,
        }
