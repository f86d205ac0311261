"""Replays journals into a tracking store: after an outage, or into another store."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.errors import StoreError
from cnnbench.results import ARTIFACTS, read_surroundings
from cnnbench.sweep.journal import NAME as JOURNAL
from cnnbench.sweep.journal import keep_still, read_journal
from cnnbench.tracking import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnbench.record import Record
    from cnnbench.tracking import Reconciled, Tracker

# What our own identifiers look like. A journal may come from elsewhere, and these end up in questions to
# the store and in names of files.
_SWEEP_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_CELL_HASH = re.compile(r"[0-9a-f]{8,64}")


def replay(
    sweeps: Sequence[str], results_dir: Path, uri: str | None, *, say: Callable[[str], Any]
) -> None:
    """Log to the store at `uri` what it lacks of `sweeps`, and say of each what that was.

    Args:
        sweeps: folders, or names in `results_dir`; by default all that are there and not being written.
        results_dir: where the sweeps lie, and the default store.
        uri: MLflow's store or server, `None` for the default.
        say: told one line a sweep.

    Raises:
        StoreError: there is no such sweep, its files are damaged, or the store refuses.
    """
    folders = [_find(name, results_dir) for name in sweeps] or _all(results_dir)
    with ExitStack() as held:
        ready = []
        for folder in folders:
            lock = keep_still(folder / JOURNAL)
            if lock is not None:
                held.enter_context(lock)
                ready.append((folder, _checked(folder)))
            else:
                say(
                    f"{folder.name}: left out, for another cnnbench writes it and will log it itself"
                )
        tracker = held.enter_context(closing(open_store(uri, results_dir)))
        for folder, records in ready:
            if records:
                done = _replay(tracker, folder, records)
                say(f"{folder.name}: {_summary(records, done)}")


def _find(name: str, results_dir: Path) -> Path:
    candidates = (Path(name), results_dir / name)
    for path in candidates:
        with suppress(OSError):  # such as a name that is too long
            if (path / JOURNAL).is_file():
                return path
    msg = f"there is no sweep {name}: no {JOURNAL} in {' or '.join(map(str, candidates))}."
    raise StoreError(msg)


def _all(results_dir: Path) -> list[Path]:
    folders: list[Path] = []
    with suppress(OSError):
        folders = sorted(path.parent for path in results_dir.glob(f"*/{JOURNAL}"))
    if not folders:
        msg = f"there is no sweep in {results_dir}: no {JOURNAL} in a folder of it."
        raise StoreError(msg)
    return folders


def _checked(folder: Path) -> list[Record]:
    """Return the records of a sweep, whose identifiers must be of our own making."""
    records = read_journal(folder / JOURNAL)
    for record in records:
        named = _SWEEP_ID.fullmatch(record.sweep_id) and _CELL_HASH.fullmatch(record.cell_hash)
        if not named or record.sweep_id != records[0].sweep_id:
            msg = f"{folder / JOURNAL} is no journal of one sweep of cnnbench: nothing was logged."
            raise StoreError(msg)
    return records


def _replay(tracker: Tracker, folder: Path, records: list[Record]) -> Reconciled:
    around = read_surroundings(folder)
    log = tracker.sweep(
        records[0].sweep_id,
        profile=around.profile,
        environment=around.environment,
        dataset=around.dataset,
        artifacts_dir=folder / ARTIFACTS,
    )
    done = log.reconcile(records)
    if not done.is_finished:
        page = folder / "report" / "index.html"
        log.finish(records, report_dir=page.parent if page.is_file() else None)
    return done


def _summary(records: list[Record], done: Reconciled) -> str:
    noun = "1 cell" if len(records) == 1 else f"{len(records)} cells"
    replaced = f", {len(done.superseded)} runs superseded" if done.superseded else ""
    return f"{noun}, {len(done.logged)} logged now{replaced}"
