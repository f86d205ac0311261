"""The comparison table in plain text, the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.best import Best, best_settings
from cnnbench.cell import CHECKPOINTINGS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnbench.cell import Cell
    from cnnbench.record import Record

EMPTY = "-"
NOT_MEANINGFUL = "n/m"


def number_text(value: float) -> str:
    """Return `value` with the decimals that three significant digits need.

    >>> number_text(1234.5), number_text(12.34), number_text(1.234), number_text(0.01234)
    ('1,234', '12.3', '1.23', '0.0123')
    """
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, 2 - magnitude)}f}"


def percent_text(value: float) -> str:
    """Return a fraction in percent with one decimal."""
    return f"{100 * value:.1f}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name in the table of all cells, its heading, and how its values are written.

    A narrow terminal leaves out the columns of least `worth`; those without one always stay.
    """

    name: str
    title: str
    unit: str = ""
    write: Callable[[Any], str] = str
    is_number: bool = True
    worth: float = math.inf

    def text(self, value: object) -> str:
        """Return the value as shown; unknown is `-`."""
        return EMPTY if value is None else self.write(value)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell as shown: exact values and texts by column, and the numbers of its footnotes."""

    record: Record
    values: dict[str, Any]
    texts: dict[str, str]
    remarks: tuple[int, ...]
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The cells of a sweep, ready to be shown: rows by architecture, footnotes numbered from 1."""

    columns: tuple[Column, ...]
    groups: dict[str, tuple[Row, ...]]
    footnotes: tuple[str, ...]
    best: dict[str, Best]

    @property
    def rows(self) -> list[Row]:
        """Return all rows, architecture by architecture."""
        return [row for group in self.groups.values() for row in group]


SETTINGS = (
    Column(name="precision", title="precision", is_number=False),
    Column(name="batch_size", title="batch", write=lambda value: f"{value:,}"),
    Column(name="checkpointing", title="checkpoint", is_number=False),
)

VARYING = (
    Column(name="memory_format", title="layout", is_number=False),
    Column(name="compile", title="compile", is_number=False),
    Column(name="loader", title="loader", is_number=False),
    Column(name="parallelism", title="parallel", is_number=False),
    Column(name="dataset", title="data", is_number=False),
    Column(name="seed", title="seed"),
    Column(name="device", title="device", is_number=False),
)

MEASURES = (
    Column(name="images_per_second", title="images", unit="per s", write=number_text),
    Column(name="interval", title="±", unit="%", write=percent_text, worth=6),
    Column(name="step_ms_median", title="step", unit="ms", write=number_text, worth=3),
    Column(name="peak_allocated_mib", title="peak", unit="MiB", write=number_text),
    Column(name="peak_reserved_mib", title="reserved", unit="MiB", write=number_text, worth=2),
    Column(name="best_val_accuracy", title="val acc", unit="%", write=percent_text, worth=8),
    Column(name="test_accuracy", title="test acc", unit="%", write=percent_text, worth=5),
    Column(name="seconds", title="time", unit="s", write=lambda value: f"{value:.1f}", worth=1),
)

DETAILS = (
    Column(name="step_ms_p95", title="step p95", unit="ms", write=number_text),
    Column(name="roofline_fraction", title="of roofline", unit="%", write=percent_text),
    Column(name="mfu", title="MFU", unit="%", write=percent_text),
    Column(name="model_gflops_per_image", title="model", unit="GFLOP/img", write=number_text),
    Column(name="joules_per_image", title="energy", unit="J/img", write=number_text),
    Column(name="process_mib", title="process", unit="MiB", write=number_text),
    Column(name="forecast_mib", title="forecast", unit="MiB", write=number_text),
    Column(name="time_to_accuracy_seconds", title="to target", unit="s", write=number_text),
    Column(name="diagnosis", title="diagnosis", is_number=False),
)

STATUS = Column(name="remark", title="remark", is_number=False)

ACCURACIES = ("best_val_accuracy", "test_accuracy")


def comparison(records: Sequence[Record]) -> Comparison:
    """Return the records as a table: by architecture as they appear, then precision and batch.

    Columns that are empty throughout are left out, and settings that every cell shares.
    """
    kept = sorted(records, key=_order)
    best = best_settings(records)
    footnotes: dict[str, int] = {}
    groups = {}
    for architecture in dict.fromkeys(record.cell.architecture for record in records):
        groups[architecture] = tuple(
            _row(
                record,
                footnotes,
                is_best=architecture in best and best[architecture].record is record,
            )
            for record in kept
            if record.cell.architecture == architecture
        )
    rows = [row for group in groups.values() for row in group]
    return Comparison(columns=_columns(rows), groups=groups, footnotes=tuple(footnotes), best=best)


def with_details(shown: Comparison) -> tuple[Column, ...]:
    """Return the table's columns, and after them those that only a wide page has room for."""
    known = (c for c in DETAILS if any(row.values[c.name] is not None for row in shown.rows))
    return (*shown.columns, *known)


def is_accuracy_meaningful(record: Record) -> bool:
    """Return whether the cell's accuracy says anything: not where random weights stayed frozen."""
    return record.fit is None or record.fit.accuracy_note is None


def remarks(record: Record) -> list[str]:
    """Return what must be said beside the cell's numbers, one line each, the gravest first."""
    texts = [record.error or "", *record.validity_reasons]
    if record.fit and record.fit.accuracy_note:
        texts.append(
            f"{NOT_MEANINGFUL}, the accuracy is not meaningful: {record.fit.accuracy_note}"
        )
    unknowns = [f"not known: {what}: {why}" for what, why in record.unknowns.items()]
    return [line for line in map(one_line, [*texts, *record.notes, *unknowns]) if line]


def one_line(text: str) -> str:
    """Return the text on one line, without characters that would steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def setting_text(record: Record) -> str:
    """Return how the cell ran, in words: `bf16, batch 256, checkpoint block, channels_last`."""
    cell = record.cell
    parts = [cell.precision, f"batch {cell.batch_size:,}"]
    if cell.checkpointing != "none":
        parts.append(f"checkpoint {cell.checkpointing}")
    return ", ".join([*parts, *other_settings(cell)])


def other_settings(cell: Cell) -> list[str]:
    """Return in words the layout, the compilation and the loader where they are not the plain ones."""
    parts = []
    if cell.memory_format != "nchw":
        parts.append(cell.memory_format)
    if cell.compile != "off":
        parts.append(f"compile {cell.compile}")
    if cell.loader != "device":
        parts.append(f"loader {cell.loader}")
    if cell.parallelism != "none":
        parts.append(cell.parallelism)
    return parts


def devices_text(records: Sequence[Record]) -> str:
    """Return the devices that the records were measured on."""
    return ", ".join(dict.fromkeys(record.device for record in records))


def _row(record: Record, footnotes: dict[str, int], *, is_best: bool) -> Row:
    known = record.row()
    status = _status(record)
    derived = {"interval": _half_width(known), "seconds": _seconds(record), "remark": status}
    values = {**known, **derived}
    texts = {c.name: c.text(values[c.name]) for c in (*SETTINGS, *VARYING, *MEASURES, *DETAILS)}
    if not is_accuracy_meaningful(record):
        shown = [name for name in ACCURACIES if values[name] is not None]
        texts.update(dict.fromkeys(shown, NOT_MEANINGFUL))
    numbers = tuple(
        sorted(footnotes.setdefault(text, len(footnotes) + 1) for text in remarks(record))
    )
    marks = f"[{','.join(map(str, numbers))}]" if numbers else None
    texts["remark"] = " ".join(filter(None, (status, marks)))
    return Row(record=record, values=values, texts=texts, remarks=numbers, is_best=is_best)


def _columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    varying = [c for c in VARYING if len({row.values[c.name] for row in rows}) > 1]
    measures = [c for c in MEASURES if any(row.values[c.name] is not None for row in rows)]
    status = [STATUS] if any(row.texts["remark"] for row in rows) else []
    return *SETTINGS, *varying, *measures, *status


def _status(record: Record) -> str | None:
    if record.status != "completed":
        return record.status.replace("_", " ")
    return None if record.validity == "valid" else record.validity


def _half_width(known: dict[str, Any]) -> float | None:
    middle = known["images_per_second"]
    if middle is None:
        return None
    low, high = known["images_per_second_low"], known["images_per_second_high"]
    return float(max(high - middle, middle - low) / middle)


def _seconds(record: Record) -> float | None:
    return record.finished_at - record.started_at or None


def _order(record: Record) -> tuple[object, ...]:
    cell = record.cell
    return (
        PRECISIONS.index(cell.precision),
        cell.batch_size,
        CHECKPOINTINGS.index(cell.checkpointing),
        cell.name,
        record.cell_hash,
    )
