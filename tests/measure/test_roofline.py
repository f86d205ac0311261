"""The bound of a step is the sum of its operators' bounds, each against the peak that is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cnnbench.environment import Peak, Peaks
from cnnbench.measure.operators import KINDS, Operation, watch
from cnnbench.measure.roofline import bound_of, roofline

# 100 FLOP/s in fp32, and so on; 10 bytes a second.
PEAKS = Peaks(
    flops={
        "fp32": Peak(matmul=100.0, convolution=50.0),
        "tf32": Peak(matmul=200.0, convolution=800.0),
        "bf16": Peak(matmul=1600.0, convolution=1500.0),
        "fp16": Peak(matmul=1700.0, convolution=3200.0),
    },
    bytes_per_second=10.0,
)
PRODUCT = Operation(
    name="aten::mm",
    kind="matmul",
    flops=1000,
    bytes=20,
    dtype=torch.float32,
    is_recomputed=False,
)
COPY = replace(PRODUCT, name="aten::copy_", kind="copy", flops=0, bytes=70)


def test_an_operator_takes_what_its_arithmetic_or_its_bytes_take_at_least() -> None:
    product, copy = bound_of(PRODUCT, PEAKS, "fp32"), bound_of(COPY, PEAKS, "fp32")
    assert (product.seconds, product.is_by_bytes, product.bytes_seconds) == (10.0, False, 0.0)
    assert (copy.seconds, copy.is_by_bytes, copy.bytes_seconds) == (7.0, True, 7.0)
    large = bound_of(replace(PRODUCT, bytes=200), PEAKS, "fp32")
    assert (large.seconds, large.is_by_bytes) == (20.0, True)


@pytest.mark.parametrize(
    ("dtype", "precision", "peak"),
    [
        (torch.float32, "fp32", 100.0),
        (torch.float32, "tf32", 800.0),
        (torch.bfloat16, "bf16", 1600.0),
        (torch.float16, "fp16", 3200.0),
        # What autocast leaves in float32 runs without TF32.
        (torch.float32, "bf16", 100.0),
        (torch.float32, "fp16", 100.0),
    ],
)
def test_an_operators_peak_is_that_of_what_it_computes_in(
    dtype: torch.dtype, precision: str, peak: float
) -> None:
    operation = replace(PRODUCT, dtype=dtype, bytes=1)
    assert bound_of(operation, PEAKS, precision).seconds == 1000 / peak


def test_a_peak_that_is_not_known_is_named_and_not_guessed() -> None:
    bf16 = replace(PEAKS, flops={"bf16": PEAKS.flops["bf16"]})
    with pytest.raises(ValueError, match="in fp32, which is needed for aten::mm"):
        roofline([PRODUCT], bf16, "bf16")
    with pytest.raises(ValueError, match="in float64, which is needed for aten::mm"):
        roofline([replace(PRODUCT, dtype=torch.float64)], PEAKS, "fp32")
    with pytest.raises(ValueError, match="in fp32, which is needed for the cell's precision"):
        roofline([COPY], bf16, "fp32")
    # What computes nothing needs none.
    assert roofline([COPY], bf16, "bf16").bound_seconds == 7.0


def test_a_roofline_adds_up_each_kind() -> None:
    again = replace(PRODUCT, is_recomputed=True)
    small = replace(PRODUCT, flops=10, bytes=50)
    found = roofline([COPY, PRODUCT, again, small], PEAKS, "fp32")
    assert [kind.kind for kind in found.operators] == ["matmul", "copy"]
    matmul, copy = found.operators
    assert (matmul.num_operators, matmul.flops, matmul.recomputed_flops) == (3, 2010, 1000)
    assert (matmul.bytes, matmul.bound_seconds, matmul.bytes_bound_seconds) == (90, 25.0, 5.0)
    assert (copy.bound_seconds, copy.bytes_bound_seconds) == (7.0, 7.0)
    assert (found.model_flops, found.hardware_flops, found.bound_seconds) == (1010, 2010, 32.0)
    assert (found.peak_flops_per_second, found.peak_bytes_per_second) == (100.0, 10.0)


def test_a_real_step_is_held_against_its_peaks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    images = torch.randn(2, 3, 8, 8)

    def step() -> None:
        model(images).sum().backward()

    operations = watch(step, is_recomputing=lambda: False)
    found = roofline(operations, PEAKS, "tf32")
    assert [kind.kind for kind in found.operators] == [
        kind for kind in KINDS if kind in {operation.kind for operation in operations}
    ]
    assert found.hardware_flops == found.model_flops == 2 * (2 * 2 * 8 * 36 * 27)
    bounds = [bound_of(operation, PEAKS, "tf32").seconds for operation in operations]
    assert found.bound_seconds == pytest.approx(sum(bounds))
    assert found.peak_flops_per_second == 800.0
