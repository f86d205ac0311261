"""Files of one cell's run: its record as JSON, the raw windows, and what it said on stderr."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import TYPE_CHECKING

from cnnbench.cell import plain_text
from cnnbench.measurement import GpuReading, Window
from cnnbench.tracking.encoding import json_bytes

if TYPE_CHECKING:
    from cnnbench.record import Record

WINDOW_COLUMNS = tuple(field.name for field in fields(Window) if field.name != "gpu")
GPU_COLUMNS = tuple(field.name for field in fields(GpuReading))


def cell_files(record: Record) -> dict[str, bytes]:
    """Return the files of one cell's run by name."""
    files = {"cell.json": json_bytes(record.cell), "record.json": json_bytes(record)}
    if record.profile is not None:
        files["windows.csv"] = _windows_csv(record)
    if record.stderr_tail:
        files["stderr.txt"] = record.stderr_tail.encode(errors="replace")
    return files


def _windows_csv(record: Record) -> bytes:
    """Return the raw windows, one a line; a `rejected` one was measured again."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["kind", *WINDOW_COLUMNS, *GPU_COLUMNS])
    profile = record.profile
    for kind, windows in (
        ("timed", profile.windows if profile else ()),
        ("rejected", profile.rejected_windows if profile else ()),
    ):
        for window in windows:
            values = [getattr(window, name) for name in WINDOW_COLUMNS]
            values += [getattr(window.gpu, name, None) for name in GPU_COLUMNS]
            table.writerow([kind, *map(plain_text, values)])
    return text.getvalue().encode()
