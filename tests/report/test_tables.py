"""The comparison reads well in a terminal of 80 columns, in a pipe and in Markdown."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from cnnbench.report.rows import comparison
from cnnbench.report.tables import (
    markdown_table,
    plain_table,
    print_comparison,
    summary_lines,
)
from sample_sweep import sweep, troubled, with_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record

RECORDS = troubled(sweep())
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def printed(records: Sequence[Record], *, width: int) -> str:
    """Return what a terminal of `width` columns is sent."""
    file = io.StringIO()
    print_comparison(records, Console(file=file, force_terminal=True, width=width))
    return file.getvalue()


def test_a_pipe_gets_every_column_without_colour_or_ellipsis() -> None:
    file = io.StringIO()
    print_comparison(RECORDS, Console(file=file))
    text = file.getvalue()
    assert text == plain_table(RECORDS)
    assert "\x1b" not in text
    assert "…" not in text
    for column in comparison(RECORDS).columns:
        assert column.title in text.splitlines()[0]


def test_a_pipe_gets_one_line_per_cell_with_its_numbers() -> None:
    lines = [line.split() for line in plain_table(RECORDS).splitlines()]
    for row in comparison(RECORDS).rows:
        texts = [row.texts[column.name] for column in comparison(RECORDS).columns]
        expected = [*("*" for _ in range(row.is_best)), *" ".join(texts).split()]
        assert expected in lines


def test_a_long_error_is_whole_in_a_pipe() -> None:
    error = "RuntimeError: " + "very " * 100 + "long"
    assert error in plain_table([replace(RECORDS[0], status="failed", error=error)])


def test_80_columns_hold_each_row_on_one_line() -> None:
    text = ESCAPE.sub("", printed(RECORDS, width=80))
    assert max(map(len, text.splitlines())) <= 80
    header = text.splitlines()[0].split()
    assert header == [
        "precision",
        "batch",
        "checkpoint",
        "images",
        "±",
        "peak",
        "val",
        "acc",
        "remark",
    ]
    assert "…" not in text
    for row in comparison(RECORDS).rows:
        start = f"{'*' if row.is_best else ' '}  {row.record.cell.precision}"
        rate, peak = row.texts["images_per_second"], row.texts["peak_allocated_mib"]
        assert any(
            line.startswith(start) and {rate, peak} <= set(line.split())
            for line in text.splitlines()
        )


def test_a_wide_terminal_shows_every_column() -> None:
    header = printed(RECORDS, width=200).splitlines()[0]
    assert all(column.title in header for column in comparison(RECORDS).columns)


def test_the_best_setting_is_bold_and_marked_in_the_terminal() -> None:
    lines = printed(RECORDS, width=120).splitlines()
    marked = [line for line in lines if ESCAPE.sub("", line).startswith("*  ")]
    assert len(marked) == 4
    assert all("\x1b[1;" in line for line in marked)


def test_names_are_shown_as_they_are_and_not_as_markup() -> None:
    name = "my.models:[bold]net[/bold]"
    assert name in plain_table([with_cell(RECORDS[0], architecture=name)])


def test_a_console_without_unicode_still_gets_the_table() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_comparison([with_cell(RECORDS[0], architecture="größe:netz")], Console(file=file))
    file.flush()
    assert b"gr??e:netz" in raw.getvalue()


def test_no_records_say_so() -> None:
    assert plain_table([]) == "no cells\n"
    assert summary_lines([]) == ["no cells"]


def test_the_summary_counts_by_status_and_validity() -> None:
    assert summary_lines(RECORDS) == [
        "32 cells: 29 completed, 1 out of memory, 1 failed, 1 unsupported",
        "of the completed: 1 suspect, 1 invalid",
    ]
    assert summary_lines(RECORDS[:1]) == ["1 cell: 1 completed"]


def test_markdown_has_the_same_rows_and_the_best_in_bold() -> None:
    shown = comparison(RECORDS)
    table = [line for line in markdown_table(RECORDS).splitlines() if line.startswith("|")]
    assert len(table) == len(RECORDS) + 2
    for line, row in zip(table[2:], shown.rows, strict=True):
        cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        assert len(cells) == len(shown.columns) + 1
        texts = [row.record.cell.architecture, *(row.texts[c.name] for c in shown.columns)]
        assert [cell.strip("*") for cell in cells] == texts
        assert cells[1].startswith("**") == row.is_best


def test_markdown_escapes_what_would_break_its_table() -> None:
    error = "a|b <script> `x`\nline"
    text = markdown_table([replace(RECORDS[0], status="failed", error=error)])
    assert r"a\|b \<script\> \`x\` line" in text
