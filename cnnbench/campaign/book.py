"""Where studies are logged besides the journal: their cells and their verdicts in MLflow, or nowhere."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench.errors import StoreError
from cnnbench.results import ARTIFACTS, NO_TRACKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.study import Verdict
    from cnnbench.sweep.run import Observer

PROFILE = "studies"


class StudyBook:
    """Logs to an MLflow store; one that refuses costs no cell: the next call logs what is missing."""

    def __init__(self, uri: str | None, results_dir: Path, observer: Observer) -> None:
        """Take the store's address, `None` being the results folder's own, or `none`."""
        self._uri = uri
        self._results_dir = results_dir
        self._observer = observer
        self._tracker: Any = None
        self._logs: dict[str, Any] = {}
        # A cell that several studies share is one run, under the first that needed it.
        self._owners: dict[str, str] = {}

    @property
    def is_kept(self) -> bool:
        """Return whether anything is logged at all."""
        return self._uri != NO_TRACKING

    def check(self) -> None:
        """Refuse a store that cannot be used; one that is not there yet is made later.

        Raises:
            StoreError: saying why.
        """
        if self.is_kept:
            import_module("cnnbench.tracking").check_store(self._uri, self._results_dir)

    def open(self, sweep_id: str, studies: dict[str, Ready]) -> None:
        """Open the store for the studies that can run.

        Raises:
            StoreError: it cannot be made or reached.
        """
        if not self.is_kept:
            return
        self._tracker = import_module("cnnbench.tracking").open_store(self._uri, self._results_dir)
        for study, ready in studies.items():
            self._logs[study] = self._tracker.sweep(
                sweep_id,
                profile=PROFILE,
                environment=ready.environment,
                dataset=ready.dataset,
                study=study,
                artifacts_dir=self._results_dir / sweep_id / ARTIFACTS,
            )

    def log(self, study: str, record: Record) -> None:
        """Log a record under the study that it was run for."""
        self._owners.setdefault(record.cell_hash, study)
        log = self._logs.get(self._owners[record.cell_hash])
        if log is None:
            return
        try:
            log.log(record)
        except StoreError as error:
            self._observer.on_warning(
                f"{record.cell.name} is in the journal, not in MLflow ({error});"
                " the same command logs it later"
            )

    def finish(
        self,
        study: str,
        records: Sequence[Record],
        verdicts: Sequence[Verdict],
        files: Sequence[Path],
    ) -> None:
        """Log what earlier calls could not, and the study's own run: its verdicts and pages."""
        log = self._logs.get(study)
        if log is None:
            return
        own = [r for r in records if self._owners.setdefault(r.cell_hash, study) == study]
        try:
            log.reconcile(own)
            log.log_verdicts(verdict_tags(verdicts), verdict_metrics(verdicts), files)
        except StoreError as error:
            self._observer.on_warning(f"the verdicts on {study} are not in MLflow ({error})")

    def close(self) -> None:
        """Close the connections; a SQLite store is one file again."""
        if self._tracker is not None:
            self._tracker.close()


def verdict_tags(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return each verdict in words, under a name that tells claim and variant."""
    return {
        f"verdict.{name}": " ".join(filter(None, (one.outcome, one.reason and f"({one.reason})")))
        for name, one in _named(verdicts).items()
    }


def verdict_metrics(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the effects, their bounds and seeds, and how many verdicts there are of each outcome."""
    metrics: dict[str, float] = {}
    for name, one in _named(verdicts).items():
        for key in ("effect", "low", "high", "num_seeds"):
            value = getattr(one, key)
            if value is not None:
                metrics[f"{name}/{key}"] = float(value)
    for one in verdicts:
        metrics[f"num_{one.outcome}"] = metrics.get(f"num_{one.outcome}", 0.0) + 1
    return metrics


def _named(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    """Return the verdicts under names that MLflow takes."""
    allowed = re.compile(r"[^A-Za-z0-9_. -]+")
    return {allowed.sub("", f"{one.variant} - {one.claim}")[:200].strip(): one for one in verdicts}
