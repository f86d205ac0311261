"""What launchers of workers have in common: a request goes in, how it ended comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from cnnbench.job import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from cnnbench.job import Answer, Request

OnProgress = Callable[[Progress], None]
OnTurn = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended: with an `answer`, or without one and then why (`death`).

    `started_at` is when the request was sent; `timed_out` says that the time limit ended it.
    """

    answer: Answer | None
    death: str | None
    timed_out: bool
    started_at: float
    stderr_tail: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where workers run: on which processors (empty: on all), with which `variables`, in which `folder`.

    The variables take the place of those that a worker would have; `None` is the present folder, and
    without `python` workers run on the interpreter that runs here.
    """

    processors: frozenset[int] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    python: Path | None = None


ANYWHERE = Place()


class Launcher(ABC):
    """Runs one request at a time; a context manager that leaves no process behind."""

    def __init__(self, place: Place = ANYWHERE) -> None:
        """Take where workers are to run."""
        self._place = place

    @abstractmethod
    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Run `request` to its end and return how it ended.

        A worker that asks for its turn gets it when `on_turn` returns.
        """

    def renew(self) -> None:  # noqa: B027 (whose workers share nothing has nothing to renew)
        """Let later workers share no memory with earlier ones; it may return before they can start."""

    def wait_until_ready(self) -> None:  # noqa: B027 (as above)
        """Wait until a worker can start at once, and nothing is at work before it does.

        Raises:
            WorkerError: none ever can.
        """

    def close(self) -> None:  # noqa: B027 (inline has nothing to end)
        """End whatever still runs."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind."""
        self.close()
