"""Records as one table, `cells.csv` and `cells.parquet`. The only import of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from cnnbench.analysis.replacing import replacing
from cnnbench.record import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cnnbench.record import Record

TEXT_COLUMNS = frozenset(
    {
        *("sweep_id", "cell_hash", "environment_hash", "status", "validity", "validity_reasons"),
        *("device", "architecture", "precision", "effective_precision", "checkpointing"),
        *("memory_format", "compile", "loader", "parallelism", "dataset", "optimizer"),
        *("schedule", "augmentation", "weights", "features", "stop_reason", "diagnosis", "error"),
    }
)

INTEGER_COLUMNS = frozenset(
    {
        *("batch_size", "image_size", "num_classes", "patience", "train_subset", "epochs", "seed"),
        *("num_parameters", "num_windows", "num_rejected_windows", "num_alloc_retries"),
        *("epochs_run", "skipped_steps"),
    }
)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per record with exactly the contract's columns, in their order.

    Text is `string`, counts are `Int64`, everything else is `float64`, whatever the values are: an
    empty table has the same types as a full one. Unknown is `NA` or `NaN`, never 0. Every kind of
    line break in a text becomes a line feed, so that the written files read back unchanged.
    """
    rows = [record.row() for record in records]
    return pd.DataFrame({name: _series(name, [row[name] for row in rows]) for name in COLUMNS})


def write_tables(records: Iterable[Record], folder: Path) -> None:
    """Write `cells.csv` and `cells.parquet` into `folder`, each whole or not at all.

    Floats are written with the shortest digits that read back as the same number.

    Raises:
        StoreError: the folder cannot be written to.
    """
    frame = to_frame(records)
    with replacing(folder / "cells.csv") as path:
        frame.to_csv(path, index=False, lineterminator="\n")
    with replacing(folder / "cells.parquet") as path:
        frame.to_parquet(path, index=False)


def _series(name: str, values: list[Any]) -> pd.Series[Any]:
    if name in TEXT_COLUMNS:
        texts = [value if value is None else "\n".join(value.splitlines()) for value in values]
        return pd.Series(texts, dtype="string")
    return pd.Series(values, dtype="Int64" if name in INTEGER_COLUMNS else "float64")
