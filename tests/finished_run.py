"""A finished call of the command line, and what it left behind."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlflow
import pytest

from cnnbench import api

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import pandas as pd

    from cnnbench.record import Record


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished call of the command line, and its folder."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def sweep(self) -> Path:
        """Return the folder of the only sweep."""
        (journal,) = self.folder.glob("results/local/*/journal.jsonl")
        return journal.parent

    @property
    def rows(self) -> list[dict[str, str]]:
        """Return `cells.csv`, as text."""
        with (self.sweep / "cells.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def runs(self, kind: str) -> pd.DataFrame:
        """Return what a user's own `mlflow.search_runs` finds in the store."""
        found: pd.DataFrame
        with pytest.MonkeyPatch.context() as patch:
            store = self.folder / "results" / "local" / "mlflow.db"
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
            found = mlflow.search_runs(
                experiment_names=["cnnbench/tiny"], filter_string=f"tags.kind = '{kind}'"
            )
        return found


def records(folder: Path) -> list[Record]:
    return list(api.load(folder))
