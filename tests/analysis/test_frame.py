"""The table of all cells keeps every number, every type and every gap."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.analysis.frame import INTEGER_COLUMNS, TEXT_COLUMNS, to_frame, write_tables
from cnnbench.errors import StoreError
from cnnbench.record import COLUMNS, Epoch, Fit
from sample_records import sample_record
from sample_sweep import sweep, troubled

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.record import Record

RECORDS = troubled(sweep())


def parsed_csv(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `cells.csv` as Python's own reader and `float` see them."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: parsed(name, text) for name, text in row.items()} for row in csv.DictReader(file)
        ]


def parsed(name: str, text: str) -> object:
    if text == "":
        return None
    return text if name in TEXT_COLUMNS else int(text) if name in INTEGER_COLUMNS else float(text)


def test_the_columns_are_the_contracts_in_their_order() -> None:
    assert tuple(to_frame(RECORDS).columns) == COLUMNS
    assert tuple(to_frame([]).columns) == COLUMNS


def test_every_typed_column_exists() -> None:
    assert set(COLUMNS) >= TEXT_COLUMNS | INTEGER_COLUMNS


def test_types_do_not_depend_on_the_values() -> None:
    full, empty = to_frame(RECORDS), to_frame([])
    bare = to_frame([replace(sample_record(), profile=None, memory=None, fit=None)])
    assert full.dtypes.equals(empty.dtypes)
    assert full.dtypes.equals(bare.dtypes)
    for name in COLUMNS:
        assert pd.api.types.is_numeric_dtype(full[name]) == (name not in TEXT_COLUMNS), name


def test_unknown_is_missing_and_never_zero() -> None:
    record = replace(sample_record(), profile=None, memory=None, fit=None, num_parameters=None)
    row = to_frame([record]).iloc[0]
    for name in ("images_per_second", "num_parameters", "test_accuracy", "skipped_steps", "error"):
        assert pd.isna(row[name]), name


def test_a_true_zero_stays_zero() -> None:
    fit = Fit(epochs=(), num_train_images=8, skipped_steps=0)
    assert to_frame([replace(sample_record(), fit=fit)])["skipped_steps"].tolist() == [0]


def test_the_frame_holds_each_records_row() -> None:
    frame = to_frame(RECORDS)
    for record, (_, row) in zip(RECORDS, frame.iterrows(), strict=True):
        for name, value in record.row().items():
            assert pd.isna(row[name]) if value is None else row[name] == value, name


def test_the_csv_reads_back_number_for_number(tmp_path: Path) -> None:
    write_tables(RECORDS, tmp_path)
    assert parsed_csv(tmp_path / "cells.csv") == [record.row() for record in RECORDS]


def test_pandas_reads_the_csv_back_as_the_frame(tmp_path: Path) -> None:
    frame = to_frame(RECORDS)
    write_tables(RECORDS, tmp_path)
    read = pd.read_csv(tmp_path / "cells.csv", dtype=frame.dtypes.to_dict())
    pd.testing.assert_frame_equal(read, frame, check_exact=False, rtol=1e-15)


def test_the_parquet_file_reads_back_as_the_frame(tmp_path: Path) -> None:
    write_tables(RECORDS, tmp_path)
    read = pd.read_parquet(tmp_path / "cells.parquet")
    pd.testing.assert_frame_equal(read, to_frame(RECORDS), check_exact=True)


def test_the_parquet_schema_does_not_depend_on_the_values(tmp_path: Path) -> None:
    schemas = []
    for name, records in (("full", RECORDS), ("empty", [])):
        (tmp_path / name).mkdir()
        write_tables(records, tmp_path / name)
        schemas.append(pq.read_schema(tmp_path / name / "cells.parquet").remove_metadata())
    assert schemas[0].equals(schemas[1])


@given(
    rate=st.floats(min_value=5e-324, max_value=1e308),
    error=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_any_float_and_any_text_survive_the_csv(
    tmp_path_factory: pytest.TempPathFactory, rate: float, error: str
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    write_tables([_with(rate, error)], folder)
    [row] = parsed_csv(folder / "cells.csv")
    assert row["val_loss"] == rate
    assert row["error"] == ("\n".join(error.splitlines()) or None)


def test_a_loss_that_is_no_number_is_empty(tmp_path: Path) -> None:
    write_tables([_with(math.nan, "")], tmp_path)
    assert parsed_csv(tmp_path / "cells.csv")[0]["val_loss"] is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent.cells\.csv"):
        write_tables(RECORDS, tmp_path / "absent")


def _with(val_loss: float, error: str) -> Record:
    epoch = Epoch(
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=val_loss,
        val_accuracy=0.5,
        learning_rate=0.001,
        train_seconds=1.0,
        val_seconds=1.0,
    )
    return replace(sample_record(), fit=Fit(epochs=(epoch,), num_train_images=8), error=error)
