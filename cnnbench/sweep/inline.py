"""Requests served in this process, as function calls."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cnnbench import clock
from cnnbench.job import decode_answer, encode
from cnnbench.sweep.launcher import Launcher, Outcome
from cnnbench.sweep.server import WORKER

if TYPE_CHECKING:
    from cnnbench.job import Answer, Request
    from cnnbench.sweep.launcher import OnProgress, OnTurn


class Inline(Launcher):
    """Runs requests in this process: for debuggers. No time limit, no isolation, no place of its own."""

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,  # noqa: ARG002 (nothing can end this process)
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Call the worker's entry as a function."""
        answers: list[Answer] = []
        started_at = clock.now()

        def take(line: bytes) -> None:
            answer = decode_answer(line)
            if answer.progress is not None:
                on_progress(answer.progress)
            elif not answer.turn:
                answers.append(answer)

        def give_turn() -> bytes:
            on_turn()
            return b""

        importlib.import_module(WORKER).serve(encode(request), take, give_turn)
        return Outcome(
            answer=answers[0], death=None, timed_out=False, started_at=started_at, stderr_tail=""
        )
