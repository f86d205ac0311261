"""The data path by itself: a shuffled, augmented and normalised batch on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.regress.suite import Subject


@pytest.mark.kind("loading")
def test_data_path(subject: Subject, take: Callable[[Subject], None]) -> None:
    take(subject)
