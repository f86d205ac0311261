"""Numbers become text once, for every place that shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cnnbench.report.rows import comparison, number_text, one_line, remarks, setting_text
from sample_sweep import sweep, troubled, with_cell

RECORDS = troubled(sweep())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_numbers_have_the_decimals_that_three_digits_need(value: float, text: str) -> None:
    assert number_text(value) == text


def test_there_is_one_row_per_cell_by_architecture() -> None:
    shown = comparison(RECORDS)
    assert {row.record.cell_hash for row in shown.rows} == {r.cell_hash for r in RECORDS}
    assert list(shown.groups) == list(dict.fromkeys(r.cell.architecture for r in RECORDS))
    for name, rows in shown.groups.items():
        assert {row.record.cell.architecture for row in rows} == {name}
        assert sum(row.is_best for row in rows) == 1


def test_settings_that_every_cell_shares_have_no_column() -> None:
    names = [column.name for column in comparison(RECORDS).columns]
    assert not {"memory_format", "compile", "loader", "seed", "dataset", "device"} & set(names)


@pytest.mark.parametrize(
    ("name", "value"), [("memory_format", "channels_last"), ("compile", "default"), ("seed", 3)]
)
def test_settings_that_vary_have_a_column(name: str, value: object) -> None:
    records = [*RECORDS, with_cell(RECORDS[0], **{name: value})]
    assert name in [column.name for column in comparison(records).columns]


def test_columns_without_any_value_are_left_out() -> None:
    names = [column.name for column in comparison(sweep(epochs=0)).columns]
    assert not {"test_accuracy", "best_val_accuracy", "peak_reserved_mib", "remark"} & set(names)
    assert "peak_reserved_mib" in [c.name for c in comparison(sweep(cuda=True)).columns]


def test_unknown_is_a_dash_and_never_zero() -> None:
    [failed] = [row for row in comparison(RECORDS).rows if row.record.status == "failed"]
    assert failed.values["images_per_second"] is None
    assert failed.texts["images_per_second"] == "-"
    assert failed.texts["best_val_accuracy"] == "-"


def test_accuracy_that_says_nothing_is_not_shown_as_a_number() -> None:
    shown = comparison(RECORDS)
    for row in shown.groups["transfer_resnet50"]:
        assert row.texts["best_val_accuracy"] in {"n/m", "-"}
        assert row.texts["test_accuracy"] in {"n/m", "-"}
    for row in shown.groups["simple_cnn"]:
        assert row.texts["best_val_accuracy"] not in {"n/m", "-"}
    assert any(note.startswith("n/m") for note in shown.footnotes)


def test_every_remark_is_a_footnote_and_says_so_in_its_row() -> None:
    shown = comparison(RECORDS)
    for row in shown.rows:
        told = [shown.footnotes[number - 1] for number in row.remarks]
        assert sorted(told) == sorted(remarks(row.record))
        assert all(str(number) in row.texts["remark"] for number in row.remarks)
    texts = {row.texts["remark"].split(" [")[0] for row in shown.rows}
    assert texts >= {"failed", "out of memory", "unsupported", "suspect", "invalid"}


def test_a_text_that_would_steer_a_terminal_becomes_one_plain_line() -> None:
    assert one_line("a\x1b[31mred\x1b[0m\r\nb\tc\x00") == "a [31mred [0m b c"


def test_a_setting_names_what_differs_from_the_default() -> None:
    record = with_cell(RECORDS[0], memory_format="channels_last", compile="default")
    assert setting_text(record) == "fp32, batch 32, channels_last, compile default"


def test_no_records_are_an_empty_table() -> None:
    shown = comparison([])
    assert shown.rows == []
    assert shown.best == {}


def test_the_interval_is_the_wider_half_of_the_rates() -> None:
    row = comparison([replace(RECORDS[0])]).rows[0]
    metrics = RECORDS[0].metrics()
    middle = metrics["images_per_second"]
    halves = metrics["images_per_second_high"] - middle, middle - metrics["images_per_second_low"]
    assert row.values["interval"] == max(halves) / middle
