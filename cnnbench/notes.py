"""What the tracking store says in words, in Markdown: of an experiment, a sweep and each cell."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from cnnbench.record import STATUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.environment import Environment
    from cnnbench.record import Record

NOTE_TAG = "mlflow.note.content"
MAX_CHARACTERS = 4000
_EXACT_FROM = 100  # three digits are enough of a measurement


def experiment_note(profile: str) -> str:
    """Return what the experiment of `profile` holds and how to read it."""
    return f"""\
Training settings of CNNs, trained and profiled by cnnbench (profile {_code(profile)}).

- **A run with the tag `kind = cell` is one setting**: an architecture in one precision, at one batch
  size, with or without checkpointing. `kind = sweep` holds the report and the environment;
  `superseded` was replaced.
- **Saved views** (the menu above the runs; `cnnbench ui` opens the first) draw the comparison: all
  settings, the best per architecture and precision, and each architecture by itself.
- **Colours are precisions**: blue fp32, purple tf32, orange bf16, green fp16.
- `images_per_second` is the median of timed windows, between `images_per_second_low` and
  `images_per_second_high` with 95 % confidence. `peak_allocated_mib` is the peak of a training step.
  Accuracies are fractions; `test_accuracy` is of the epoch with the best `val_accuracy`.
- **The tag `validity` says whether to believe a run**; `validity_reasons` says why not.
"""


def sweep_note(records: Sequence[Record], environment: Environment) -> str:
    """Return what became of a sweep's cells, and where they ran."""
    counts = [(status, sum(r.status == status for r in records)) for status in STATUSES]
    said = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts if count)
    doubted = sum(r.validity != "valid" for r in records)
    doubt = f" Doubtful or invalid, see their tag `validity`: {doubted}." if doubted else ""
    return (
        f"**{len(records)} cells on {_line(environment.device)}**: {said}.{doubt}\n\n"
        f"torch {environment.torch}, {environment.operating_system}, Python {environment.python}. "
        "The report is among the artifacts: `report/index.html`.\n"
    )


def run_note(record: Record) -> str:
    """Return one cell in words: its setting, what was measured, and what speaks against it."""
    paragraphs = [
        _setting(record),
        _speed(record),
        _training(record),
        *(f"Not beyond doubt: {_line(reason)}." for reason in record.validity_reasons),
        *(f"{_line(note)}." for note in record.notes),
    ]
    if record.error:
        paragraphs.append(f"{record.status.replace('_', ' ').capitalize()}: {_code(record.error)}")
    return "\n\n".join(filter(None, paragraphs))[:MAX_CHARACTERS]


def _setting(record: Record) -> str:
    cell = record.cell
    parts = [cell.precision, f"batch {cell.batch_size:,}"]
    parts.append(
        "no checkpointing"
        if cell.checkpointing == "none"
        else f"{cell.checkpointing} checkpointing"
    )
    parts.append(cell.memory_format)
    if cell.compile != "off":
        parts.append(f"compile {cell.compile}")
    if cell.loader != "device":
        parts.append(f"loader {cell.loader}")
    seed = f", seed {cell.seed}" if cell.seed else ""
    return (
        f"**{', '.join(parts)}**: {_code(cell.architecture)} on {_code(cell.dataset)}{seed}, "
        f"on {_line(record.device)}."
    )


def _speed(record: Record) -> str:
    found = record.metrics()
    if "images_per_second" not in found:
        return ""
    low, high = found["images_per_second_low"], found["images_per_second_high"]
    text = (
        f"{_number(found['images_per_second'])} images/s (95 % interval {_number(low)} to "
        f"{_number(high)}; {found['num_windows']} windows), {_number(found['step_ms_median'])} ms a step"
    )
    peak = found.get("peak_allocated_mib")
    return f"{text}, peak {_number(peak)} MiB." if peak is not None else f"{text}."


def _training(record: Record) -> str:
    found, fit = record.metrics(), record.fit
    best = found.get("best_val_accuracy")
    if fit is None or best is None:
        return ""
    if fit.accuracy_note:
        return f"The accuracy says nothing: {_line(fit.accuracy_note)}."
    epochs = f"{len(fit.epochs)} epoch{'s' if len(fit.epochs) > 1 else ''}"
    text = f"Best validation accuracy {100 * best:.1f} % in {epochs}"
    if fit.test_accuracy is not None:
        text += f"; test accuracy of that epoch {100 * fit.test_accuracy:.1f} %"
    ended = f" The curves look {record.diagnosis.kind}." if record.diagnosis else ""
    return f"{text}.{ended}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _EXACT_FROM else f"{value:.3g}"


def _line(text: str) -> str:
    """Return the text on one line, as text: a tag in it is shown, not obeyed."""
    return html.escape(" ".join(text.split()).rstrip("."), quote=False)


def _code(text: str) -> str:
    """Return the text on one line as a code span."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
