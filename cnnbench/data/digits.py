"""`digits`: scikit-learn's embedded copy of 1797 real handwritten digits, 8 x 8 pixels in 17 greys.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test
part).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

import numpy as np
from sklearn.datasets import load_digits

from cnnbench.data.prepared import Decoded
from cnnbench.data.splits import split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cnnbench.data.prepared import Request

SIDE = 8
MAX_GREY = 16


def digits(request: Request) -> Decoded:  # noqa: ARG001  # one signature for all data sets
    """Return the digits, 70 % for training, 15 % for validation, 15 % for the test.

    They may be shifted, never flipped: a mirrored digit is another sign.
    """
    flat, labels = cast(
        "tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True)
    )
    images = np.round(flat * (255 / MAX_GREY)).astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
    labels = labels.astype(np.int64)
    return Decoded(
        source="scikit-learn's load_digits",
        fingerprint=hashlib.sha256(images.tobytes()).hexdigest(),
        labels=labels,
        splits=split(labels, val=0.15, test=0.15),
        shape=(len(images), 1, SIDE, SIDE),
        chunks=lambda: iter([images]),
        num_classes=10,
        image_size=32,
        augmentation="crop",
        augmentations=("none", "crop"),
    )
