"""Curves of every kind get their name, with the numbers behind it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.diagnosis import DIAGNOSES, diagnose
from cnnbench.record import Epoch

Curve = list[tuple[float, float, float, float]]


def epochs(curve: Curve) -> list[Epoch]:
    """Return epochs of (training loss, training accuracy, validation loss, validation accuracy)."""
    return [
        Epoch(
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=1e-3,
            train_seconds=1.0,
            val_seconds=0.1,
        )
        for train_loss, train_accuracy, val_loss, val_accuracy in curve
    ]


LEARNS: Curve = [(2 / n, 1 - 0.5 / n, 2.1 / n, 0.99 - 0.5 / n) for n in range(1, 7)]


@pytest.mark.parametrize(
    ("curve", "kind"),
    [
        (LEARNS, "healthy"),
        (LEARNS[:1], "underfitting"),
        # The loss on new images turns while that on the training images goes on falling.
        ([*LEARNS, (0.2, 0.95, 0.45, 0.9), (0.1, 0.97, 0.6, 0.9)], "overfitting"),
        # A gap of 30 points, though the loss still falls.
        ([(1.0, 0.7, 1.5, 0.5), (0.2, 0.95, 1.4, 0.65)], "overfitting"),
        # A validation loss that bounces while nothing is learned is no overfitting.
        ([(2.0, 0.3, 2.0, 0.3), (2.1, 0.3, 2.4, 0.3)], "underfitting"),
        ([(2.3 - 0.01 * n, 0.2, 2.3 - 0.01 * n, 0.2) for n in range(8)], "underfitting"),
        ([*LEARNS, *[(0.3, 0.93, 0.349, 0.92)] * 5], "plateaued"),
    ],
)
def test_each_kind_of_curve_has_its_diagnosis(curve: Curve, kind: str) -> None:
    found = diagnose(epochs(curve), num_classes=10, diverged=False)
    assert found is not None
    assert found.kind == kind
    assert "%" in found.reason


def test_the_numbers_are_those_of_the_curves() -> None:
    curve = [(1.0, 0.5, 1.0, 0.5), (0.8, 0.6, 0.8, 0.6), (0.5, 0.82, 0.9, 0.75)]
    found = diagnose(epochs(curve), num_classes=10, diverged=False)
    assert found is not None
    assert found.gap == pytest.approx(0.07)
    assert found.rise == pytest.approx(0.9 / 0.8 - 1)
    assert found.fitted == pytest.approx((0.82 - 0.1) / 0.9)
    assert found.progress == pytest.approx(0.0), "the last third brought no lower loss"
    assert found.kind == "overfitting"
    assert found.reason == (
        "80% of the way from chance to perfect on the training images, validation accuracy"
        " -7.0 points from it, validation loss 12% above its minimum, which fell by 0.0% in the"
        " last third of the epochs"
    )


def test_a_diverged_run_is_diverged_whatever_came_before() -> None:
    found = diagnose(epochs(LEARNS), num_classes=10, diverged=True)
    assert found is not None
    assert (found.kind, found.gap) == ("diverged", None)
    assert found.reason == "the loss became infinite or not a number"
    assert diagnose([], num_classes=10, diverged=True) is not None


def test_a_run_that_ends_far_above_a_uniform_guess_has_diverged_though_it_is_finite() -> None:
    chance = math.log(10)
    for loss, kind in ((1.9 * chance, "underfitting"), (2.1 * chance, "diverged")):
        curve = [(2.5, 0.12, 2.4, 0.12), (loss, 0.1, loss, 0.1)]
        found = diagnose(epochs(curve), num_classes=10, diverged=False)
        assert found is not None
        assert found.kind == kind
        assert found.excess == pytest.approx(loss / chance)
    assert found is not None
    assert found.reason == "the training loss ended at 2.1 times that of a uniform guess"


def test_where_nothing_was_trained_there_is_no_diagnosis() -> None:
    assert diagnose([], num_classes=10, diverged=False) is None


FRACTION = st.floats(0, 1)
LOSS = st.floats(0, 100)


@given(curve=st.lists(st.tuples(LOSS, FRACTION, LOSS, FRACTION), min_size=1, max_size=40))
def test_every_curve_has_a_diagnosis(curve: Curve) -> None:
    found = diagnose(epochs(curve), num_classes=10, diverged=False)
    assert found is not None
    assert found.kind in DIAGNOSES
    assert found.reason
