"""What logging one record to MLflow on SQLite costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cnnbench.job import Request
from cnnbench.tracking import open_store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from pytest_benchmark.fixture import BenchmarkFixture

    from cnnbench.job import CellJob, Ready
    from cnnbench.sweep.workers import Launcher


def test_tracking_a_record(
    benchmark: BenchmarkFixture,
    workers: Launcher,
    tiny_job: CellJob,
    ready: Ready,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    outcome = workers.run(Request(cell=tiny_job), on_progress=lambda _: None, timeout_seconds=None)
    assert outcome.answer is not None
    record = outcome.answer.record
    assert record is not None, outcome.stderr_tail
    store = open_store(None, tmp_path)
    log = store.sweep(
        "bench", profile="bench", environment=ready.environment, dataset=ready.dataset
    )
    cells = (replace(record.cell, seed=seed) for seed in range(1000))

    def log_one() -> None:
        cell = next(cells)
        log.log(replace(record, cell=cell, cell_hash=cell.hash))

    benchmark.pedantic(log_one, rounds=pytestconfig.getoption("--bench-rounds"), warmup_rounds=1)
    store.close()
