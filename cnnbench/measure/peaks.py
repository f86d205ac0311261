"""What a device can reach, measured on it: FLOP/s by precision, and bytes per second.

These are peaks, so that of several short windows after a warm-up the best one counts: a neighbour, a
clock that is still rising or a thread that waits can only take away from what the device can do.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cnnbench.environment import Peak, Peaks
from cnnbench.measure.machine import foreign_fraction, read_load
from cnnbench.measure.timing import stopwatch
from cnnbench.measure.vendor import vendor_peaks
from cnnbench.measurement import MAX_FOREIGN_FRACTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cnnbench.precision import Precision

CUDA_WINDOW_SECONDS = 0.005
# For how long the windows of one kind of work follow each other, and how many there are at least.
WORK_SECONDS = 0.12
MIN_WINDOWS = 3
# Passes over all of it; more than one only on a CPU that others use meanwhile.
MAX_PASSES = 5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the work is: a square matrix product, a 3x3 convolution, and a copy.

    `matrix_side` is the side of all three matrices. `num_images`, `num_channels` (in and out) and
    `image_side` are the convolution's. `copy_bytes` are read, and as many written.
    """

    matrix_side: int
    num_images: int
    num_channels: int
    image_side: int
    copy_bytes: int

    @property
    def matmul_flops(self) -> int:
        """Return the operations of one matrix product."""
        return 2 * self.matrix_side**3

    @property
    def convolution_flops(self) -> int:
        """Return the operations of one convolution, padded so that the images keep their size."""
        num_pixels = self.num_images * self.image_side**2
        return 2 * num_pixels * self.num_channels**2 * 3**2


# Seen on two quiet cores of an AMD EPYC with AVX512-BF16, in GFLOP/s (fp32 and bf16). Matrices of 384:
# 206 and 421, of 512: 207 and 440, of 1024: 202 and 438, of 2048: 189 and 413. Images of 8 x 8 x 128:
# 16 reach 254 and 483, 32: 261 and 510, 64: 264 and 508; 32 images of 14 x 14 x 256: 245 and 480. So
# small work is as fast as any there, and it finds gaps that a neighbour leaves. Copies of 32 MiB, which
# the cache may hold, reach 75 GB/s, of 128 MiB 49, of 256 MiB 44, of 512 MiB 43. A GPU's sizes keep the
# fastest ones busy for half a millisecond a call; the copy is eight times the largest cache (126 MB).
SIZES = {
    "cpu": Sizes(
        matrix_side=512, num_images=32, num_channels=128, image_side=8, copy_bytes=256 * 2**20
    ),
    "cuda": Sizes(
        matrix_side=8192, num_images=64, num_channels=512, image_side=56, copy_bytes=2**30
    ),
}


def measure_peaks(device: torch.device, modes: Iterable[Precision]) -> Peaks:
    """Return what `device` reaches; takes about a second, and up to five times that beside neighbours.

    Matrix product and convolution (channels_last, forward) run in each mode's own context, on tensors
    that already have its type, so that no cast is timed. A mode that the device lacks, or that fails,
    is left out. The process's numeric switches are as before afterwards.

    Args:
        device: of the type `cpu` or `cuda`.
        modes: the precisions to measure.
    """
    modes = list(modes)
    best = Peaks(flops={}, bytes_per_second=0.0)
    with _switches_kept(), torch.no_grad():
        for _ in range(MAX_PASSES):
            load, start = read_load(), time.perf_counter()
            best = _higher(best, _measure_once(device, modes))
            seconds = time.perf_counter() - start
            others = None
            if device.type == "cpu":
                others = foreign_fraction(load, read_load(), seconds)
            if (others or 0.0) <= MAX_FOREIGN_FRACTION:
                break
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return replace(best, foreign_fraction=others, vendor=vendor_peaks(name))


def _measure_once(device: torch.device, modes: Iterable[Precision]) -> Peaks:
    sizes = SIZES[device.type]
    found = {mode.name: _peak(mode, device, sizes) for mode in modes}
    return Peaks(
        flops={name: peak for name, peak in found.items() if peak is not None},
        bytes_per_second=2 * sizes.copy_bytes / _best_seconds(_copy(device, sizes), device),
    )


def _higher(one: Peaks, other: Peaks) -> Peaks:
    """Return the higher of each figure of two passes."""
    flops = {
        name: Peak(
            matmul=max(p.flops[name].matmul for p in (one, other) if name in p.flops),
            convolution=max(p.flops[name].convolution for p in (one, other) if name in p.flops),
        )
        for name in one.flops | other.flops
    }
    return Peaks(flops=flops, bytes_per_second=max(one.bytes_per_second, other.bytes_per_second))


def _peak(mode: Precision, device: torch.device, sizes: Sizes) -> Peak | None:
    if mode.unsupported_reason(device):
        return None
    mode.apply()
    dtype = mode.dtype or torch.float32
    try:
        with mode.autocast(device):
            matmul = _best_seconds(_matmul(device, dtype, sizes), device)
            convolution = _best_seconds(_convolution(device, dtype, sizes), device)
    except RuntimeError:  # of a library without such a kernel, or for want of memory
        return None
    return Peak(
        matmul=sizes.matmul_flops / matmul, convolution=sizes.convolution_flops / convolution
    )


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call of `work` in the best window.

    On a CPU a window is a single call, so that some fall between a neighbour's turns: beside one that
    kept a core busy, windows of 4 ms saw a tenth of the peak, single calls all of it.
    """
    watch = stopwatch(device)

    def step() -> None:
        work()

    watch.run(step, 1)  # allocates, and lets cuDNN choose
    num_calls = 1
    if device.type == "cuda":
        num_calls = math.ceil(CUDA_WINDOW_SECONDS / watch.run(step, 1))
    windows: list[float] = []
    deadline = time.perf_counter() + WORK_SECONDS
    while len(windows) < MIN_WINDOWS or time.perf_counter() < deadline:
        windows.append(watch.run(step, num_calls))
    return min(windows) / num_calls


def _matmul(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Callable[[], object]:
    left, right = (
        torch.randn(sizes.matrix_side, sizes.matrix_side, device=device, dtype=dtype)
        for _ in range(2)
    )
    return lambda: torch.mm(left, right)


def _convolution(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Callable[[], object]:
    channels, side = sizes.num_channels, sizes.image_side
    images, filters = (
        torch.randn(*shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for shape in ((sizes.num_images, channels, side, side), (channels, channels, 3, 3))
    )
    return lambda: functional.conv2d(images, filters, padding=1)


def _copy(device: torch.device, sizes: Sizes) -> Callable[[], object]:
    source, target = (
        torch.zeros(sizes.copy_bytes, device=device, dtype=torch.uint8).add_(1) for _ in range(2)
    )
    return lambda: target.copy_(source)


@contextmanager
def _switches_kept() -> Iterator[None]:
    """Set back at the end what `Precision.apply` sets; meanwhile cuDNN tries all its algorithms."""
    matmul = torch.get_float32_matmul_precision()
    convolution, benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        torch.backends.cudnn.benchmark = benchmark
