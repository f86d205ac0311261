"""Two settings run by turns, in an order that chance decides and a seed repeats."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from cnnbench.job import Answer
from cnnbench.sweep.interleave import interleaved
from cnnbench.sweep.workers import Launcher, Outcome, launcher
from sample_jobs import job, tiny_cell
from sample_records import sample_environment, sample_record

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Request
    from cnnbench.sweep.workers import OnProgress


class Remembering(Launcher):
    """Answers each request at once, and remembers what was asked for."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,  # noqa: ARG002
        timeout_seconds: float | None,  # noqa: ARG002
    ) -> Outcome:
        assert request.cell is not None
        cell = request.cell.cell
        self.seeds.append(cell.seed)
        return Outcome(
            answer=Answer(record=sample_record(cell=cell)),
            death=None,
            timed_out=False,
            started_at=0.0,
            stderr_tail="",
        )


def test_each_pair_runs_both_and_chance_decides_which_goes_first(digits: DatasetInfo) -> None:
    baseline = job(tiny_cell(), digits)
    candidate = replace(baseline, cell=replace(baseline.cell, seed=1))
    orders = []
    for _ in range(2):
        workers = Remembering()
        pairs = list(
            interleaved(workers, baseline, candidate, sample_environment(), num_pairs=20, seed=7)
        )
        assert [(a.cell.seed, b.cell.seed) for a, b in pairs] == [(0, 1)] * 20
        turns = list(zip(workers.seeds[::2], workers.seeds[1::2], strict=True))
        assert set(turns) == {(0, 1), (1, 0)}
        orders.append(turns)
    assert orders[0] == orders[1], "the same seed gives the same order"


def test_each_run_has_a_process_of_its_own(digits: DatasetInfo) -> None:
    given = job(tiny_cell(), digits)
    with launcher("forkserver") as workers:
        pairs = list(interleaved(workers, given, given, sample_environment(), num_pairs=2))
    records = [record for pair in pairs for record in pair]
    assert [record.status for record in records] == ["completed"] * 4
    times = sorted((record.started_at, record.finished_at) for record in records)
    assert all(end <= start for (_, end), (start, _) in pairwise(times))
