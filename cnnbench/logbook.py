"""Where a sweep is logged besides its journal: in MLflow, or nowhere."""

from __future__ import annotations

import shlex
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench.environment import masked
from cnnbench.errors import StoreError
from cnnbench.results import ARTIFACTS, NO_TRACKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.run import Observer

# Between two cells, no more than this goes into what an outage has left behind ...
CATCH_UP_SECONDS = 5.0
# ... and at the end of a sweep; the rest is left to `cnnbench sync`.
LAST_SECONDS = 120.0
# A call this slow is an outage, too.
SLOW_SECONDS = 5.0
# After one, so many times what it took passes before the next try: an outage costs 2 % of the time.
PATIENCE = 50.0
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 1800.0


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

    def catch_up(self, records: Sequence[Record]) -> bool:
        """Log those of the journal's `records` that are missing.

        Returns:
            Whether the sweep as a whole has to be logged, or logged again.
        """
        del records
        return False

    def log(self, record: Record) -> None:
        """Log one record."""

    def finish(self, records: Sequence[Record], page: Path) -> int:
        """Log the sweep as a whole, with its report; return how many runs could not be logged."""
        del records, page
        return 0

    def close(self) -> None:
        """Let go of the store."""


class MlflowLogbook(Logbook):
    """Logs to an MLflow store, whose outage costs no cell: what it lacks is tried again between cells."""

    def __init__(self, uri: str | None, results_dir: Path, observer: Observer) -> None:
        """Take the store's address, `None` being the results folder's own; nothing is opened yet."""
        self._uri = uri
        self._results_dir = results_dir
        self._observer = observer
        self._tracker: Any = None
        self._log: Any = None
        self._sweep_id = ""
        self._waiting: dict[str, Record] = {}  # by the cell's hash
        self._unseen: Sequence[Record] | None = None  # what the store may have, but was not asked
        self._outage = _Outage()

    def check(self) -> None:
        """Refuse a store that cannot be used; one that is not there yet is made later."""
        import_module("cnnbench.tracking").check_store(self._uri, self._results_dir)

    def open(self, sweep_id: str, profile: str, ready: Ready) -> None:
        """Open the store and find the sweep's experiment in it."""
        self._sweep_id = sweep_id
        self._tracker = import_module("cnnbench.tracking").open_store(self._uri, self._results_dir)
        self._log = self._tracker.sweep(
            sweep_id,
            profile=profile,
            environment=ready.environment,
            dataset=ready.dataset,
            artifacts_dir=self._results_dir / sweep_id / ARTIFACTS,
        )

    def catch_up(self, records: Sequence[Record]) -> bool:
        """Log what the store lacks of an earlier call, and supersede what it left half-written."""
        try:
            done = self._log.reconcile(records)
        except StoreError as error:
            self._unseen = records
            self._hear(error)
            return True
        if done.logged:
            self._observer.on_warning(f"logged {len(done.logged)} cells that MLflow had not got")
        return not done.is_finished

    def log(self, record: Record) -> None:
        """Log one record as one run, after those that wait; in an outage it waits with them."""
        self._waiting[record.cell_hash] = record
        if self._outage.is_over():
            self._log_waiting(CATCH_UP_SECONDS)

    def finish(self, records: Sequence[Record], page: Path) -> int:
        """Log what waits, then the report and the counts in the sweep's own run."""
        try:
            self._log_waiting(LAST_SECONDS)
            if not self._waiting and self._unseen is None:
                self._log.finish(records, report_dir=page.parent)
                return 0
        except StoreError as error:
            self._hear(error)
        self._observer.on_warning(
            f"not all of {page.parent.parent} is in MLflow"
            f" ({self._outage.reason or 'it is slow'}). Later: {self._sync_command()}"
        )
        return 1 + len(self._waiting) + len(self._unseen or ())

    def close(self) -> None:
        """Close the connections; a SQLite store is one file again."""
        if self._tracker is not None:
            self._tracker.close()

    def _log_waiting(self, seconds: float) -> None:
        """Log what waits, for `seconds` at most or until the store refuses."""
        deadline = time.monotonic() + seconds
        if self._unseen is not None and self._try(lambda: self._log.reconcile(self._unseen)):
            self._unseen = None
        while self._waiting and self._unseen is None and time.monotonic() < deadline:
            cell_hash, record = next(iter(self._waiting.items()))
            if not self._try(lambda record=record: self._log.log(record)):
                return
            del self._waiting[cell_hash]

    def _try(self, call: Any) -> bool:
        """Call, and return whether the store took it; a slow store is given a pause as well."""
        started = time.monotonic()
        try:
            call()
        except StoreError as error:
            self._hear(error, time.monotonic() - started)
            return False
        self._outage.end(time.monotonic() - started)
        return True

    def _hear(self, error: StoreError, seconds: float = 0.0) -> None:
        """Remember an outage; the user hears of its beginning only."""
        if not self._outage.reason:
            self._observer.on_warning(
                f"MLflow does not take records ({error}); they wait in the journal"
            )
        self._outage.begin(str(error), seconds)

    def _sync_command(self) -> str:
        words = ["cnnbench", "sync", "--results-dir", str(self._results_dir)]
        words += ["--tracking-uri", masked(self._uri)] if self._uri else []
        return shlex.join([*words, self._sweep_id])


class _Outage:
    """When the store may be asked again, and why it was not asked."""

    def __init__(self) -> None:
        self.reason = ""
        self._pause = FIRST_PAUSE_SECONDS
        self._next_try = 0.0

    def is_over(self) -> bool:
        """Say whether it is time to ask."""
        return time.monotonic() >= self._next_try

    def begin(self, reason: str, seconds: float) -> None:
        """A call failed that took `seconds`: each time in a row the pause doubles."""
        self.reason = reason
        self._wait(max(self._pause, PATIENCE * seconds))
        self._pause *= 2

    def end(self, seconds: float) -> None:
        """A call succeeded that took `seconds`."""
        self.reason = ""
        self._pause = FIRST_PAUSE_SECONDS
        if seconds > SLOW_SECONDS:
            self._wait(PATIENCE * seconds)

    def _wait(self, seconds: float) -> None:
        self._next_try = time.monotonic() + min(seconds, LONGEST_PAUSE_SECONDS)


def logbook(uri: str | None, results_dir: Path, observer: Observer) -> Logbook:
    """Return the logbook for `uri`: an MLflow address, `none`, or `None` for the default store."""
    return Logbook() if uri == NO_TRACKING else MlflowLogbook(uri, results_dir, observer)
