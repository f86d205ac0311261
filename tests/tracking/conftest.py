"""A store of one's own for each test."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from cnnbench.tracking import SweepLog, Tracker, open_store
from tracked import open_sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    open_store(None, folder).close()
    return folder / "mlflow.db"


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path) -> Iterator[Tracker]:
    shutil.copy(empty_store, tmp_path)  # a copy is had faster than MLflow makes one
    opened = open_store(None, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def sweep(tracker: Tracker) -> SweepLog:
    return open_sweep(tracker)
