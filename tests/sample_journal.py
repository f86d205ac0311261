"""A sweep's folder as a run leaves it, from records that no cell made."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec

from cnnbench.sweep.journal import Journal
from sample_sweep import DIGITS, ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cnnbench.environment import Environment
    from cnnbench.record import Record


def leave_sweep(
    folder: Path, records: Iterable[Record], environment: Environment = ENVIRONMENT
) -> Path:
    """Write journal and environment of a sweep into `folder`, and return it."""
    with Journal(folder / "journal.jsonl") as journal:
        for record in records:
            journal.append(record)
    surroundings = {
        **asdict(environment),
        "dataset": asdict(DIGITS),
        "profile": "quick",
        "command": "cnnbench run",
    }
    (folder / "environment.json").write_bytes(msgspec.json.encode(surroundings))
    return folder
