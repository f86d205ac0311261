"""Tests of the splits."""

from __future__ import annotations

import numpy as np
import pytest

from cnnbench.data.splits import split, split_official, stratified_order

LABELS = np.repeat(np.arange(7), [10, 20, 30, 40, 50, 60, 90]).astype(np.int64)


def test_the_order_holds_every_image_once() -> None:
    assert sorted(stratified_order(LABELS)) == list(range(300))


@pytest.mark.parametrize("num_images", [10, 33, 100, 299])
def test_every_beginning_of_the_order_has_the_classes_in_proportion(num_images: int) -> None:
    begun = LABELS[stratified_order(LABELS)[:num_images]]
    due = np.bincount(LABELS) * num_images / len(LABELS)
    assert np.abs(np.bincount(begun, minlength=7) - due).max() <= 1


def test_the_order_within_a_class_is_shuffled() -> None:
    order = stratified_order(np.zeros(100, dtype=np.int64))
    assert list(order) != sorted(order)


def test_the_order_never_changes() -> None:
    # Written down: another order would be another data set under the same name.
    assert stratified_order(LABELS)[:8].tolist() == [221, 208, 136, 74, 52, 239, 12, 188]


def test_splits_are_disjoint_and_complete() -> None:
    parts = split(LABELS, val=0.15, test=0.15)
    together = np.concatenate([parts.train, parts.val, parts.test])
    assert sorted(together) == list(range(300))
    assert [len(parts.train), len(parts.val), len(parts.test)] == [210, 45, 45]


def test_splits_have_the_classes_in_proportion() -> None:
    parts = split(LABELS, val=0.1, test=0.1)
    for part in (parts.train, parts.val, parts.test):
        due = np.bincount(LABELS) * len(part) / len(LABELS)
        assert np.abs(np.bincount(LABELS[part], minlength=7) - due).max() <= 1


def test_a_held_out_part_of_few_images_is_not_empty() -> None:
    parts = split(np.array([0, 0, 1, 1]), val=0.1, test=0.1)
    assert [len(parts.train), len(parts.val), len(parts.test)] == [2, 1, 1]


def test_an_official_test_split_stays_whole() -> None:
    parts = split_official(LABELS, 50)
    assert parts.test.tolist() == list(range(300, 350))
    assert sorted(np.concatenate([parts.train, parts.val])) == list(range(300))
    assert len(parts.val) == 30
