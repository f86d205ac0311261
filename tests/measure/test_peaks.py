"""Peaks are measured in each precision's own context, and leave the process as it was."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cnnbench.environment import Peak, Peaks
from cnnbench.measure import peaks as module
from cnnbench.measure.flags import numeric_flags
from cnnbench.measure.operators import watch
from cnnbench.measure.peaks import MAX_PASSES, SIZES, measure_peaks
from cnnbench.measure.vendor import vendor_peaks
from cnnbench.precision import BF16, TF32, Precision, precision

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORK_SECONDS", 0.01)
    small = replace(SIZES["cpu"], copy_bytes=2**20)
    monkeypatch.setitem(SIZES, "cpu", small)


class Recorded(Precision):
    """Notes which types autocast was set to in its context."""

    name = "recorded"
    dtype = torch.bfloat16
    allow_tf32 = True

    def __init__(self) -> None:
        self.autocast_types: set[torch.dtype] = set()

    @contextmanager
    def _watched(self, device: torch.device) -> Iterator[None]:
        with super().autocast(device):
            self.autocast_types.add(torch.get_autocast_dtype(device.type))
            yield

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return self._watched(device)


class Broken(Precision):
    """Claims to be supported, and fails as a library without a kernel does."""

    name: ClassVar[str] = "broken"

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        msg = f"no kernel for {device}"
        raise RuntimeError(msg)


def test_each_supported_precision_has_its_peaks_and_no_other() -> None:
    found = measure_peaks(CPU, [Precision(), TF32(), BF16()])
    supported = {mode.name for mode in (Precision(), BF16()) if not mode.unsupported_reason(CPU)}
    assert set(found.flops) == supported
    for peak in found.flops.values():
        assert min(peak.matmul, peak.convolution) > 1e6
        assert peak.flops_per_second == max(peak.matmul, peak.convolution)
    assert found.bytes_per_second > 1e6
    assert (found.vendor, found.idle_watts) == ({}, None)


def test_a_precision_that_fails_is_left_out() -> None:
    assert set(measure_peaks(CPU, [Broken(), Precision()]).flops) == {"fp32"}


def test_the_numeric_switches_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    Precision().apply()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = numeric_flags()
    measure_peaks(CPU, [Recorded()])
    assert numeric_flags() == before


def test_nothing_is_cast_while_a_precision_is_measured() -> None:
    mode = Recorded()

    def step() -> None:
        measure_peaks(CPU, [mode])

    seen = Counter((o.name, o.dtype) for o in watch(step, is_recomputing=lambda: False))
    assert mode.autocast_types == {torch.bfloat16}
    for product in ("aten::mm", "aten::convolution"):
        assert seen[product, torch.bfloat16] > 1
        assert seen[product, torch.float32] == 0
    # Images and filters are laid out anew before each pass, and never during one.
    assert seen["aten::_to_copy", torch.bfloat16] <= 2 * MAX_PASSES
    assert seen["aten::_to_copy", torch.float32] == 0


def test_the_sizes_tell_the_operations_that_run() -> None:
    sizes = SIZES["cpu"]
    with FlopCounterMode(display=False) as counter:
        module._matmul(CPU, torch.float32, sizes)()  # noqa: SLF001 (what is timed)
    assert counter.get_total_flops() == sizes.matmul_flops
    with FlopCounterMode(display=False) as counter:
        module._convolution(CPU, torch.float32, sizes)()  # noqa: SLF001
    assert counter.get_total_flops() == sizes.convolution_flops


def test_a_copy_reads_and_writes_what_its_size_says() -> None:
    copy = module._copy(CPU, SIZES["cpu"])  # noqa: SLF001

    def step() -> None:
        copy()

    (operation,) = watch(step, is_recomputing=lambda: False)
    assert (operation.name, operation.bytes) == ("aten::copy_", 2 * 2**20)


def test_of_two_passes_the_higher_figures_stand() -> None:
    fp32, bf16 = Peak(matmul=5.0, convolution=1.0), Peak(matmul=9.0, convolution=9.0)
    one = Peaks(flops={"fp32": fp32}, bytes_per_second=3.0)
    other = Peaks(
        flops={"fp32": replace(fp32, matmul=4.0, convolution=2.0), "bf16": bf16},
        bytes_per_second=2.0,
    )
    higher = Peaks(
        flops={"fp32": replace(fp32, convolution=2.0), "bf16": bf16}, bytes_per_second=3.0
    )
    assert module._higher(one, other) == module._higher(other, one) == higher  # noqa: SLF001


@pytest.mark.gpu
def test_on_cuda_peaks_lie_below_the_makers_and_above_a_tenth_of_them() -> None:
    device = torch.device("cuda", 0)
    modes = [precision(name) for name in ("fp32", "tf32", "bf16", "fp16")]
    found = measure_peaks(device, modes)
    assert set(found.flops) == {m.name for m in modes if not m.unsupported_reason(device)}
    vendor = vendor_peaks(torch.cuda.get_device_name(device))
    assert found.vendor == vendor
    for name, peak in found.flops.items():
        # A GPU may clock a little above what its datasheet assumes.
        assert 0.1 < peak.flops_per_second / vendor.get(name, peak.flops_per_second) < 1.2
    bandwidth = vendor.get("bandwidth", found.bytes_per_second)
    assert 0.1 < found.bytes_per_second / bandwidth < 1.2
