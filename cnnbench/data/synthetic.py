"""`synthetic(...)`: random images of any size and number, to measure speed and memory with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from cnnbench.cell import AUGMENTATIONS, parse_call
from cnnbench.digest import digest
from cnnbench.environment import DatasetInfo
from cnnbench.errors import InvalidValueError, UnknownNameError, miss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnbench.data.prepared import Request

NUM_CHANNELS = 3

# A pixel is uniform over 0, 1, ... 255.
_MEAN = 0.5
_STD = math.sqrt((256**2 - 1) / 12) / 255

# Above these no device has the memory, and torch's own errors would name no parameter.
_BOUNDS = {"image_size": (1, 8192), "num_classes": (2, 2**20), "num_images": (10, 2**31)}


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """The parameters of `synthetic(...)`: the side in pixels, and how many classes and images."""

    image_size: int = 32
    num_classes: int = 10
    num_images: int = 2048

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        for name, value in asdict(self).items():
            low, high = _BOUNDS[name]
            if type(value) is not int or not low <= value <= high:
                msg = f"synthetic's {name} = {value!r} must be a whole number from {low} to {high}."
                raise InvalidValueError(msg)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Synthetic:
        """Return the data set with these parameters, the others at their defaults.

        Raises:
            UnknownNameError: a parameter that `synthetic` does not have.
            InvalidValueError: a value that it cannot have.
        """
        known = [f.name for f in fields(cls)]
        for name in parameters:
            if name not in known:
                raise UnknownNameError(miss("parameter of synthetic", name, known))
        return cls(**parameters)


def synthetic(request: Request) -> DatasetInfo:
    """Describe the images that each worker makes on its device, split 80/10/10."""
    made = Synthetic.from_parameters(parse_call(request.name)[1])
    held_out = made.num_images // 10
    return DatasetInfo(
        name=request.name,
        digest=digest({"synthetic": asdict(made)}, length=32),
        source="random pixels, made on the device",
        path="",
        image_size=made.image_size,
        num_channels=NUM_CHANNELS,
        num_classes=made.num_classes,
        num_train=made.num_images - 2 * held_out,
        num_val=held_out,
        num_test=held_out,
        augmentation="none",
        augmentations=AUGMENTATIONS[1:],
        mean=(_MEAN,) * 3,
        std=(_STD,) * 3,
    )
