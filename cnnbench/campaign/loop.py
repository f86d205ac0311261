"""Runs studies until each claim is decided or the time is over: seed by seed, look by look."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from cnnbench import data
from cnnbench.analysis.replacing import replacing
from cnnbench.campaign.book import PROFILE, StudyBook
from cnnbench.campaign.prepare import prepare
from cnnbench.digest import digest
from cnnbench.errors import WorkerError
from cnnbench.job import CellJob, PeaksJob
from cnnbench.results import ENVIRONMENT, Records, artifacts_folder
from cnnbench.session import (
    absolute,
    check_writable,
    device_of,
    earlier_peaks,
    nothing_left_behind,
    pretty,
)
from cnnbench.sweep.journal import NAME as JOURNAL
from cnnbench.sweep.journal import Journal, read_journal
from cnnbench.sweep.plan import Plan
from cnnbench.sweep.run import find_peaks, look, run_job
from cnnbench.sweep.studies import STUDIES, load_study
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from cnnbench.campaign.trial import Trial
    from cnnbench.cell import Cell
    from cnnbench.environment import Environment, Peaks
    from cnnbench.job import Ready
    from cnnbench.options import Options
    from cnnbench.record import Record
    from cnnbench.study import Study, Verdict
    from cnnbench.sweep.run import Observer
    from cnnbench.sweep.workers import Launcher

FOLDER = "studies"
# A cell whose speed others spoilt is measured once more, and no more.
MAX_ATTEMPTS = 2
LEARNT = frozenset({"completed", "diverged"})
PREPARED = "prepared"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a call of `cnnbench study` found: verdicts, the records behind them, where the pages lie."""

    verdicts: tuple[Verdict, ...]
    records: Records
    folder: Path

    @property
    def has_failed_cell(self) -> bool:
        """Return whether a cell that a verdict needed failed or ran out of time."""
        return any(record.status in {"failed", "timeout"} for record in self.records)

    @property
    def is_undecided(self) -> bool:
        """Return whether a verdict is open: inconclusive, or without enough seeds that count."""
        return any(one.outcome == "inconclusive" or one.is_open for one in self.verdicts)


class Campaign:
    """Several studies in one folder of cells, so that what they share runs once.

    The folder is that of the environment: any later call with any studies finds the cells in it.
    """

    def __init__(
        self,
        names: Sequence[str],
        options: Options,
        observer: Observer,
        *,
        budget_seconds: float | None = None,
    ) -> None:
        """Check everything that can be checked without starting a process.

        Raises:
            CnnbenchError: naming what is wrong.
        """
        self._names = list(dict.fromkeys(names))
        self._options = options
        self._observer = observer
        self._budget_seconds = budget_seconds
        self._deadline = float("inf")
        self._results_dir = absolute(options.results_dir)
        self._studies("cpu")
        check_writable(self._results_dir)
        uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._book = StudyBook(uri, self._results_dir, observer)
        self._records: dict[str, Record] = {}
        self._attempts: Counter[str] = Counter()

    def run(self) -> Findings:
        """Run what has no result yet, while the time lasts, and return the verdicts.

        Raises:
            CnnbenchError: what is wrong was found before the first cell, and nothing was written.
        """
        if self._budget_seconds is not None:
            self._deadline = time.monotonic() + self._budget_seconds
        with launcher(self._options.isolation) as workers, closing(self._book):
            self._observer.on_phase("starting the workers")
            self._book.check()
            with nothing_left_behind(self._results_dir / PREPARED):
                environment = look(workers, self._options.device)
                studies = self._studies(environment.device_type)
                trials = self._prepare(workers, environment, studies)
            sweep_id = f"{PROFILE}-{digest(environment.hash_with(), length=12)}"
            folder = self._results_dir / sweep_id
            with Journal(folder / JOURNAL) as journal:
                self._read(folder / JOURNAL, trials)
                self._book.open(
                    sweep_id, {trial.study.name: trial.ready for trial in trials if trial.ready}
                )
                bench = _Bench(workers, journal, environment, sweep_id, folder)
                return self._run(bench, trials)

    def _studies(self, device_type: str) -> list[Study]:
        studies = [load_study(name, device_type=device_type) for name in self._names]
        changes: dict[str, Any] = {}
        if self._options.dataset:
            changes["dataset"] = self._options.dataset
        if self._options.download is not None:
            changes["download"] = self._options.download
        studies = [replace(study, **changes) for study in studies]
        for study in studies:
            data.check_name(study.dataset)
        return studies

    def _prepare(
        self, workers: Launcher, environment: Environment, studies: Sequence[Study]
    ) -> list[Trial]:
        trials = []
        for study in studies:
            self._observer.on_phase(f"checking what {study.name} needs")
            trials.append(
                prepare(
                    workers,
                    study,
                    environment,
                    records=self._records,
                    data_dir=absolute(self._options.data_dir),
                    cache_dir=self._results_dir / PREPARED,
                    # Of many studies the others can still be judged.
                    is_lenient=len(studies) > 1,
                )
            )
        return trials

    def _read(self, path: Path, trials: Sequence[Trial]) -> None:
        """Take the records that stand: of this environment, these data and this code."""
        known = {environment_hash(trial, name) for trial in trials for name in _models(trial)}
        retried = {"failed", "timeout"} if self._options.retry_failed else set()
        for record in [] if self._options.fresh else read_journal(path):
            if record.environment_hash in known and record.status not in retried:
                self._records[record.cell_hash] = record
        self._attempts.update(_attempts(path))

    def _run(self, bench: _Bench, trials: Sequence[Trial]) -> Findings:
        bench.peaks = self._peaks(bench, trials)
        _write_surroundings(bench, trials, self._command())
        try:
            self._run_trials(bench, trials)
        finally:
            used = [record for trial in trials for record in trial.used()]
            records = Records(
                list({record.cell_hash: record for record in used}.values()), bench.folder
            )
            everything = read_journal(bench.folder / JOURNAL)
            if everything:
                import_module("cnnbench.analysis.frame").write_tables(everything, bench.folder)
        self._observer.on_phase("writing the verdicts")
        verdicts = self._write(bench, trials)
        return Findings(verdicts=tuple(verdicts), records=records, folder=bench.folder / FOLDER)

    def _run_trials(self, bench: _Bench, trials: Sequence[Trial]) -> None:
        """Give each study in turn the cells of its next look, so that all get their first seeds first."""
        is_going_on = True
        while is_going_on:
            is_going_on = False
            for trial in trials:
                while cells := trial.next_cells():
                    is_going_on = True
                    self._observer.on_plan(_plan(trial, cells), cells)
                    if self._run_cells(bench, trial, cells):
                        break
                    if self._is_late():
                        self._observer.on_warning("the budget is used up: the same call goes on")
                        return

    def _run_cells(self, bench: _Bench, trial: Trial, cells: Sequence[Cell]) -> bool:
        """Run `cells`; return `False` where one was lost, and its claims with it: fewer may be needed."""
        for number in range(len(cells)):
            if self._is_late():
                return False
            if self._run_cell(bench, trial, cells[number:]).status not in LEARNT:
                return False
        return True

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _run_cell(self, bench: _Bench, trial: Trial, cells: Sequence[Cell]) -> Record:
        """Run the first of `cells`; a timed one that was disturbed is measured once more."""
        cell = cells[0]
        while True:
            self._observer.on_cell(cell)
            record = run_job(
                bench.workers,
                _job(bench, trial, cell),
                bench.environment,
                on_progress=partial(self._observer.on_progress, cell),
                timeout_seconds=self._options.cell_timeout,
            )
            bench.journal.append(record)
            self._records[record.cell_hash] = record
            self._attempts[record.cell_hash] += 1
            self._book.log(trial.study.name, record)
            self._observer.on_record(record)
            is_spoilt = record.validity == "suspect" and cell.timing.max_windows > 0
            if not is_spoilt or self._attempts[record.cell_hash] >= MAX_ATTEMPTS:
                return record
            self._observer.on_plan(_plan(trial, cells), list(cells))

    def _write(self, bench: _Bench, trials: Sequence[Trial]) -> list[Verdict]:
        pages = import_module("cnnbench.report.study_pages")
        folder = bench.folder / FOLDER
        verdicts: list[Verdict] = []
        for trial in trials:
            own = trial.verdicts()
            verdicts += own
            command = self._command([trial.study.source or trial.study.name])
            page = pages.write_study(trial.study, own, folder, command=command)
            files = [path for path in (page, page.with_suffix(".png")) if path.exists()]
            self._book.finish(trial.study.name, trial.used(), own, files)
        pages.write_overview(verdicts, folder, command=self._command(), order=list(STUDIES))
        return verdicts

    def _peaks(self, bench: _Bench, trials: Sequence[Trial]) -> Peaks | None:
        """Measure what the device can reach, where a cell is to be timed against it."""
        timed = [precision for trial in trials for precision in trial.timed_precisions()]
        if not timed or self._is_late():
            return None
        self._observer.on_phase("measuring what the device can reach")
        job = PeaksJob(
            device=device_of(bench.environment),
            device_uuid=bench.environment.device_uuid,
            precisions=tuple(dict.fromkeys(["fp32", *timed])),
        )
        try:
            return find_peaks(bench.workers, job)
        except WorkerError as error:
            self._observer.on_warning(f"no MFU and no roofline: {error}")
            return None

    def _command(self, names: Sequence[str] | None = None) -> str:
        """Return the command that repeats this, without paths of this machine."""
        shown = self._names if names is None else list(names)
        words = ["cnnbench", "study", *(["--all"] if shown == list(STUDIES) else shown)]
        if self._options.dataset:
            words += ["--dataset", self._options.dataset]
        return shlex.join(words)


class _Bench:
    """Where cells run and are kept."""

    def __init__(
        self,
        workers: Launcher,
        journal: Journal,
        environment: Environment,
        sweep_id: str,
        folder: Path,
    ) -> None:
        self.workers = workers
        self.journal = journal
        self.environment = environment
        self.sweep_id = sweep_id
        self.folder = folder
        self.peaks: Peaks | None = None


def environment_hash(trial: Trial, architecture: str) -> str:
    """Return the hash of what a result depends on besides its cell."""
    assert trial.ready is not None  # noqa: S101 (only what can run has cells)
    ready = trial.ready
    return ready.environment.hash_with(ready.dataset.digest, ready.model_digests[architecture])


def _models(trial: Trial) -> Iterable[str]:
    return trial.ready.model_digests if trial.ready else ()


def _job(bench: _Bench, trial: Trial, cell: Cell) -> CellJob:
    assert trial.ready is not None  # noqa: S101 (only what can run has cells)
    return CellJob(
        cell=cell,
        dataset=trial.ready.dataset,
        device=device_of(bench.environment),
        device_uuid=bench.environment.device_uuid,
        sweep_id=bench.sweep_id,
        environment_hash=environment_hash(trial, cell.architecture),
        peaks=bench.peaks,
        folder=str(artifacts_folder(bench.folder, cell.hash)),
    )


def _plan(trial: Trial, cells: Sequence[Cell]) -> Plan:
    """Return what an observer is told of: the study, and what of it runs now."""
    return Plan(sweep_id=trial.study.name, cells=tuple(cells), environment_hashes={})


def _attempts(path: Path) -> Mapping[str, int]:
    """Return how often each cell has been run, by what the journal holds of it."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    decoder: Callable[[bytes], _Hash] = msgspec.json.Decoder(_Hash).decode
    return Counter(decoder(line).cell_hash for line in lines)


class _Hash(msgspec.Struct):
    cell_hash: str


def _write_surroundings(bench: _Bench, trials: Sequence[Trial], command: str) -> None:
    """Write `environment.json`; data sets are told without their paths on this machine."""
    readies: list[Ready] = [trial.ready for trial in trials if trial.ready]
    datasets = {ready.dataset.name: asdict(replace(ready.dataset, path="")) for ready in readies}
    surroundings = {
        **asdict(bench.environment),
        "peaks": bench.peaks or earlier_peaks(bench.folder / ENVIRONMENT),
        "dataset": next(iter(datasets.values()), None),
        "datasets": datasets,
        "model_digests": {
            name: code for ready in readies for name, code in ready.model_digests.items()
        },
        "profile": PROFILE,
        "command": command,
    }
    with replacing(bench.folder / ENVIRONMENT) as path:
        path.write_bytes(pretty(surroundings))
