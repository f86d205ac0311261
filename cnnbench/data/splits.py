"""Training, validation and test splits: seeded, stratified, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The positions of the images of each split, int64, ascending, disjoint."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of all labels, shuffled, every stretch with its share of each class.

    The k-th of a class's n images stands at (k + 1/2) / n of the way, so that a stretch has of
    each class what is due, give or take one. `RandomState`'s stream is the same in every version
    of numpy.
    """
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.unique(labels, return_counts=True)[1]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (np.arange(len(labels)) - first + 0.5) / np.repeat(sizes, sizes)
    return by_class[np.argsort(place, kind="stable")].astype(np.int64)


def split(labels: NDArray[np.int64], *, val: float, test: float) -> Splits:
    """Cut the stratified order into a test part, a validation part and the rest.

    `val` and `test` are fractions of all images; a part whose fraction is not 0 has one image at
    least.
    """
    order = stratified_order(labels)
    num_test = _share(test, len(labels))
    num_val = _share(val, len(labels))
    parts = np.split(order, [num_test, num_test + num_val])
    return Splits(test=np.sort(parts[0]), val=np.sort(parts[1]), train=np.sort(parts[2]))


def split_official(train_labels: NDArray[np.int64], num_test: int, *, val: float = 0.1) -> Splits:
    """Keep an official test split, which follows the training images; cut validation from those."""
    ours = split(train_labels, val=val, test=0)
    num_train = len(train_labels)
    return Splits(train=ours.train, val=ours.val, test=np.arange(num_train, num_train + num_test))


def _share(fraction: float, num_images: int) -> int:
    return max(1, round(fraction * num_images)) if fraction else 0
