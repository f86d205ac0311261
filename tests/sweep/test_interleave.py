"""Two settings run by turns, window by window, in an order that chance decides and a seed repeats."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cnnbench.errors import WorkerError
from cnnbench.job import Answer
from cnnbench.sweep.interleave import interleaved, take_turns
from cnnbench.sweep.workers import Launcher, Outcome, launcher
from sample_jobs import job, tiny_cell
from sample_records import sample_environment, sample_record

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Request
    from cnnbench.sweep.workers import OnProgress, OnTurn

NUM_TURNS = 6
# Far more than a tiny cell takes.
LIMIT_SECONDS = 8.0
# Of an order in which the first of two begins, and waits for the second.
SEED = 1


class Remembering(Launcher):
    """Takes its turns and notes each in a list that two of them share; two at once would be seen."""

    def __init__(self, turns: list[int], working: threading.Lock) -> None:
        super().__init__()
        self._turns = turns
        self._working = working
        self.seeds: list[int] = []
        self.times_renewed = 0

    def renew(self) -> None:
        self.times_renewed += 1

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,  # noqa: ARG002
        timeout_seconds: float | None,  # noqa: ARG002
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        assert request.cell is not None
        assert request.cell.takes_turns
        cell = request.cell.cell
        self.seeds.append(cell.seed)
        for _ in range(NUM_TURNS + cell.seed):
            on_turn()
            with self._working:
                self._turns.append(cell.seed)
        return Outcome(
            answer=Answer(record=sample_record(cell=cell)),
            death=None,
            timed_out=False,
            started_at=0.0,
            stderr_tail="",
        )


class Breaking(Launcher):
    """Breaks at once."""

    def run(
        self,
        request: Request,  # noqa: ARG002
        *,
        on_progress: OnProgress,  # noqa: ARG002
        timeout_seconds: float | None,  # noqa: ARG002
        on_turn: OnTurn = lambda: None,  # noqa: ARG002
    ) -> Outcome:
        msg = "the fork server is gone"
        raise WorkerError(msg)


def test_each_round_gives_both_a_turn_in_an_order_that_chance_decides(
    digits: DatasetInfo,
) -> None:
    baseline = job(tiny_cell(), digits)
    candidate = replace(baseline, cell=replace(baseline.cell, seed=1))
    seen = []
    for _ in range(2):
        turns: list[int] = []
        working = threading.Lock()
        workers = Remembering(turns, working), Remembering(turns, working)
        environment = sample_environment()
        runs = interleaved(workers, (baseline, candidate), environment, num_pairs=8, seed=7)
        assert [(a.cell.seed, b.cell.seed) for a, b in runs] == [(0, 1)] * 8
        seen.append(turns)
    first, second = seen
    assert first == second, "the same seed gives the same order"
    # The candidate has a turn more, and takes it when the baseline has ended.
    length = 2 * NUM_TURNS + 1
    pairs = [first[start : start + length] for start in range(0, len(first), length)]
    assert [pair[-1] for pair in pairs] == [1] * 8
    rounds = [tuple(pair[n : n + 2]) for pair in pairs for n in range(0, 2 * NUM_TURNS, 2)]
    assert set(rounds) == {(0, 1), (1, 0)}


def remembering() -> tuple[Remembering, Remembering]:
    working = threading.Lock()
    return Remembering([], working), Remembering([], working)


def test_what_workers_of_a_launcher_share_differs_from_pair_to_pair(digits: DatasetInfo) -> None:
    baseline = job(tiny_cell(), digits)
    jobs = baseline, replace(baseline, cell=replace(baseline.cell, seed=1))
    ours, theirs = remembering()
    list(interleaved((ours, theirs), jobs, sample_environment(), num_pairs=3))
    assert (ours.seeds, theirs.seeds) == ([0] * 3, [1] * 3)
    assert (ours.times_renewed, theirs.times_renewed) == (2, 2)
    ours, theirs = remembering()
    runs = interleaved(
        (ours, theirs), jobs, sample_environment(), num_pairs=12, interchangeable=True
    )
    assert [(a.cell.seed, b.cell.seed) for a, b in runs] == [(0, 1)] * 12
    assert [sorted(pair) for pair in zip(ours.seeds, theirs.seeds, strict=True)] == [[0, 1]] * 12
    assert set(ours.seeds) == {0, 1}
    assert (ours.times_renewed, theirs.times_renewed) == (0, 0)


def test_a_launcher_that_breaks_is_told_and_the_other_still_ends(digits: DatasetInfo) -> None:
    given = job(tiny_cell(), digits)
    turns: list[int] = []
    workers = Remembering(turns, threading.Lock()), Breaking()
    with pytest.raises(WorkerError, match="the fork server is gone"):
        list(interleaved(workers, (given, given), sample_environment(), num_pairs=1))
    assert len(turns) == NUM_TURNS


def test_real_workers_take_turns_and_each_run_has_a_process_of_its_own(
    digits: DatasetInfo,
) -> None:
    given = job(tiny_cell(), digits)
    with launcher("forkserver") as ours, launcher("forkserver") as theirs:
        runs = interleaved((ours, theirs), (given, given), sample_environment(), num_pairs=2)
        records = [record for pair in runs for record in pair]
    assert [record.status for record in records] == ["completed"] * 4
    assert all(record.profile and len(record.profile.windows) == 3 for record in records)
    # They lived at the same time.
    for one, other in (records[:2], records[2:]):
        assert max(one.started_at, other.started_at) < min(one.finished_at, other.finished_at)


def test_waiting_for_a_turn_does_not_count_as_a_runs_own_time(digits: DatasetInfo) -> None:
    given = job(tiny_cell(), digits)

    class Slow(Remembering):
        """Works for longer than the other may take."""

        def run(self, *arguments: Any, **options: Any) -> Outcome:
            time.sleep(LIMIT_SECONDS + 1)
            return super().run(*arguments, **options)

    with launcher("forkserver") as ours:
        ours.wait_until_ready()
        slow = Slow([], threading.Lock())
        order = random.Random(SEED)  # noqa: S311 (an order, no secret)
        pair = take_turns((ours, slow), (given, given), sample_environment(), order, LIMIT_SECONDS)
    assert [record.status for record in pair] == ["completed"] * 2
