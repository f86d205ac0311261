"""Forecasts and largest batches as the lines of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnbench.amounts import bytes_text
from cnnbench.forecast import PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.max_batch import LargestBatch
    from cnnbench.outlook import Outlooks

UNKNOWN = "not known"
# So many columns are text; numbers stand to the right.
NUM_TEXTS = 4


def forecast_lines(found: Outlooks) -> list[str]:
    """Return a line for each setting and batch size, MiB by part, and what the last column is for."""
    titles = [
        "architecture",
        "precision",
        "checkpoint",
        "layout",
        "batch",
        *PARTS,
        "total MiB",
        "largest batch",
    ]
    rows = [titles, *(_forecast_row(row) for row in found.rows())]
    memory = f"{bytes_text(found.memory_bytes)}, {found.memory_of}"
    reasons = {
        f"{one.setting.architecture}: {one.reason}": None for one in found.outlooks if one.reason
    }
    return [
        *_aligned(rows),
        "",
        f"largest batch: for the memory of {memory}",
        *(f"{UNKNOWN}: {reason}" for reason in reasons),
    ]


def largest_batch_lines(found: Sequence[LargestBatch]) -> list[str]:
    """Return a line for each setting, and the reasons for what is not known."""
    titles = [
        "architecture",
        "precision",
        "checkpoint",
        "layout",
        "largest batch",
        "peak",
        "forecast",
        "tries",
    ]
    rows = [titles, *(_largest_row(one) for one in found)]
    reasons = [
        f"{one.architecture}-{one.precision}-{one.checkpointing}: {one.reason}"
        for one in found
        if one.reason
    ]
    return [*_aligned(rows), *reasons]


def _forecast_row(row: dict[str, Any]) -> list[str]:
    names = [row["architecture"], row["precision"], row["checkpointing"], row["memory_format"]]
    if "reason" in row:
        return [*names, UNKNOWN, *[""] * (len(PARTS) + 2)]
    parts = [_mib(row[f"{name}_mib"]) for name in PARTS]
    largest = "" if row["largest_batch"] is None else f"{row['largest_batch']:,}"
    return [*names, f"{row['batch_size']:,}", *parts, _mib(row["forecast_mib"]), largest]


def _largest_row(one: LargestBatch) -> list[str]:
    return [
        one.architecture,
        one.precision,
        one.checkpointing,
        one.memory_format,
        UNKNOWN if one.batch_size is None else f"{one.batch_size:,}",
        bytes_text(one.peak_bytes) if one.peak_bytes else "-",
        UNKNOWN if one.forecast_batch_size is None else f"{one.forecast_batch_size:,}",
        str(one.num_tries),
    ]


def _mib(value: float) -> str:
    return f"{value:,.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_cell, row, widths, range(len(row)))).rstrip() for row in rows]


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < NUM_TEXTS else text.rjust(width)
