"""Batches that processes beside the training one make, image by image, as most training code does.

PyTorch's `DataLoader` with torchvision's v2 transforms: each image is read from the prepared file, cropped,
flipped and normalised by itself; finished batches wait, pinned where there is a GPU, for the step that
takes them. For sets that do not fit on the device, and to show what such a loader costs.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional

from cnnbench.data.device_loader import DeviceLoader
from cnnbench.data.resize import fit_to_size

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from cnnbench.data.augment import Draws
    from cnnbench.data.device_loader import Batch
    from cnnbench.data.host_data import HostSplit

MAX_WORKERS = 8
# Batches that each worker makes ahead: DataLoader's own default.
PREFETCH = 2


class Request(NamedTuple):
    """An image to make: its position in the split, and what chance decided for it, as in `Draws`.

    Without `row` it is neither cropped nor flipped, without `cut_row` nothing is blanked.
    """

    position: int
    row: int | None = None
    column: int = 0
    cut_row: int | None = None
    cut_column: int = 0


class WorkerLoader(DeviceLoader):
    """Makes the device loader's batches in worker processes.

    Order and augmentation are drawn by the same generator, on the CPU: there both loaders give the same
    batches, to rounding. The workers are forked once, at the first batch, and end with this object.
    """

    split: HostSplit

    def __init__(
        self,
        split: HostSplit,
        *,
        device: torch.device,
        batch_size: int,
        augment: str = "none",
        channels_last: bool = False,
        pids: list[int] | None = None,
    ) -> None:
        """Take the images of `split`, for batches on `device`; the rest is `DeviceLoader`'s.

        `pids` is told the numbers of the worker processes when they have started.
        """
        super().__init__(split, batch_size=batch_size, augment=augment, channels_last=channels_last)
        self.device = device
        self._pids: list[int] = [] if pids is None else pids
        self._requests = _Requests()
        self._loader = DataLoader(
            _Images(split, padding=self._augmentation.padding),
            batch_sampler=self._requests,
            num_workers=num_workers(),
            collate_fn=_Collate(self._format),
            pin_memory=device.type == "cuda",
            prefetch_factor=PREFETCH,
            persistent_workers=True,
            # The standard library's other ways import torch anew in each worker.
            multiprocessing_context="fork",
        )

    def forever(self, seed: int) -> Iterator[Batch]:
        """Yield full batches without end, for timing; one larger than the split repeats it."""
        generator = self._generator(seed)

        def passes() -> Generator[list[Request]]:
            while True:
                yield from self._planned(generator)

        return self._made(passes())

    def ordered(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every image once, in order and not augmented; the last batch may be smaller."""
        step = batch_size or self.batch_size
        every = [Request(position) for position in range(len(self.split))]
        return self._made(every[at : at + step] for at in range(0, len(every), step))

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def _shuffled(self, generator: torch.Generator) -> Iterator[Batch]:
        return self._made(self._planned(generator))

    def _planned(self, generator: torch.Generator) -> Generator[list[Request]]:
        order, draws = self._plan(generator)
        requests = self._asked(order, draws)
        for stop in range(self.batch_size, len(requests) + 1, self.batch_size):
            yield requests[stop - self.batch_size : stop]

    def _asked(self, order: torch.Tensor, draws: Draws) -> list[Request]:
        nothing = [None] * len(order)
        return [
            Request(*values)
            for values in zip(
                order.tolist(),
                draws.row.tolist() if self._augmentation.crops else nothing,
                draws.column.tolist(),
                draws.cut_row.tolist() if self._augmentation.cuts else nothing,
                draws.cut_column.tolist(),
                strict=True,
            )
        ]

    def _made(self, batches: Generator[list[Request]]) -> Iterator[Batch]:
        try:
            for images, labels in self._begun(batches):
                yield (
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                )
        finally:
            # An unfinished plan refers to this loader, and the workers' iterator to the plan. Left to the
            # cycle collector, queues end before the workers hear that they may: each is waited for 5 s.
            batches.close()

    def _begun(self, batches: Iterable[list[Request]]) -> Iterator[Batch]:
        """Let the workers begin with `batches`; at the first time, fork them."""
        known = multiprocessing.active_children()
        self._requests.batches = batches
        try:
            with _silent_fork():
                made: Iterator[Batch] = iter(self._loader)
        finally:
            self._requests.batches = ()
        started = (child for child in multiprocessing.active_children() if child not in known)
        self._pids.extend(child.pid for child in started if child.pid is not None)
        return made


@contextmanager
def _silent_fork() -> Iterator[None]:
    """Let processes be forked without the warning of Python 3.12 that this one has several threads.

    The threads are the CUDA driver's and those of the loader's own queues. A child could wait for a lock
    that one of them held; but it only makes images, on the CPU and in one thread, and never enters CUDA.
    """
    with warnings.catch_warnings():
        message = ".*is multi-threaded, use of fork"
        warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        yield


def num_workers() -> int:
    """Return how many processes make batches: one a processor that we may use, up to `MAX_WORKERS`."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


class _Requests(Sampler[list[Request]]):
    """What the loader is to make next; it asks anew each time that it is gone through."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.batches: Iterable[list[Request]] = ()

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.batches)


class _Images(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Makes one image, float32 (3, S, S), and its label."""

    def __init__(self, split: HostSplit, *, padding: int) -> None:
        self._split = split
        self._padding = padding

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        split = self._split
        at = int(split.positions[request.position])
        pixels = fit_to_size(split.images[at : at + 1], split.image_size)[0]
        if request.row is not None:
            pixels = self._cropped(pixels, request.row, request.column)
        if len(pixels) == 1:
            pixels = functional.grayscale_to_rgb(pixels)
        image: torch.Tensor = functional.to_dtype(pixels, torch.float32, scale=True)
        image = functional.normalize(image, list(split.mean), list(split.std))
        if request.cut_row is not None:
            _cut(image, request.cut_row, request.cut_column)
        return image, split.labels[request.position]

    def _cropped(self, pixels: torch.Tensor, row: int, column: int) -> torch.Tensor:
        size, padding = self._split.image_size, self._padding
        num_shifts = 2 * padding + 1
        padded = functional.pad(pixels, [padding], padding_mode="reflect")
        cropped: torch.Tensor = functional.crop(padded, row, column % num_shifts, size, size)
        if column >= num_shifts:
            cropped = functional.horizontal_flip(cropped)
        return cropped


def _cut(image: torch.Tensor, row: int, column: int) -> None:
    """Blank the square around a centre, clipped at the borders, in place: 0 is the data set's mean."""
    side = image.shape[-1] // 2
    top, left = row - side // 2, column - side // 2
    image[:, max(0, top) : top + side, max(0, left) : left + side] = 0


class _Collate:
    """Makes a batch of images, laid out as the loader's are, and of labels."""

    def __init__(self, memory_format: torch.memory_format) -> None:
        self._format = memory_format

    def __call__(
        self, examples: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*examples, strict=True)
        return torch.stack(images).contiguous(memory_format=self._format), torch.stack(labels)
