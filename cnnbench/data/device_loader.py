"""Batches of a resident split: shuffled and augmented for training, in order for evaluation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import torch

from cnnbench.data.augment import Augmentation
from cnnbench.data.resize import fit_to_size
from cnnbench.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.data.augment import Draws
    from cnnbench.data.device_data import Split

# Images float32 (B, 3, S, S), normalised; labels int64 (B,).
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_NUM_CHANNELS = 3
_MAX_GREY = 255


class DeviceLoader:
    """Makes batches on the device that holds the images; nothing here waits for it.

    Order and augmentation come from an own generator on that device: the same seed gives the same
    batches on the same kind of device, whatever else drew random numbers.
    """

    def __init__(
        self, split: Split, *, batch_size: int, augment: str = "none", channels_last: bool = False
    ) -> None:
        """Take the images of `split`.

        Args:
            split: resident images and labels.
            batch_size: images in a training batch.
            augment: `none`, `crop`, `flip+crop` or `flip+crop+cutout`.
            channels_last: lay batches out as NHWC (`torch.channels_last`), else NCHW.
        """
        self.split = split
        self.batch_size = batch_size
        self.device = split.images.device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._augmentation = Augmentation(augment, size=split.image_size, device=self.device)
        self._scale, self._shift = _affine(split)

    @property
    def num_batches(self) -> int:
        """Return the number of full batches in an epoch."""
        return len(self.split) // self.batch_size

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Return the full batches of one shuffled pass; what is left over is not seen.

        Raises:
            InvalidValueError: the split does not fill one batch.
        """
        if self.num_batches == 0:
            msg = (
                f"a batch of {self.batch_size} images is more than the {len(self.split)} training "
                "images: no epoch has a full batch."
            )
            raise InvalidValueError(msg)
        return self._shuffled(self._generator(seed))

    def forever(self, seed: int) -> Iterator[Batch]:
        """Yield full batches without end, for timing; one larger than the split repeats it."""
        generator = self._generator(seed)
        while True:
            yield from self._shuffled(generator)

    def ordered(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every image once, in order and not augmented; the last batch may be smaller."""
        step = batch_size or self.batch_size
        index = torch.arange(len(self.split), device=self.device)
        for start in range(0, len(index), step):
            at = index[start : start + step]
            yield self._finish(self._pixels(at), draws=None), self.split.labels[at]

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def _shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        order, draws = self._plan(generator)
        for stop in range(self.batch_size, len(order) + 1, self.batch_size):
            start = stop - self.batch_size
            yield self._batch(order[start:stop], draws.part(start, stop))

    def _plan(self, generator: torch.Generator) -> tuple[torch.Tensor, Draws]:
        """Return one pass: the positions of images in their order, and what chance does to each."""
        num_images = len(self.split)
        num_passes = math.ceil(self.batch_size / num_images)
        passes = [
            torch.randperm(num_images, generator=generator, device=generator.device)
            for _ in range(num_passes)
        ]
        order = torch.cat(passes)
        return order, self._augmentation.draw(len(order), generator)

    def _batch(self, at: torch.Tensor, draws: Draws) -> Batch:
        images = self.split.images
        if images.shape[-1] == self.split.image_size:
            pixels = self._augmentation.take(images, at, draws)
        else:
            every = torch.arange(len(at), device=self.device)
            pixels = self._augmentation.take(self._pixels(at), every, draws)
        return self._finish(pixels, draws), self.split.labels[at]

    def _pixels(self, at: torch.Tensor) -> torch.Tensor:
        return fit_to_size(self.split.images.index_select(0, at), self.split.image_size)

    def _finish(self, pixels: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        normalised = pixels.to(torch.float32).mul(self._scale).add_(self._shift)
        if draws is not None:
            normalised = self._augmentation.cut(normalised, draws)
        return self._laid_out(normalised)

    def _laid_out(self, images: torch.Tensor) -> torch.Tensor:
        """Return grey or coloured images (B, 1 or 3, S, S) as (B, 3, S, S) in the loader's format."""
        if self.device.type != "cpu" or images.shape[1] == _NUM_CHANNELS:
            coloured = images.expand(-1, _NUM_CHANNELS, -1, -1)
            return coloured.contiguous(memory_format=self._format)
        # Channel by channel: one broadcasting copy took 1.6 to 1.8 times as long for 64 grey 32 x 32
        # images in channels_last on one thread.
        shape = (len(images), _NUM_CHANNELS, *images.shape[2:])
        batch = torch.empty(shape, dtype=images.dtype, memory_format=self._format)
        for channel in batch.unbind(1):
            channel.copy_(images[:, 0])
        return batch


def _affine(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factor and the summand that normalise pixels, (1, 1 or 3, 1, 1).

    Grey images that all channels treat alike are normalised once and repeated afterwards.
    """
    statistics = list(zip(split.mean, split.std, strict=True))
    if split.images.shape[1] == 1 and len(set(statistics)) == 1:
        statistics = statistics[:1]
    scale = [1 / (_MAX_GREY * std) for _, std in statistics]
    shift = [-mean / std for mean, std in statistics]
    device = split.images.device
    return (
        torch.tensor(scale, device=device).view(1, -1, 1, 1),
        torch.tensor(shift, device=device).view(1, -1, 1, 1),
    )
