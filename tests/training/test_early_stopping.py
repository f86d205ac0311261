"""Early stopping, checked against counting by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.training.early_stopping import EarlyStopping


def epochs_until_stop(patience: int | None, losses: list[float]) -> int | None:
    stopping = EarlyStopping(patience)
    return next((n for n, loss in enumerate(losses, 1) if stopping.should_stop(loss)), None)


@pytest.mark.parametrize(
    ("patience", "losses", "stop"),
    [
        (1, [3, 2, 1], None),
        (1, [3, 2, 2], 3),
        (2, [3, 2, 2.5, 2.4], 4),
        (2, [3, 2, 2.5, 1.9, 2.0, 2.1], 6),
        (3, [1, 1, 1, 1], 4),
        (2, [1, math.nan, math.nan], 3),
        (None, [1] * 50, None),
    ],
)
def test_training_stops_after_so_many_epochs_without_a_lower_loss(
    patience: int | None, losses: list[float], stop: int | None
) -> None:
    assert epochs_until_stop(patience, losses) == stop


@given(
    patience=st.integers(1, 5),
    losses=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=30),
)
def test_it_stops_when_the_best_epoch_lies_just_so_far_back(
    patience: int, losses: list[float]
) -> None:
    stop = epochs_until_stop(patience, losses)
    by_hand = (
        n
        for n in range(1, len(losses) + 1)
        if n - 1 - losses[:n].index(min(losses[:n])) == patience
    )
    assert stop == next(by_hand, None)
