"""Asking workers for forecasts: answers, refusals, and workers that give none."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest

from cnnbench.errors import ArchitectureError
from cnnbench.forecast import Outlook, Question, Setting
from cnnbench.job import Answer, ForecastJob, Refusal
from cnnbench.sweep.foresight import foresee
from cnnbench.sweep.workers import Launcher, Outcome

if TYPE_CHECKING:
    from cnnbench.job import Request
    from cnnbench.sweep.workers import OnProgress, OnTurn

SETTINGS = tuple(Setting(architecture="resnet", precision=name) for name in ("fp32", "bf16"))
JOB = ForecastJob(
    questions=tuple(Question(setting=setting, batch_sizes=(32,)) for setting in SETTINGS),
    num_classes=10,
    image_size=32,
)


class Scripted(Launcher):
    """Ends each request as it was told."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.timeouts: list[float | None] = []
        self._outcomes = deque(outcomes)

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,  # noqa: ARG002
        timeout_seconds: float | None,
        on_turn: OnTurn = lambda: None,  # noqa: ARG002
    ) -> Outcome:
        assert request.forecast == JOB
        self.timeouts.append(timeout_seconds)
        return self._outcomes.popleft()


def outcome(answer: Answer | None = None, death: str | None = None) -> Outcome:
    return Outcome(answer=answer, death=death, timed_out=False, started_at=0.0, stderr_tail="")


def test_the_outlooks_of_all_jobs_come_in_their_order() -> None:
    answers = [Outlook(setting=setting) for setting in SETTINGS]
    workers = Scripted(
        outcome(Answer(outlooks=tuple(answers))), outcome(Answer(outlooks=tuple(answers[:1])))
    )
    assert foresee(workers, [JOB, JOB]) == [*answers, answers[0]]


def test_a_worker_that_dies_or_hangs_is_a_reason_for_no_forecast() -> None:
    workers = Scripted(outcome(death="took longer than 9 s"), outcome(Answer()))
    first, second, *others = foresee(workers, [JOB, JOB], limit_seconds=9)
    assert workers.timeouts == [9, 9]
    assert [first.setting.precision, second.setting.precision] == ["fp32", "bf16"]
    assert first.setting.image_size == 32
    assert {first.reason, second.reason} == {"took longer than 9 s"}
    assert {one.reason for one in others} == {"the worker answered something else than was asked"}


def test_what_the_user_can_put_right_is_raised() -> None:
    refusal = Refusal(error="ArchitectureError", message="no such model")
    with pytest.raises(ArchitectureError, match="no such model"):
        foresee(Scripted(outcome(Answer(refusal=refusal))), [JOB])
