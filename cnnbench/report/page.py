"""One HTML page that holds a whole sweep, and its figures as PNG files beside it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from cnnbench.analysis.replacing import replacing
from cnnbench.errors import StoreError
from cnnbench.report import figures as drawn
from cnnbench.report.rows import (
    ACCURACIES,
    Column,
    comparison,
    devices_text,
    is_accuracy_meaningful,
    percent_text,
    setting_text,
    with_details,
)
from cnnbench.report.shares import breakdowns
from cnnbench.report.tables import summary_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cnnbench.analysis.best import Best
    from cnnbench.cell import Timing
    from cnnbench.environment import DatasetInfo, Environment
    from cnnbench.record import Record
    from cnnbench.report.rows import Comparison, Row

MAX_NAMED_CELLS = 3
MAX_NOTES = 300
# Rows that the page shows at once; the script turns the pages.
PAGE_SIZE = 200
NAME_COLUMN = Column(name="architecture", title="architecture", is_number=False)
GIB = 2**30

LABELS = {
    "device_type": "kind of device",
    "device_memory_bytes": "device memory",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "cpu": "processor",
    "num_cpus": "processors",
    "memory_bytes": "memory",
    "num_threads": "threads",
    "python": "Python",
    "torch": "PyTorch",
    "numpy": "NumPy",
}

RATE_SENTENCE = (
    "Images per second is the batch size over the step time of the median window;"
    " ± is the wider half of its 95 % bootstrap interval."
)
MEMORY_SENTENCES = {
    "cuda": (
        "Peak memory is what tensors took at most in steady steps; reserved is what the caching"
        " allocator held, process what the driver charged the process with."
    ),
    "cpu": (
        "Peak memory is the allocation peak that PyTorch's profiler sees in a step apart from the"
        " timed ones; process is the peak resident set above that after the imports."
    ),
}
ACCURACY_SENTENCE = (
    "Validation accuracy is the best epoch's; the test images were looked at once, for that epoch."
)


def write_report(
    records: Sequence[Record],
    environment: Environment,
    dataset_info: DatasetInfo,
    folder: Path,
    command: str,
    *,
    profile: str | None = None,
) -> Path:
    """Write `report/index.html` and `report/*.png` into `folder`; return the page's path.

    Each file is replaced at once, the page last: a crash leaves the old page or the new one.

    Args:
        records: the sweep's cells, finished in whatever way.
        environment: what they were measured on.
        dataset_info: what they were trained on.
        folder: the sweep's folder.
        command: what repeats the sweep.
        profile: the name of the profile that was run, where there was one.

    Raises:
        StoreError: the folder cannot be written to.
    """
    svgs = [(figure, figure.svg()) for figure in drawn.figures(records)]
    page = render_page(records, environment, dataset_info, command, svgs, profile=profile)
    target = folder / "report"
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in set(drawn.FIGURE_NAMES) - {figure.name for figure, _ in svgs}:
            (target / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror}. Free it or choose another folder."
        raise StoreError(msg) from error
    for figure, svg in svgs:
        with replacing(target / f"{figure.name}.png") as path:
            path.write_bytes(drawn.png(svg))
    with replacing(target / "index.html") as path:
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    return target / "index.html"


def render_page(
    records: Sequence[Record],
    environment: Environment,
    dataset_info: DatasetInfo,
    command: str,
    svgs: Sequence[tuple[drawn.Figure, str]],
    *,
    profile: str | None = None,
) -> str:
    """Return the page as HTML, its texts escaped; it needs no other file and no network."""
    shown = comparison(records)
    columns = with_details(shown)
    rows = _table_rows(shown, columns)
    notes = _notes(shown)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnbench", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(
        "template.html"
    ).render(
        drawn=drawn,
        device=devices_text(records) or environment.device,
        sweep=", ".join(dict.fromkeys(record.sweep_id for record in records)),
        summary=summary_lines(records),
        run=_run_facts(records, dataset_info, profile),
        environment=environment,
        environment_facts=_environment_facts(environment),
        best=_best_cards(shown),
        columns=columns,
        rows=rows[:PAGE_SIZE],
        num_rows=len(rows),
        page_size=PAGE_SIZE,
        table=_script(_table_data(rows, columns)),
        breakdowns=breakdowns(records),
        figures=[(f, Markup(svg), _script(f.datasets)) for f, svg in svgs],  # noqa: S704 - our own SVG, its texts escaped by vl-convert
        notes=notes[:MAX_NOTES],
        num_notes=len(notes),
        method=_method(records, environment),
        command=command,
    )


def _run_facts(
    records: Sequence[Record], dataset: DatasetInfo, profile: str | None
) -> dict[str, str]:
    parts = f"{dataset.num_train:,} / {dataset.num_val:,} / {dataset.num_test:,}"
    side, channels = dataset.image_size, dataset.num_channels
    facts = {
        "profile": profile or "none: the axes were given one by one",
        "measured": _span(records),
        "data set": dataset.name,
        "from": dataset.source,
        "digest": dataset.digest,
        "train / val / test": f"{parts} images",
        "images": f"{channels} x {side} x {side}, {dataset.num_classes} classes",
        "augmentation": dataset.augmentation,
    }
    return {name: value for name, value in facts.items() if value}


def _span(records: Sequence[Record]) -> str:
    times = [t for record in records for t in (record.started_at, record.finished_at) if t]
    if not times:
        return ""
    first, last = (datetime.fromtimestamp(t, tz=UTC) for t in (min(times), max(times)))
    same_day = first.date() == last.date()
    return f"{first:%Y-%m-%d %H:%M} to {last:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


def _environment_facts(environment: Environment) -> dict[str, str]:
    facts: dict[str, str] = {}
    for field in fields(environment):
        value = getattr(environment, field.name)
        label = LABELS.get(field.name, field.name.replace("_", " "))
        if isinstance(value, dict):
            facts.update({str(name): str(setting) for name, setting in value.items()})
        elif isinstance(value, bool):
            facts[label] = "yes" if value else "no"
        elif value is not None:
            is_bytes = field.name.endswith("_bytes")
            facts[label] = f"{value / GIB:,.1f} GiB" if is_bytes else str(value)
    return facts


def _best_cards(shown: Comparison) -> list[dict[str, Any]]:
    rows = {row.record.cell.architecture: row for row in shown.rows if row.is_best}
    return [_best_card(best, rows[name]) for name, best in shown.best.items()]


def _best_card(best: Best, row: Row) -> dict[str, Any]:
    gain = None
    if best.speedup is not None and best.baseline not in (None, best.record):
        peak = best.memory_ratio
        gain = {
            "speed": f"{best.speedup:.2f}",
            "memory": None if peak is None else f"{peak:.2f}",
            "baseline": setting_text(best.baseline),
        }
    peak_known = row.values["peak_allocated_mib"] is not None
    accuracy = row.values["best_val_accuracy"] if is_accuracy_meaningful(row.record) else None
    return {
        "architecture": best.architecture,
        "setting": setting_text(best.record),
        "texts": row.texts,
        "gain": gain,
        "peak": row.texts["peak_allocated_mib"] if peak_known else None,
        "accuracy": None if accuracy is None else f"{percent_text(accuracy)} %",
    }


def _table_rows(shown: Comparison, columns: Sequence[Column]) -> list[dict[str, Any]]:
    fastest = {
        row.record.cell.architecture: row.values["images_per_second"]
        for row in shown.rows
        if row.is_best
    }
    return [_table_row(row, columns, fastest) for row in shown.rows]


def _table_row(row: Row, columns: Sequence[Column], fastest: dict[str, float]) -> dict[str, Any]:
    record = row.record
    best, rate = fastest.get(record.cell.architecture), row.values["images_per_second"]
    kind = ""
    if row.is_best:
        kind = "best"
    elif record.status != "completed" or record.validity == "invalid":
        kind = "lost"
    elif record.validity == "suspect":
        kind = "suspect"
    name = record.cell.architecture
    first = {
        "column": NAME_COLUMN,
        "text": f"★\u00a0{name}" if row.is_best else name,
        "value": name,
    }
    cells = [{"column": c, "text": row.texts[c.name], "value": _exact(row, c)} for c in columns]
    return {
        "cell": record.cell_hash,
        "kind": kind,
        "cells": [first, *cells],
        "share": f"{100 * rate / best:.0f}" if best and rate is not None else "",
    }


def _table_data(rows: list[dict[str, Any]], columns: Sequence[Column]) -> dict[str, Any]:
    """Return the whole table for the page's script: by cell its hash, kind, share, texts and values.

    A value that is its own text is left out.
    """
    return {
        "columns": [
            {"name": c.name, "title": c.title, "number": c.is_number}
            for c in (NAME_COLUMN, *columns)
        ],
        "rows": [
            [
                row["cell"],
                row["kind"],
                row["share"],
                [cell["text"] for cell in row["cells"]],
                [None if c["value"] == c["text"] else c["value"] for c in row["cells"]],
            ]
            for row in rows
        ],
    }


def _script(value: object) -> Markup:
    """Return `value` as JSON that may stand in a script element, whatever its texts are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    escaped = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(escaped)  # noqa: S704 - nothing is left in it that a browser would take for markup


def _exact(row: Row, column: Column) -> str:
    """Return the exact value, kept beside the rounded text for sorting and for programs."""
    value = row.values[column.name]
    if value is None or (column.name in ACCURACIES and not is_accuracy_meaningful(row.record)):
        return ""
    return repr(value) if column.is_number else str(value)


def _notes(shown: Comparison) -> list[dict[str, str]]:
    names: dict[int, list[str]] = {}
    for row in shown.rows:
        for number in row.remarks:
            names.setdefault(number, []).append(row.record.cell.name)
    notes = []
    for number, text in enumerate(shown.footnotes, 1):
        own = names.get(number, [])
        named = ", ".join(own) if len(own) <= MAX_NAMED_CELLS else f"{len(own):,} cells"
        notes.append({"text": text, "cells": named})
    return notes


def _method(records: Sequence[Record], environment: Environment) -> list[str]:
    """Return in sentences how the numbers were earned."""
    timings = Counter(r.cell.timing for r in records if r.cell.timing.max_windows)
    return [
        "Each cell ran in a process of its own.",
        *(_timing_sentence(timing) for timing, _ in timings.most_common(1)),
        RATE_SENTENCE,
        "fp32 is IEEE arithmetic: TF32 is off.",
        MEMORY_SENTENCES["cuda" if environment.device_type == "cuda" else "cpu"],
        ACCURACY_SENTENCE,
    ]


def _timing_sentence(timing: Timing) -> str:
    return (
        f"After a warm-up of at least {timing.warmup_steps} steps, windows of"
        f" {1e3 * timing.window_seconds:g} ms or more of whole training steps (next batch, forward,"
        " backward, update), synchronised only at their two ends, were timed until the median was"
        f" known to ±{100 * timing.half_width:g} %, the noise stopped falling or"
        f" {timing.limit_seconds:g} s had passed."
    )
