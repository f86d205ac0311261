"""Runs two settings by turns, each time in a fresh process, so that the machine's drift hits both alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from cnnbench.sweep.run import run_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.environment import Environment
    from cnnbench.job import CellJob
    from cnnbench.record import Record
    from cnnbench.sweep.workers import Launcher


def interleaved(
    launcher: Launcher,
    baseline: CellJob,
    candidate: CellJob,
    environment: Environment,
    *,
    num_pairs: int,
    seed: int = 0,
) -> Iterator[tuple[Record, Record]]:
    """Yield the records of baseline and candidate, pair by pair.

    Which of the two goes first is drawn for each pair: what the first leaves behind, warm caches or a
    hot chip, must not always meet the same one.

    Args:
        launcher: starts a process for each run.
        baseline: what is compared with.
        candidate: what is compared.
        environment: what the processes run on.
        num_pairs: how many pairs to run.
        seed: of the order.
    """
    order = random.Random(seed)  # noqa: S311 (an order, no secret)
    for _ in range(num_pairs):
        jobs = [baseline, candidate]
        candidate_first = order.random() < 0.5  # noqa: PLR2004 (an even chance)
        if candidate_first:
            jobs.reverse()
        first, second = (run_job(launcher, job, environment) for job in jobs)
        yield (second, first) if candidate_first else (first, second)
