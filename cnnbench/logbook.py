"""Where a sweep is logged besides its journal: in MLflow, or nowhere."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench.errors import StoreError
from cnnbench.results import ARTIFACTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.run import Observer

NO_TRACKING = "none"


class Logbook:
    """Logs nothing: the journal alone is kept."""

    def check(self) -> None:
        """Refuse what cannot be logged to, writing nothing.

        Raises:
            StoreError: saying why.
        """

    def open(self, sweep_id: str, profile: str, ready: Ready) -> None:
        """Open it for one sweep, making the store if it is not there.

        Raises:
            StoreError: it cannot be made or reached.
        """

    def catch_up(self, records: Sequence[Record]) -> int:
        """Log those of the journal's `records` that are missing, and return how many were."""
        del records
        return 0

    def log(self, record: Record) -> None:
        """Log one record."""

    def finish(self, records: Sequence[Record], page: Path) -> None:
        """Log the sweep as a whole, with its report."""

    def close(self) -> None:
        """Let go of the store."""


class MlflowLogbook(Logbook):
    """Logs to an MLflow store. One that refuses costs no cell: the next call logs what is missing."""

    def __init__(self, uri: str | None, results_dir: Path, observer: Observer) -> None:
        """Take the store's address, `None` being the results folder's own; nothing is opened yet."""
        self._uri = uri
        self._results_dir = results_dir
        self._observer = observer
        self._tracker: Any = None
        self._log: Any = None

    def check(self) -> None:
        """Refuse a store that cannot be used; one that is not there yet is made later."""
        import_module("cnnbench.tracking").check_store(self._uri, self._results_dir)

    def open(self, sweep_id: str, profile: str, ready: Ready) -> None:
        """Open the store and find the sweep's experiment in it."""
        self._tracker = import_module("cnnbench.tracking").open_store(self._uri, self._results_dir)
        self._log = self._tracker.sweep(
            sweep_id,
            profile=profile,
            environment=ready.environment,
            dataset=ready.dataset,
            artifacts_dir=self._results_dir / sweep_id / ARTIFACTS,
        )

    def catch_up(self, records: Sequence[Record]) -> int:
        """Log what the store lacks of an earlier call, and supersede what it left half-written."""
        num_logged = len(self._log.reconcile(records).logged)
        if num_logged:
            self._observer.on_warning(f"logged {num_logged} cells that MLflow had not got")
        return num_logged

    def log(self, record: Record) -> None:
        """Log one record as one run."""
        try:
            self._log.log(record)
        except StoreError as error:
            self._observer.on_warning(
                f"{record.cell.name} is in the journal, not in MLflow ({error});"
                " the same command logs it later"
            )

    def finish(self, records: Sequence[Record], page: Path) -> None:
        """Log the report and the counts in the sweep's own run."""
        try:
            self._log.finish(records, report_dir=page.parent)
        except StoreError as error:
            self._observer.on_warning(f"the report is in {page.parent}, not in MLflow ({error})")

    def close(self) -> None:
        """Close the connections; a SQLite store is one file again."""
        if self._tracker is not None:
            self._tracker.close()


def logbook(uri: str | None, results_dir: Path, observer: Observer) -> Logbook:
    """Return the logbook for `uri`: an MLflow address, `none`, or `None` for the default store."""
    return Logbook() if uri == NO_TRACKING else MlflowLogbook(uri, results_dir, observer)
