"""One call of `cnnbench run --find-max-batch`: the exact largest batch of each setting, by trying.

Each try is a cell in a worker of its own, a fresh allocator, and ends in the journal as any cell does:
`completed` or `out_of_memory`. The first is the forecast's; a call that was broken off goes on from the
tries that it finds there.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cnnbench.amounts import bytes_text
from cnnbench.analysis.replacing import replacing
from cnnbench.cell import Timing
from cnnbench.errors import InvalidValueError
from cnnbench.forecast import Question, Setting, forecasts_of
from cnnbench.search import Try, largest_batch
from cnnbench.session import Session
from cnnbench.sweep.run import Observer, run_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cnnbench.cell import Cell
    from cnnbench.environment import Environment
    from cnnbench.forecast import Outlook
    from cnnbench.job import CellJob
    from cnnbench.record import Record
    from cnnbench.results import Records
    from cnnbench.sweep.plan import Plan
    from cnnbench.sweep.workers import Launcher

TABLE = "largest_batches.csv"
# Memory is settled after a few steps; how fast they are is another question.
TRY_TIMING = Timing(
    window_seconds=0.001,
    min_windows=2,
    max_windows=2,
    half_width=0.5,
    limit_seconds=1.0,
    warmup_steps=1,
)
# What a line is laid through, and where the search begins where nothing is forecast.
PROBED_BATCH_SIZES = (32, 64, 128)
FIRST_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class LargestBatch:
    """The largest batch of one setting, or the `reason` why it is not known.

    `status` is `completed`, or that of the try that said nothing of memory: then there is a reason.
    `batch_size` 0 means that not even one image fits. `forecast_batch_size` is what the forecast said,
    `peak_bytes` the peak measured at the largest that fits, `num_tries` how many cells it took.
    """

    status: str
    architecture: str
    precision: str
    checkpointing: str
    memory_format: str
    compile: str
    seed: int
    memory_budget_bytes: int | None
    batch_size: int | None
    forecast_batch_size: int | None
    peak_bytes: int | None
    num_tries: int
    reason: str | None = None


class _CannotTryError(Exception):
    """A try ended in a way that says nothing of memory."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.error or record.status)
        self.status = record.status


class _Tries(Observer):
    """Tells the user's observer of tries, whose number nobody knows before."""

    def __init__(self, inner: Observer) -> None:
        self.on_phase = inner.on_phase  # type: ignore[method-assign]
        self.on_warning = inner.on_warning  # type: ignore[method-assign]


class MaxBatchSession(Session):
    """A search for the largest batch of every setting that axes and profile span."""

    def __init__(self, profile: str, settings: dict[str, Any], observer: Observer) -> None:
        """Check what can be checked without starting a process.

        Raises:
            CnnbenchError: naming what is wrong.
        """
        if settings.get("batch_size"):
            msg = "--find-max-batch looks for the batch size itself: leave --batch-size out."
            raise InvalidValueError(msg)
        if settings.get("epochs"):
            msg = "--find-max-batch trains nothing: leave --epochs out."
            raise InvalidValueError(msg)
        super().__init__(profile, settings, _Tries(observer))
        self.command += " --find-max-batch"
        self.found: list[LargestBatch] = []

    def cells(self) -> list[Cell]:
        """Return one cell of a single image for each setting: they stand for those to be tried."""
        return list(dict.fromkeys(_stand_in(cell) for cell in super().cells()))

    def choose_profile(self, workers: Launcher) -> Environment:
        """Let the machine decide, and refuse a search without an end.

        Raises:
            InvalidValueError: there is no budget where one is needed, or more than there is memory.
        """
        environment = super().choose_profile(workers)
        budget = self.options.budget_bytes
        has = environment.device_memory_bytes or environment.memory_bytes
        if budget is None and environment.device_type == "cpu":
            msg = "--find-max-batch on a CPU needs --memory-budget, such as 2GiB."
            raise InvalidValueError(msg)
        if budget is not None and budget > has:
            msg = (
                f"a memory budget of {bytes_text(budget)} is more than the {bytes_text(has)} here."
            )
            raise InvalidValueError(msg)
        return environment

    def _questions(self, cells: list[Cell], environment: Environment) -> tuple[Question, ...]:
        budget = self.options.budget_bytes or environment.device_memory_bytes
        # A whole device never is free: then the first try is one that does not fit, and no harm.
        settings = dict.fromkeys(Setting.of(cell, environment.device_type) for cell in cells)
        return tuple(
            Question(setting=one, batch_sizes=PROBED_BATCH_SIZES, budget_bytes=budget)
            for one in settings
        )

    def run(self) -> Records:
        """Find every largest batch that is not known yet, and write them all down.

        Raises:
            CnnbenchError: what is wrong was found before the first try, and nothing was written.
        """
        records = super().run()
        if records.folder is not None:
            _write(self.found, records.folder / TABLE)
        return records

    def _missing(self, plan: Plan, stand: list[Record]) -> list[Cell]:  # noqa: ARG002 (tries stand, settings do not)
        return list(plan.cells)

    def _peaks(self, *_: object) -> None:
        """Return none: tries are not timed against a roofline."""

    def _work(
        self,
        workers: Launcher,
        cells: list[Cell],
        stand: list[Record],
        environment: Environment,
        job: Callable[[Cell], CellJob],
        keep: Callable[[Record], None],
    ) -> None:
        """Search for each of `cells`, which stand for their settings; tries in `stand` are not repeated."""
        known = {
            (record.cell_hash, record.environment_hash): record
            for record in stand
            if not (self.options.retry_failed and record.status in {"failed", "timeout"})
        }
        outlooks = {outlook.setting: outlook for outlook in self.outlooks}

        def attempt(cell: Cell, outlook: Outlook | None) -> Record:
            if outlook is not None:
                self.forecasts.update(forecasts_of([cell], [outlook]))
            asked = job(cell)
            record = known.get((cell.hash, asked.environment_hash))
            if record is None:
                record = run_job(
                    workers, asked, environment, timeout_seconds=self.options.cell_timeout
                )
                keep(record)
            self.observer.on_phase(try_line(record))
            return record

        for cell in cells:
            outlook = outlooks.get(Setting.of(cell, environment.device_type))
            self.found.append(_search(cell, outlook, partial(attempt, outlook=outlook)))


def _stand_in(cell: Cell) -> Cell:
    recipe = replace(cell.recipe, epochs=0)
    return replace(cell, batch_size=1, recipe=recipe, timing=TRY_TIMING)


def _search(
    stand_in: Cell, outlook: Outlook | None, attempt: Callable[[Cell], Record]
) -> LargestBatch:
    records: dict[int, Record] = {}

    def one_try(batch_size: int) -> Try:
        record = attempt(replace(stand_in, batch_size=batch_size))
        records[batch_size] = record
        if not _tells_of_memory(record):
            raise _CannotTryError(record)
        return Try(
            batch_size=batch_size,
            fits=record.status == "completed",
            peak_bytes=record.memory.peak_allocated_bytes if record.memory else None,
        )

    forecast = outlook.largest_batch if outlook else None
    largest, status, reason = None, "completed", None
    try:
        largest = largest_batch(
            one_try,
            start=FIRST_BATCH_SIZE if forecast is None else forecast,
            budget_bytes=stand_in.memory_budget_bytes,
        )
    except _CannotTryError as error:
        status, reason = error.status, str(error)
    found = records.get(largest or 0)
    return LargestBatch(
        status=status,
        architecture=stand_in.architecture,
        precision=stand_in.precision,
        checkpointing=stand_in.checkpointing,
        memory_format=stand_in.memory_format,
        compile=stand_in.compile,
        seed=stand_in.seed,
        memory_budget_bytes=stand_in.memory_budget_bytes,
        batch_size=largest,
        forecast_batch_size=forecast,
        peak_bytes=found.memory.peak_allocated_bytes if found and found.memory else None,
        num_tries=len(records),
        reason=reason,
    )


def _tells_of_memory(record: Record) -> bool:
    """Say whether the try fitted or not; one image alone may be too few for BatchNorm, and then none fit."""
    too_few = record.status == "unsupported" and record.cell.batch_size == 1
    return too_few or record.status in {"completed", "out_of_memory"}


def try_line(record: Record) -> str:
    """Say what came of one try."""
    peak = record.memory.peak_allocated_bytes if record.memory else None
    said = {"completed": "fits", "out_of_memory": "does not fit"}
    parts = [said.get(record.status, record.status), bytes_text(peak) if peak else ""]
    return f"{record.cell.name}: {', '.join(part for part in parts if part)}"


def _write(found: Sequence[LargestBatch], path: Path) -> None:
    """Write one row for each setting; what is not known is empty."""
    names = [field.name for field in fields(LargestBatch)]
    with (
        replacing(path) as partial_path,
        partial_path.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(one, name) for name in names] for one in found)
