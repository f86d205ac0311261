"""The document's transfer learning: a ResNet-50 with a new last layer, the rest frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchvision.models import ResNet50_Weights, resnet50

from cnnbench.architectures.parameters import require_flag
from cnnbench.architectures.pretrained import find_published
from cnnbench.architectures.trunk import Transfer

if TYPE_CHECKING:
    from cnnbench.architectures.pretrained import WeightsFile

# The weights that `pretrained=True` meant. Their name, resnet50-0676ba61, holds 8 digits of this.
IMAGENET_SHA256 = "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"


class TransferLearningModel(Transfer):
    """torchvision's ResNet-50 with a new last layer, which alone is trained.

    The document's own (section 3), without its trap: there the statistics of the frozen part drift in
    train mode (see `Transfer`). Where the document passes the deprecated `pretrained=True`, this class
    starts from random weights, and `cnnbench.architectures.build` loads verified ones into it; weights
    of the document's model and of torchvision's ResNet-50 both fit.

    Args:
        num_classes: Size of the output.
        frozen: Whether only the last layer is trained; False trains everything (fine-tuning).

    Raises:
        InvalidValueError: A value that is impossible.
    """

    def __init__(self, *, num_classes: int = 10, frozen: bool = True) -> None:
        """Build with torchvision's default initialisation."""
        require_flag(frozen=frozen)
        super().__init__(resnet50(weights=None), num_classes=num_classes, frozen=frozen)


def imagenet_weights(*, download: bool) -> WeightsFile:
    """Return torchvision's first ImageNet weights (IMAGENET1K_V1), which are the document's.

    Raises:
        MissingWeightsError: They are not on this machine, and may not or cannot be fetched.
    """
    url = ResNet50_Weights.IMAGENET1K_V1.url
    return find_published(url, IMAGENET_SHA256, download=download)
