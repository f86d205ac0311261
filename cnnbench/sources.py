"""Where records are read from, however they are named: a sweep's folder, a results folder, a store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cnnbench.errors import StoreError
from cnnbench.results import ENVIRONMENT, latest_sweep, load
from cnnbench.sweep.journal import NAME as JOURNAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record


@dataclass(frozen=True, kw_only=True)
class Source:
    """Records and the environments that they were measured in: the plain content of `environment.json`.

    `results_dir` is the folder that the sweeps lie in, `None` of a store.
    """

    name: str
    records: Sequence[Record]
    environments: tuple[dict[str, Any], ...]
    results_dir: Path | None = None


def read_source(name: str) -> Source:
    """Return what a user names: a folder, or an MLflow address with `#SWEEP_ID` or of the latest sweep.

    Raises:
        StoreError: there is nothing there, or it cannot be read.
    """
    return _from_store(name) if "://" in name else _from_folder(Path(name))


def latest(results_dir: str) -> Path:
    """Return the sweep that was written last.

    Raises:
        StoreError: there is none.
    """
    return latest_sweep(results_dir)


def _from_folder(path: Path) -> Source:
    records = load(path)
    is_sweep = (path / JOURNAL).exists()
    folders = [path] if is_sweep else sorted(found.parent for found in path.glob(f"*/{JOURNAL}"))
    known = [_decoded(file.read_bytes()) for f in folders if (file := f / ENVIRONMENT).exists()]
    return Source(
        name=str(path),
        records=records,
        environments=tuple(known),
        results_dir=path.absolute().parent if is_sweep else path,
    )


def _from_store(name: str) -> Source:
    address, _, sweep_id = name.partition("#")
    tracker = import_module("cnnbench.tracking").open_store(address, Path(), create=False)
    with closing(tracker):
        records, surroundings = tracker.read(sweep_id or None)
    return Source(name=name, records=records, environments=(_decoded(surroundings),))


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        msg = f"an {ENVIRONMENT} cannot be read: {error}"
        raise StoreError(msg) from error
