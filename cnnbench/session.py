"""One call of `cnnbench run`: checks everything, runs what is missing, writes what came of it."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cnnbench import architectures, data
from cnnbench.analysis.replacing import replacing
from cnnbench.errors import CnnbenchError, StoreError, WorkerError
from cnnbench.forecast import doubts, forecasts_of, questions
from cnnbench.job import EXTRAS, CellJob, PeaksJob, Preflight
from cnnbench.logbook import logbook
from cnnbench.options import AUTO, command_line, sort_settings
from cnnbench.record import MIB
from cnnbench.results import ENVIRONMENT, Records, artifacts_folder, write_report
from cnnbench.sweep.journal import NAME as JOURNAL
from cnnbench.sweep.journal import Journal, read_journal
from cnnbench.sweep.lanes import Lanes, lanes_of, run_in_lanes
from cnnbench.sweep.order import in_order
from cnnbench.sweep.plan import make_plan
from cnnbench.sweep.profiles import load_profile
from cnnbench.sweep.run import Observer, check, find_peaks, look
from cnnbench.sweep.workers import Launcher, Place, proxy_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cnnbench.cell import Cell
    from cnnbench.environment import Environment, Peaks
    from cnnbench.forecast import Forecast, Outlook, Question
    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.plan import Plan

PREPARED = "prepared"
COMPILED = "compiled"


class Session:
    """A sweep as one user asked for it, from the first check to the report."""

    def __init__(self, profile: str, settings: dict[str, Any], observer: Observer) -> None:
        """Check everything that can be checked without starting a process.

        Raises:
            CnnbenchError: naming what is wrong.
        """
        self.options, self.axes, self.recipe = sort_settings(settings)
        self.command = command_line(profile, settings)
        self.observer = observer
        self.results_dir = absolute(self.options.results_dir)
        self.data_dir = absolute(self.options.data_dir)
        uri = self.options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.logbook = logbook(uri, self.results_dir, observer)
        # Which profile `auto` becomes only a worker can tell; each must stand what was asked.
        self._profile = load_profile("quick" if profile == AUTO else profile)
        self._is_auto = profile == AUTO
        # What the preflight forecast: by setting, and for each cell by its hash.
        self.outlooks: tuple[Outlook, ...] = ()
        self.forecasts: dict[str, Forecast] = {}
        for cell in self.cells():
            architectures.check_name(cell.architecture)
        data.check_name(self.options.dataset or self._profile.dataset)
        check_writable(self.results_dir)

    def cells(self) -> list[Cell]:
        """Return the cells as asked for, not yet resolved against the data set."""
        profile = self._profile
        if self.options.dataset:
            profile = replace(profile, dataset=self.options.dataset)
        cells = profile.cells(axes=self.axes, recipe=self.recipe)
        budget = self.options.budget_bytes
        return [replace(cell, memory_budget_bytes=budget) for cell in cells] if budget else cells

    def choose_profile(self, workers: Launcher) -> Environment:
        """Let the machine decide on the profile where the user did not."""
        environment = look(workers, self.options.device)
        if self._is_auto and environment.device_type == "cuda":
            self._profile = load_profile("gpu")
        self._is_auto = False
        return environment

    def run(self) -> Records:
        """Run what has no result yet and return all records of the sweep.

        Raises:
            CnnbenchError: what is wrong was found before the first cell, and nothing was written.
        """
        options, place = self.options, self._place()
        with Lanes(options.isolation, options.device, place) as workers, closing(self.logbook):
            self.observer.on_phase("starting the workers")
            # While they import torch, on the other core: what this process will need.
            import_module("cnnbench.analysis.frame")
            self.logbook.check()
            with nothing_left_behind(self.results_dir / PREPARED):
                plan, ready = self._plan(workers)
                self.observer.on_phase("opening the tracking store")
                self.logbook.open(plan.sweep_id, self._profile.name, ready)
            folder = self.results_dir / plan.sweep_id
            with Journal(folder / JOURNAL) as journal:
                return self._run(workers, plan, ready, journal, folder)

    def _plan(self, workers: Launcher) -> tuple[Plan, Ready]:
        environment = self.choose_profile(workers)
        self.observer.on_phase("checking data, models and weights")
        cells = self.cells()
        download = self.options.download
        job = Preflight(
            device=device_of(environment),
            dataset=cells[0].dataset,
            data_dir=str(self.data_dir),
            cache_dir=str(self.results_dir / PREPARED),
            download=self._profile.download if download is None else download,
            image_size=cells[0].recipe.image_size,
            models=tuple(dict.fromkeys((c.architecture, c.recipe.weights) for c in cells)),
            proxies=proxy_variables(os.environ),
            questions=self._questions(cells, environment),
        )
        ready = check(workers, job, model_seconds=self.options.cell_timeout)
        plan = make_plan(self._profile.name, cells, ready)
        self.outlooks = ready.outlooks
        self.forecasts = forecasts_of(plan.cells, ready.outlooks)
        return plan, ready

    def _questions(
        self,
        cells: list[Cell],
        environment: Environment,
    ) -> tuple[Question, ...]:
        """Return what to forecast of `cells`."""
        return questions(cells, device_type=environment.device_type)

    def _run(
        self, workers: Launcher, plan: Plan, ready: Ready, journal: Journal, folder: Path
    ) -> Records:
        done = {record.cell_hash: record for record in read_journal(folder / JOURNAL)}
        must_finish = self.logbook.catch_up(list(done.values()))
        for note in ready.notes:
            self.observer.on_warning(note)
        stand = [] if self.options.fresh else list(done.values())
        missing = self._missing(plan, stand)
        self.observer.on_plan(plan, missing)
        self._warn(missing, ready.environment)
        peaks = self._peaks(workers, ready.environment, missing)
        self._write_surroundings(folder, ready, peaks)

        kept: list[Record] = []

        def keep(record: Record) -> None:
            journal.append(record)
            kept.append(record)
            done[record.cell_hash] = record
            self.logbook.log(record)

        def job(cell: Cell) -> CellJob:
            return self._job(cell, plan, ready, peaks, folder)

        try:
            self._work(workers, missing, stand, ready.environment, job, keep)
        except BaseException:
            with suppress(CnnbenchError):  # what ended the cells is what the user has to hear
                _tabulate(done.values(), folder)
            raise
        records = _tabulate(done.values(), folder)
        if kept or must_finish or not _has_report(folder):
            self.observer.on_phase("writing the report")
            records.num_unlogged = self.logbook.finish(records, write_report(folder))
        return records

    def _place(self) -> Place:
        """Return where workers run: anywhere, with one cache of what they compile for all sweeps here."""
        caches = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
        folder = self.results_dir / COMPILED
        return Place(
            variables={
                variable: str(folder / name)
                for variable, name in caches.items()
                if variable not in os.environ
            }
        )

    def _missing(self, plan: Plan, stand: list[Record]) -> list[Cell]:
        """Return the cells that have no record in `stand`, in the order in which they should run."""
        missing = plan.missing(
            stand, retry_failed=self.options.retry_failed, artifacts=self._artifacts()
        )
        mib = {hash_: forecast.total / MIB for hash_, forecast in self.forecasts.items()}
        return in_order(missing, forecast_mib=mib)

    def _work(
        self,
        workers: Launcher,
        cells: list[Cell],
        stand: list[Record],  # noqa: ARG002 (for overriding)
        environment: Environment,
        job: Callable[[Cell], CellJob],
        keep: Callable[[Record], None],
    ) -> None:
        """Run `cells`, which have no record that stands."""
        run_in_lanes(
            lanes_of(workers),
            [job(cell) for cell in cells],
            environment,
            timeout_seconds=self.options.cell_timeout,
            observer=self.observer,
            keep=keep,
        )

    def _warn(self, cells: list[Cell], environment: Environment) -> None:
        """Say which of `cells` may not fit."""
        memory = environment.device_memory_bytes or environment.memory_bytes
        memory = min(memory, self.options.budget_bytes or memory)
        for doubt in doubts(cells, self.forecasts, memory):
            self.observer.on_warning(doubt)

    def _artifacts(self) -> set[str]:
        """Return the names of the files that every cell is to leave."""
        return {name for extra in self.options.extras for name in EXTRAS[extra]}

    def _peaks(
        self, workers: Launcher, environment: Environment, cells: list[Cell]
    ) -> Peaks | None:
        """Measure what the device can reach, where a cell is to be timed against it."""
        timed = [cell.precision for cell in cells if cell.timing.max_windows]
        if not timed:
            return None
        self.observer.on_phase("measuring what the device can reach")
        job = PeaksJob(
            device=device_of(environment),
            device_uuid=environment.device_uuid,
            # Every cell may hold operators that compute in fp32.
            precisions=tuple(dict.fromkeys(["fp32", *timed])),
        )
        try:
            return find_peaks(workers, job)
        except WorkerError as error:  # a device that is nearly full, say: cells need less than this
            self.observer.on_warning(f"no MFU and no roofline: {error}")
            return None

    def _job(
        self, cell: Cell, plan: Plan, ready: Ready, peaks: Peaks | None, folder: Path
    ) -> CellJob:
        forecast = self.forecasts.get(cell.hash)
        return CellJob(
            cell=cell,
            dataset=ready.dataset,
            device=device_of(ready.environment),
            device_uuid=ready.environment.device_uuid,
            sweep_id=plan.sweep_id,
            environment_hash=plan.environment_hash(cell),
            peaks=peaks,
            folder=str(artifacts_folder(folder, cell.hash)),
            extras=self.options.extras,
            weights_sha256=ready.weights_sha256s.get(cell.recipe.weights, ""),
            forecast_bytes=forecast.total if forecast else None,
        )

    def _write_surroundings(self, folder: Path, ready: Ready, peaks: Peaks | None) -> None:
        """Write `environment.json`; the data set is told without its path on this machine."""
        surroundings = {
            **asdict(ready.environment),
            "peaks": peaks or earlier_peaks(folder / ENVIRONMENT),
            "dataset": asdict(replace(ready.dataset, path="")),
            "model_digests": ready.model_digests,
            "profile": self._profile.name,
            "command": self.command,
        }
        with replacing(folder / ENVIRONMENT) as path:
            path.write_bytes(pretty(surroundings))


def _tabulate(done: Iterable[Record], folder: Path) -> Records:
    """Write the tables of what is done, and return it."""
    records = Records(list(done), folder)
    if records:
        import_module("cnnbench.analysis.frame").write_tables(records, folder)
    return records


def _has_report(folder: Path) -> bool:
    """Say whether there is a report, of all that the journal holds."""
    page = folder / "report" / "index.html"
    return page.exists() and page.stat().st_mtime_ns >= (folder / JOURNAL).stat().st_mtime_ns


def absolute(path: str | Path) -> Path:
    """Return `path` from the root on, a `~` at its beginning spelt out.

    Raises:
        StoreError: there is no such user.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        msg = f"there is no folder {str(path)!r}: {error}"
        raise StoreError(msg) from error


@contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """Take away what was put into `folder` when what follows is refused."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(folder.glob("*"))
    try:
        yield
    except CnnbenchError:
        for path in set(folder.glob("*")) - before:
            path.unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):  # another sweep may have put something there
                path.rmdir()
        raise


def check_writable(folder: Path) -> None:
    """Refuse a results folder that cannot be written, without making it."""
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror}. Choose another --results-dir."
        raise StoreError(msg) from error
    if not existing.is_dir():
        msg = f"{existing} is a file: choose another --results-dir."
        raise StoreError(msg)
    if not os.access(existing, os.W_OK | os.X_OK):
        msg = f"cannot write in {existing}: choose another --results-dir."
        raise StoreError(msg)


def device_of(environment: Environment) -> str:
    """Return what PyTorch calls the environment's device: `cpu`, `cuda:0`."""
    index = environment.device_index
    return environment.device_type if index is None else f"{environment.device_type}:{index}"


def earlier_peaks(path: Path) -> Any:
    """Return the peaks of the session that ran the sweep's cells: this one has nothing to run."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]).get("peaks")
    return None


def pretty(value: object) -> bytes:
    """Return `value` as JSON for readers."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
