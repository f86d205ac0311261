"""Logs a sweep of sample records to a store, as one process of several: `log_sweep.py ID URI FOLDER N`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.tracking import open_store
from sample_records import (
    STARTED_AT,
    sample_cell,
    sample_dataset,
    sample_environment,
    sample_record,
)

if TYPE_CHECKING:
    from cnnbench.record import Record


def records(sweep_id: str, number: int) -> list[Record]:
    """Return that many records of different cells."""
    return [
        sample_record(
            sweep_id=sweep_id,
            cell=sample_cell(batch_size=2**power, precision=("fp32", "bf16")[power % 2]),
            started_at=STARTED_AT + 10 * power,
            finished_at=STARTED_AT + 10 * power + 8,
        )
        for power in range(number)
    ]


def main() -> None:
    sweep_id, uri, folder, number = sys.argv[1:]
    made = records(sweep_id, int(number))
    tracker = open_store(uri, Path(folder), create=False)
    log = tracker.sweep(
        sweep_id, profile="team", environment=sample_environment(), dataset=sample_dataset()
    )
    for record in made:
        log.log(record)
    log.finish(made)
    tracker.close()


if __name__ == "__main__":
    main()
