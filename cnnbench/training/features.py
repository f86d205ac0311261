"""A frozen trunk's features, computed once: later epochs train its last layer alone.

Where nothing changes the images from epoch to epoch, a frozen trunk in evaluation mode gives the same
features each time; what it gave is kept on the device and drawn from in the order of the images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cnnbench.architectures import is_frozen
from cnnbench.data.device_loader import DeviceLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.architectures.trunk import Transfer
    from cnnbench.cell import Cell
    from cnnbench.data.augment import Draws
    from cnnbench.data.device_loader import Batch
    from cnnbench.precision import Precision

BATCH_SIZE = 512
NOTE = (
    "the frozen trunk's features were computed once for training, in its first epoch; the timed step"
    " computes them each time"
)


def once_unsupported(cell: Cell) -> str | None:
    """Return why the features of `cell`, which is to have them once, change; `None` where they do not."""
    if not is_frozen(cell.architecture):
        return "features=once needs a frozen trunk, such as transfer_resnet50's"
    if cell.recipe.augmentation != "none":
        name = cell.recipe.augmentation
        return f"features=once needs augmentation=none: {name} changes the images in each epoch"
    return None


class FeatureLoader(DeviceLoader):
    """Gives batches of features (B, F) and labels where another loader gives images.

    They are computed at the first batch. The order is that of a resident loader of the same seed.
    """

    def __init__(self, images: DeviceLoader, model: Transfer, precision: Precision) -> None:
        """Take the loader of the images, and the model whose trunk sees them in that precision."""
        super().__init__(images.split, batch_size=images.batch_size)
        self.device = images.device
        self._images = images
        self._model = model
        self._precision = precision
        self._computed: tuple[torch.Tensor, torch.Tensor] | None = None

    def ordered(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every image's features once, in order; the last batch may be smaller."""
        features, labels = self._all()
        step = batch_size or self.batch_size
        for start in range(0, len(labels), step):
            yield features[start : start + step], labels[start : start + step]

    def _batch(self, at: torch.Tensor, draws: Draws) -> Batch:  # noqa: ARG002 (as every loader's)
        features, labels = self._all()
        return features.index_select(0, at), labels.index_select(0, at)

    def _all(self) -> Batch:
        if self._computed is None:
            self._computed = self._compute()
        return self._computed

    @torch.no_grad()
    def _compute(self) -> Batch:
        features, labels = [], []
        for images, own_labels in self._images.ordered(BATCH_SIZE):
            with self._precision.autocast(self.device):
                features.append(self._model.features(images))
            labels.append(own_labels)
        return torch.cat(features), torch.cat(labels)
