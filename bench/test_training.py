"""The training step of every architecture, in every precision, with and without checkpointing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.regress.suite import Subject


@pytest.mark.kind("training")
def test_training_step(subject: Subject, take: Callable[[Subject], None]) -> None:
    take(subject)
