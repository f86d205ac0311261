"""The forward pass in evaluation mode, without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.regress.suite import Subject


@pytest.mark.kind("inference")
def test_inference(subject: Subject, take: Callable[[Subject], None]) -> None:
    take(subject)
