"""What sweeps have left behind: their records, read back from the journals, and their reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import msgspec

from cnnbench.environment import DatasetInfo, Environment
from cnnbench.errors import StoreError
from cnnbench.sweep.journal import NAME as JOURNAL
from cnnbench.sweep.journal import read_journal

if TYPE_CHECKING:
    import pandas as pd

    from cnnbench.record import Record

ENVIRONMENT = "environment.json"
RESULTS_DIR = "results/local"
ARTIFACTS = "artifacts"
NO_TRACKING = "none"


class Records(Sequence["Record"]):
    """The records of one or more sweeps, in the order in which their cells ended."""

    def __init__(self, records: Sequence[Record], folder: Path | None = None) -> None:
        """Hold `records`; `folder` is where their tables and report lie."""
        self._records = tuple(records)
        self.folder = folder
        self.num_unlogged = 0  # runs that the tracking store would not take

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


def artifacts_folder(sweep: Path, cell_hash: str) -> Path:
    """Return where a cell of the sweep in the folder `sweep` leaves its files, if it leaves any."""
    return sweep / ARTIFACTS / cell_hash


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


def write_report(path: str | Path | None = None) -> Path:
    """Write tables, figures and the page of one sweep anew and return the page's path.

    Args:
        path: the sweep's folder; by default the one of `results/local` that was written last.

    Raises:
        StoreError: there is no sweep, or its files are damaged.
    """
    folder = latest_sweep(RESULTS_DIR) if path is None else Path(path)
    records = Records(read_journal(folder / JOURNAL), folder)
    if not records:
        msg = f"there are no records in {folder / JOURNAL}: nothing to report."
        raise StoreError(msg)
    import_module("cnnbench.analysis.frame").write_tables(records, folder)
    around = read_surroundings(folder)
    page: Path = import_module("cnnbench.report.page").write_report(
        records,
        around.environment,
        around.dataset,
        folder,
        around.command,
        profile=around.profile,
    )
    return page


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What `environment.json` tells of a sweep besides its cells."""

    environment: Environment
    dataset: DatasetInfo
    command: str
    profile: str


def read_surroundings(folder: Path) -> Surroundings:
    """Return what the sweep in `folder` ran on.

    Raises:
        StoreError: its `environment.json` is missing or damaged.
    """
    path = folder / ENVIRONMENT
    try:
        table = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return Surroundings(
            environment=msgspec.convert(table, Environment),
            dataset=msgspec.convert(table["dataset"], DatasetInfo),
            command=str(table["command"]),
            profile=str(table["profile"]),
        )
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        msg = f"cannot read {path}: {error}"
        raise StoreError(msg) from error
