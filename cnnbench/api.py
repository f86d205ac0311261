"""The whole job as functions: run a sweep, load its records, build a model."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import msgspec

from cnnbench import architectures, data
from cnnbench.analysis.replacing import replacing
from cnnbench.cell import AXES, Recipe
from cnnbench.environment import DatasetInfo, Environment
from cnnbench.errors import CnnbenchError, InvalidValueError, StoreError, miss
from cnnbench.job import Preflight
from cnnbench.sweep.journal import NAME as JOURNAL
from cnnbench.sweep.journal import Journal, read_journal
from cnnbench.sweep.plan import make_plan
from cnnbench.sweep.profiles import Profile, load_profile
from cnnbench.sweep.run import Observer, check, look, run_cells
from cnnbench.sweep.workers import Launcher, launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    import torch

    from cnnbench.cell import Cell
    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.plan import Plan
    from cnnbench.tracking import SweepLog

ENVIRONMENT = "environment.json"
PREPARED = "prepared"
RESULTS_DIR = "results/local"
DATA_DIR = "~/.cache/cnnbench"
NO_TRACKING = "none"
AUTO = "auto"
RECIPE = tuple(f.name for f in fields(Recipe))


class Records(Sequence["Record"]):
    """The records of one or more sweeps, in the order in which their cells ended."""

    def __init__(self, records: Sequence[Record], folder: Path | None = None) -> None:
        """Hold `records`; `folder` is where their tables and report lie."""
        self._records = tuple(records)
        self.folder = folder

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Return one record, or several."""
        return self._records[index]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def __repr__(self) -> str:
        """Say how many there are, and where."""
        return f"<{len(self)} records{f' in {self.folder}' if self.folder else ''}>"

    def to_frame(self) -> pd.DataFrame:
        """Return the table of `cells.csv` as a pandas DataFrame, one row a cell."""
        frame: pd.DataFrame = import_module("cnnbench.analysis.frame").to_frame(self)
        return frame


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a sweep runs; what it runs is its cells' business."""

    dataset: str | None = None
    data_dir: str | Path = DATA_DIR
    download: bool | None = None
    device: str = AUTO
    tracking_uri: str | None = None
    results_dir: str | Path = RESULTS_DIR
    isolation: str = "forkserver"
    cell_timeout: float | None = None
    fresh: bool = False
    retry_failed: bool = False


def run(profile: str = "quick", *, observer: Observer | None = None, **settings: Any) -> Records:
    """Run a sweep, or what is missing of it, and return all its records.

    Args:
        profile: `quick`, `gpu`, `full`, a TOML file, or `auto` (`gpu` on CUDA, else `quick`).
        observer: hears what happens; by default nothing is shown.
        settings: the fields of `Options`; any axis (`architecture`, `precision`, `batch_size`,
            `checkpointing`, `memory_format`, `compile`, `loader`, `seed`), a value or a list, which
            replaces the profile's; any name of the `Recipe` (`epochs`, `learning_rate`, ...).

    Raises:
        CnnbenchError: what the user can put right, found before the first cell.
    """
    return Sweep(profile, settings, observer or Observer()).run()


def plan(profile: str = "quick", **settings: Any) -> list[Cell]:
    """Return the cells that `run` would run with the same arguments; runs and writes nothing."""
    sweep = Sweep(profile, settings, Observer())
    if profile == AUTO:
        with launcher(sweep.options.isolation) as workers:
            sweep.choose_profile(workers)
    return sweep.cells()


def load(path: str | Path = RESULTS_DIR) -> Records:
    """Return the records of one sweep's folder, or of every sweep in a results folder.

    Raises:
        StoreError: there is no sweep in `path`, or a journal is damaged.
    """
    folder = Path(path)
    if (folder / JOURNAL).exists():
        return Records(read_journal(folder / JOURNAL), folder)
    journals = sorted(folder.glob(f"*/{JOURNAL}"))
    if not journals:
        msg = f"there is no sweep in {folder}: no {JOURNAL} in it or in a folder of it."
        raise StoreError(msg)
    return Records([record for path in journals for record in read_journal(path)], folder)


def build(
    architecture: str, *, num_classes: int = 10, image_size: int = 32, weights: str = "none"
) -> torch.nn.Module:
    """Return the model that cells of `architecture` train, such as `resnet(width=16)`.

    Raises:
        CnnbenchError: an unknown name or parameter, or weights that cannot be had.
    """
    return architectures.build(
        architecture, num_classes=num_classes, image_size=image_size, weights=weights
    )


class Sweep:
    """One call of `run`: plans, checks, runs what is missing, and writes what came of it."""

    def __init__(
        self,
        profile: str,
        settings: dict[str, Any],
        observer: Observer,
    ) -> None:
        """Check everything that can be checked without starting a process.

        Raises:
            CnnbenchError: naming what is wrong.
        """
        self.options, self.axes, self.recipe = _sort(settings)
        self.command = command_line(profile, settings)
        self.observer = observer
        self.results_dir = _absolute(self.options.results_dir)
        self.data_dir = _absolute(self.options.data_dir)
        self.tracking_uri = self.options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        # Which profile `auto` becomes only a worker can tell; each must stand what was asked.
        self._profile = load_profile("quick" if profile == AUTO else profile)
        self._is_auto = profile == AUTO
        for cell in self.cells():
            architectures.check_name(cell.architecture)
        data.check_name(self.options.dataset or self._profile.dataset)
        _check_writable(self.results_dir)

    def cells(self) -> list[Cell]:
        """Return the cells as asked for, not yet resolved against the data set."""
        profile = self._profile
        if self.options.dataset:
            profile = replace(profile, dataset=self.options.dataset)
        return profile.cells(axes=self.axes, recipe=self.recipe)

    def run(self) -> Records:
        """Run what is missing; see `run`."""
        with launcher(self.options.isolation) as workers:
            self.observer.on_phase("starting the workers")
            # While they import torch, on the other core: what this process will need.
            import_module("cnnbench.analysis.frame")
            self._check_store()
            with _nothing_left_behind(self.results_dir / PREPARED):
                plan, ready = self._plan(workers)
                log = self._open_log(plan, ready)
            return self._run(workers, plan, ready, log)

    def choose_profile(self, workers: Launcher) -> Environment:
        """Let the machine decide on the profile where the user did not."""
        environment = look(workers, self.options.device)
        if self._is_auto and environment.device_type == "cuda":
            self._profile = load_profile("gpu")
        self._is_auto = False
        return environment

    @property
    def profile(self) -> Profile:
        """Return the profile in force."""
        return self._profile

    def _plan(self, workers: Launcher) -> tuple[Plan, Ready]:
        environment = self.choose_profile(workers)
        self.observer.on_phase("checking data, models and weights")
        cells = self.cells()
        download = self.options.download
        job = Preflight(
            device=_device_of(environment),
            dataset=cells[0].dataset,
            data_dir=str(self.data_dir),
            cache_dir=str(self.results_dir / PREPARED),
            download=self._profile.download if download is None else download,
            image_size=cells[0].recipe.image_size,
            models=tuple(dict.fromkeys((c.architecture, c.recipe.weights) for c in cells)),
        )
        ready = check(workers, job)
        return make_plan(self._profile.name, cells, ready), ready

    def _run(self, workers: Launcher, plan: Plan, ready: Ready, log: SweepLog | None) -> Records:
        folder = self.results_dir / plan.sweep_id
        with Journal(folder / JOURNAL) as journal:
            done = {record.cell_hash: record for record in read_journal(folder / JOURNAL)}
            with replacing(folder / ENVIRONMENT) as path:
                path.write_bytes(_pretty(self._surroundings(ready)))
            num_logged = self._reconcile(log, list(done.values()))
            for note in ready.notes:
                self.observer.on_warning(note)
            stand = [] if self.options.fresh else list(done.values())
            missing = plan.missing(stand, retry_failed=self.options.retry_failed)
            self.observer.on_plan(plan, missing)

            def keep(record: Record) -> None:
                journal.append(record)
                done[record.cell_hash] = record
                if log is not None:
                    self._log(log, record)

            try:
                run_cells(
                    workers,
                    plan,
                    missing,
                    ready,
                    device=_device_of(ready.environment),
                    timeout_seconds=self.options.cell_timeout,
                    observer=self.observer,
                    keep=keep,
                )
            finally:
                records = Records(list(done.values()), folder)
                if records:
                    import_module("cnnbench.analysis.frame").write_tables(records, folder)
            if missing or num_logged or not (folder / "report" / "index.html").exists():
                self.observer.on_phase("writing the report")
                page = _write_report(records, folder)
                if log is not None:
                    self._finish(log, records, page)
        return records

    def _surroundings(self, ready: Ready) -> dict[str, Any]:
        """Return what `environment.json` says; the data set without its path on this machine."""
        return {
            **asdict(ready.environment),
            "dataset": asdict(replace(ready.dataset, path="")),
            "model_digests": ready.model_digests,
            "profile": self._profile.name,
            "command": self.command,
        }

    def _check_store(self) -> None:
        """Refuse a store that cannot be used; one that is not there yet is made later."""
        uri = self.tracking_uri or f"sqlite:///{self.results_dir / 'mlflow.db'}"
        if uri == NO_TRACKING:
            return
        tracking = import_module("cnnbench.tracking")
        if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists():
            tracking.open_store(self.tracking_uri, self.results_dir, create=False).close()

    def _open_log(self, plan: Plan, ready: Ready) -> SweepLog | None:
        if self.tracking_uri == NO_TRACKING:
            return None
        self.observer.on_phase("opening the tracking store")
        store = import_module("cnnbench.tracking").open_store(self.tracking_uri, self.results_dir)
        log: SweepLog = store.sweep(
            plan.sweep_id,
            profile=self._profile.name,
            environment=ready.environment,
            dataset=ready.dataset,
        )
        return log

    def _reconcile(self, log: SweepLog | None, records: list[Record]) -> int:
        """Return how many of the journal's `records` MLflow had not got until now."""
        logged = log.reconcile(records).logged if log is not None else ()
        if logged:
            self.observer.on_warning(f"logged {len(logged)} cells that MLflow had not got")
        return len(logged)

    def _log(self, log: SweepLog, record: Record) -> None:
        """Log `record`; a store that refuses costs no cell: the next call logs what is missing."""
        try:
            log.log(record)
        except StoreError as error:
            self.observer.on_warning(
                f"{record.cell.name} is in the journal, not in MLflow ({error});"
                " the same command logs it later"
            )

    def _finish(self, log: SweepLog, records: Records, page: Path) -> None:
        try:
            log.finish(records, report_dir=page.parent)
        except StoreError as error:
            self.observer.on_warning(f"the report is in {page.parent}, not in MLflow ({error})")


def report(path: str | Path | None = None) -> Path:
    """Write tables, figures and the page of one sweep anew and return the page's path.

    Args:
        path: the sweep's folder; by default the one of `results/local` that ended last.

    Raises:
        StoreError: there is no sweep, or its files are damaged.
    """
    folder = latest_sweep(RESULTS_DIR) if path is None else Path(path)
    records = Records(read_journal(folder / JOURNAL), folder)
    if not records:
        msg = f"there are no records in {folder / JOURNAL}: nothing to report."
        raise StoreError(msg)
    import_module("cnnbench.analysis.frame").write_tables(records, folder)
    return _write_report(records, folder)


def latest_sweep(results_dir: str | Path) -> Path:
    """Return the folder of the sweep in `results_dir` whose journal was written last.

    Raises:
        StoreError: there is none.
    """
    journals = list(Path(results_dir).glob(f"*/{JOURNAL}"))
    if not journals:
        msg = f"there is no sweep in {results_dir}: run one first."
        raise StoreError(msg)
    return max(journals, key=lambda path: path.stat().st_mtime).parent


def _write_report(records: Records, folder: Path) -> Path:
    path = folder / ENVIRONMENT
    try:
        table = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        page: Path = import_module("cnnbench.report.page").write_report(
            records,
            msgspec.convert(table, Environment),
            msgspec.convert(table["dataset"], DatasetInfo),
            folder,
            table["command"],
            profile=table["profile"],
        )
    except (OSError, msgspec.DecodeError, KeyError) as error:
        msg = f"cannot read {path}: {error}"
        raise StoreError(msg) from error
    return page


def command_line(profile: str, settings: dict[str, Any]) -> str:
    """Return the command that runs the same sweep.

    >>> command_line("quick", {"precision": ["fp32", "bf16"], "epochs": 0, "dataset": None})
    'cnnbench run --profile quick --precision fp32,bf16 --epochs 0'
    """
    words = ["cnnbench", "run", *(["--profile", profile] if profile != AUTO else [])]
    elsewhere = ("results_dir", "tracking_uri", "fresh", "retry_failed")  # do not change the cells
    usual = {field.name: field.default for field in fields(Options)}
    for name, value in settings.items():
        if value is None or name in elsewhere or value == usual.get(name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list | tuple | range) else [value]
            words += [f"--{flag}", ",".join(map(str, values))]
    return shlex.join(words)


def _sort(settings: dict[str, Any]) -> tuple[Options, dict[str, list[Any]], dict[str, Any]]:
    """Tell options, axes and recipe apart."""
    options = [f.name for f in fields(Options)]
    for name in settings:
        if name not in {*options, *AXES, *RECIPE}:
            raise InvalidValueError(miss("setting", name, [*options, *AXES, *RECIPE]))
    given = {name: value for name, value in settings.items() if value is not None}
    axes = {
        name: list(value) if isinstance(value, list | tuple | range) else [value]
        for name, value in given.items()
        if name in AXES
    }
    recipe = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if name in RECIPE
    }
    return Options(**{n: v for n, v in given.items() if n in options}), axes, recipe


def _absolute(path: str | Path) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        msg = f"there is no folder {str(path)!r}: {error}"
        raise StoreError(msg) from error


@contextmanager
def _nothing_left_behind(folder: Path) -> Iterator[None]:
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


def _check_writable(folder: Path) -> None:
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


def _device_of(environment: Environment) -> str:
    index = environment.device_index
    return environment.device_type if index is None else f"{environment.device_type}:{index}"


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
