"""What a cell costs besides its windows: a forked worker, data, model, probe, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.job import Request

if TYPE_CHECKING:
    import pytest
    from pytest_benchmark.fixture import BenchmarkFixture

    from cnnbench.job import CellJob
    from cnnbench.sweep.workers import Launcher


def test_cell_start(
    benchmark: BenchmarkFixture,
    workers: Launcher,
    tiny_job: CellJob,
    pytestconfig: pytest.Config,
) -> None:
    starts: list[float] = []

    def run() -> None:
        outcome = workers.run(
            Request(cell=tiny_job), on_progress=lambda _: None, timeout_seconds=None
        )
        assert outcome.answer is not None
        record = outcome.answer.record
        assert record is not None, outcome.stderr_tail
        assert record.status == "completed", record.error
        starts.append(record.started_at - outcome.started_at)

    benchmark.pedantic(run, rounds=pytestconfig.getoption("--bench-rounds"), warmup_rounds=1)
    benchmark.extra_info["start_seconds"] = starts
