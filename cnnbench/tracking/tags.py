"""Tags of one cell's run, and of the process that writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench import notes, views
from cnnbench.owner import Owner, this_process

if TYPE_CHECKING:
    from mlflow.entities import Run

    from cnnbench.record import Record

MAX_TAG_CHARACTERS = 5000


def cell_tags(record: Record) -> dict[str, str]:
    """Return the tags of one cell's run; what is unknown has none."""
    tags = {
        "kind": "cell",
        "cell_hash": record.cell_hash,
        "status": record.status,
        "validity": record.validity,
        "validity_reasons": "; ".join(record.validity_reasons),
        "device": record.device,
        "environment_hash": record.environment_hash,
        "effective_precision": record.effective_precision,
        "stop_reason": record.profile.stop_reason if record.profile else None,
        "diagnosis": record.diagnosis.kind if record.diagnosis else None,
        "unknowns": "; ".join(f"{what}: {why}" for what, why in record.unknowns.items()),
        "error": record.error,
        views.COLOUR_TAG: views.PRECISION_COLOURS.get(record.cell.precision),
        notes.NOTE_TAG: notes.run_note(record),
    }
    return {name: value[:MAX_TAG_CHARACTERS] for name, value in tags.items() if value}


def owner_tags() -> dict[str, str]:
    """Return the tags by which `owner_of` knows this process."""
    owner = this_process()
    return {"host": owner.host, "pid": str(owner.pid), "process_start": owner.start}


def owner_of(run: Run) -> Owner | None:
    """Return the process that `run` says it is written by; `None` if it says none."""
    tags = run.data.tags
    try:
        return Owner(host=tags["host"], pid=int(tags["pid"]), start=tags["process_start"])
    except (KeyError, ValueError):
        return None
