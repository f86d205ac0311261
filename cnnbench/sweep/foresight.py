"""Asks workers for forecasts, one architecture a worker, and takes no answer for one as well."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cnnbench import errors
from cnnbench.errors import WorkerError
from cnnbench.forecast import Outlook
from cnnbench.job import Request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnbench.job import ForecastJob
    from cnnbench.sweep.workers import Launcher

# The worker itself stops a minute after it has built the model, and tells what it has until then.
LIMIT_SECONDS = 120.0


def foresee(
    launcher: Launcher, jobs: Iterable[ForecastJob], *, limit_seconds: float = LIMIT_SECONDS
) -> list[Outlook]:
    """Return the outlooks of all `jobs`; a worker that dies or takes too long is a reason for none.

    Raises:
        CnnbenchError: a model cannot be built.
    """
    return [outlook for job in jobs for outlook in _ask(launcher, job, limit_seconds)]


def _ask(launcher: Launcher, job: ForecastJob, limit_seconds: float) -> tuple[Outlook, ...]:
    outcome = launcher.run(
        Request(forecast=job), on_progress=lambda _: None, timeout_seconds=limit_seconds
    )
    answer = outcome.answer
    if answer is not None and answer.outlooks is not None:
        return answer.outlooks
    if answer is not None and answer.refusal is not None:
        raise getattr(errors, answer.refusal.error, WorkerError)(answer.refusal.message)
    reason = outcome.death or "the worker answered something else than was asked"
    return tuple(
        Outlook(setting=replace(one.setting, image_size=job.image_size), reason=reason)
        for one in job.questions
    )
