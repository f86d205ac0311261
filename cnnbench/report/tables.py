"""The comparison table in a terminal, in a pipe and in Markdown, and a sweep in one line."""

from __future__ import annotations

import io
import math
from collections import Counter
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cnnbench.record import STATUSES, VALIDITIES
from cnnbench.report.rows import comparison, one_line, setting_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import JustifyMethod, RenderableType

    from cnnbench.analysis.best import Best
    from cnnbench.record import Record
    from cnnbench.report.rows import Column, Comparison, Row

MARK = "*"
LEGEND = "fastest of its architecture (completed, not invalid)"
GAP = 2


def print_comparison(records: Sequence[Record], console: Console) -> None:
    """Write the comparison table: what a terminal has room for, or into a pipe all of it."""
    if console.is_terminal:
        console.print(terminal_table(records, width=console.width))
    else:
        text = plain_table(records)
        if not console.encoding.startswith("utf"):
            text = (
                text.replace("±", "~").encode(console.encoding, "replace").decode(console.encoding)
            )
        console.out(text, end="", highlight=False)


def terminal_table(records: Sequence[Record], *, width: int) -> RenderableType:
    """Return the comparison table for `rich`, the least useful columns left out beyond `width`."""
    shown = comparison(records)
    return _table(shown, _fitting(shown, width))


def plain_table(records: Sequence[Record]) -> str:
    """Return the comparison table as plain text: every column, no colour, nothing cut off."""
    shown = comparison(records)
    table = _table(shown, shown.columns)
    wide = Console(file=io.StringIO(), width=10_000, color_system=None)
    with wide.capture() as captured:
        wide.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def markdown_table(records: Sequence[Record]) -> str:
    """Return the comparison table in GitHub's Markdown, the best settings in bold."""
    shown = comparison(records)
    titles = ["architecture", *(_title(column) for column in shown.columns)]
    rules = [":--", *("--:" if column.is_number else ":--" for column in shown.columns)]
    lines = [_markdown_line(titles), _markdown_line(rules)]
    for row in shown.rows:
        texts = [row.record.cell.architecture, *(row.texts[c.name] for c in shown.columns)]
        cells = [_markdown_escaped(text) for text in texts]
        lines.append(_markdown_line([f"**{c}**" if row.is_best and c else c for c in cells]))
    notes = [f"\\[{n}\\] {_markdown_escaped(text)}" for n, text in enumerate(shown.footnotes, 1)]
    legend = [f"Bold: {LEGEND}."] if shown.best else []
    return "\n".join(lines) + "\n" + "".join(f"\n{line}\n" for line in (*legend, *notes))


def summary_lines(records: Sequence[Record]) -> list[str]:
    """Return how many cells came to which end, such as `32 cells: 30 completed, 2 failed`."""
    statuses = Counter(record.status for record in records)
    counts = [f"{statuses[s]} {s.replace('_', ' ')}" for s in STATUSES if statuses[s]]
    noun = "cell" if len(records) == 1 else "cells"
    lines = [f"{len(records)} {noun}: {', '.join(counts)}" if counts else "no cells"]
    validities = Counter(record.validity for record in records if record.status == "completed")
    doubtful = [f"{validities[v]} {v}" for v in VALIDITIES[1:] if validities[v]]
    return [*lines, f"of the completed: {', '.join(doubtful)}"] if doubtful else lines


def _table(shown: Comparison, columns: Sequence[Column]) -> RenderableType:
    if not shown.groups:
        return Text("no cells")
    widths = {column.name: _width(shown, column) for column in columns}
    parts: list[RenderableType] = [_grid(columns, widths, [], show_header=True)]
    for architecture, rows in shown.groups.items():
        parts += [_heading(architecture, rows), _grid(columns, widths, rows, show_header=False)]
    legend = [f"{MARK} {LEGEND}", *_gains(shown.best)] if shown.best else []
    notes = [f"[{number}] {text}" for number, text in enumerate(shown.footnotes, 1)]
    parts += [Text(line, style="dim") for line in ("", *legend, *notes)]
    return Group(*parts)


def _gains(best: dict[str, Best]) -> list[str]:
    """Return each fastest setting's gain over the document's default, where that was measured."""
    pairs = [(one_line(name), found.speedup, found.baseline) for name, found in best.items()]
    width = max(cell_len(name) for name, _, _ in pairs)
    return [
        f"  {name:{width}}  {speedup:.2f}x the default: {setting_text(baseline)}"
        for name, speedup, baseline in pairs
        if speedup is not None and baseline is not None
    ]


def _grid(
    columns: Sequence[Column], widths: dict[str, int], rows: Sequence[Row], *, show_header: bool
) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=show_header)
    table.add_column("", width=1)
    for column in columns:
        heading = Text(f"{column.title}\n{column.unit}")
        width = widths[column.name]
        justify: JustifyMethod = "right" if column.is_number else "left"
        table.add_column(heading, width=width, justify=justify, no_wrap=True)
    for row in rows:
        cells = [Text(MARK if row.is_best else ""), *(Text(row.texts[c.name]) for c in columns)]
        table.add_row(*cells, style="bold green" if row.is_best else _style(row))
    return table


def _style(row: Row) -> str:
    if row.record.status != "completed" or row.record.validity == "invalid":
        return "dim"
    return "yellow" if row.record.validity == "suspect" else ""


def _heading(architecture: str, rows: Sequence[Row]) -> Text:
    counts = {row.record.num_parameters for row in rows} - {None}
    size = "".join(f"  {count:,} parameters" for count in counts)
    return Text.assemble((one_line(architecture), "bold"), (size, "dim"))


def _width(shown: Comparison, column: Column) -> int:
    texts = [column.title, column.unit, *(row.texts[column.name] for row in shown.rows)]
    return max(map(cell_len, texts))


def _fitting(shown: Comparison, width: int) -> Sequence[Column]:
    columns = list(shown.columns)
    needed = {column.name: _width(shown, column) + GAP for column in columns}
    for column in sorted(columns, key=lambda column: column.worth):
        if 1 + GAP + sum(needed[c.name] for c in columns) - GAP <= width or math.isinf(
            column.worth
        ):
            break
        columns.remove(column)
    return columns


def _title(column: Column) -> str:
    return f"{column.title} {column.unit}".strip()


def _markdown_line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown_escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>|~#&" else c for c in text)
