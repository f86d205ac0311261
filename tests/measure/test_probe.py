"""The probe names the precision that was really computed in, whatever the cell says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from cnnbench.measure.probe import (
    ELEVEN_BITS_MAX_ERROR,
    FP32_MAX_ERROR,
    effective_precision,
    probe_precision,
)
from cnnbench.precision import BF16, FP16, TF32, Precision, precision

if TYPE_CHECKING:
    from cnnbench.measurement import Probe

CPU = torch.device("cpu")
FORMATS = (torch.contiguous_format, torch.channels_last)


class SecretlyBF16(Precision):
    """Says fp32 and computes in bfloat16."""

    dtype: ClassVar[torch.dtype | None] = torch.bfloat16


def probed(mode: Precision, memory_format: torch.memory_format) -> tuple[Probe, ...]:
    mode.apply()
    return probe_precision(mode, CPU, memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("mode", [Precision(), BF16(), FP16()], ids=lambda mode: mode.name)
def test_convolution_and_matmul_are_told_forward_and_backward(
    mode: Precision, memory_format: torch.memory_format
) -> None:
    probes = probed(mode, memory_format)
    assert [probe.operation for probe in probes] == ["convolution", "matmul"]
    assert {p for probe in probes for p in (probe.forward, probe.backward)} == {mode.name}
    assert effective_precision(probes) == mode.name


def test_a_mode_that_is_not_what_it_says_is_seen_through() -> None:
    assert effective_precision(probed(SecretlyBF16(), torch.contiguous_format)) == "bf16"


def test_the_errors_keep_their_distance_from_the_bounds() -> None:
    errors = [
        [error for p in probed(mode, f) for error in (p.forward_error, p.backward_error)]
        for mode in (Precision(), FP16(), BF16())
        for f in FORMATS
    ]
    fp32, fp16, bf16 = (sorted(errors[i] + errors[i + 1]) for i in (0, 2, 4))
    bounds = [fp32[-1], FP32_MAX_ERROR, fp16[0], fp16[-1], ELEVEN_BITS_MAX_ERROR, bf16[0]]
    assert bounds == sorted(bounds)
    assert fp32[-1] * 5 < FP32_MAX_ERROR < fp16[0] / 5
    assert all(low * 1.5 < high for low, high in pairwise(bounds[3:]))


def test_one_part_in_another_precision_makes_it_mixed() -> None:
    convolution, matmul = probed(Precision(), torch.contiguous_format)
    assert effective_precision((convolution, replace(matmul, forward="tf32"))) == "mixed(fp32+tf32)"
    assert (
        effective_precision((convolution, replace(matmul, backward="bf16"))) == "mixed(fp32+bf16)"
    )


def test_the_probe_draws_nothing_from_the_cells_random_numbers() -> None:
    before = torch.get_rng_state()
    probed(Precision(), torch.contiguous_format)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_on_cuda_every_mode_is_what_it_says(name: str, memory_format: torch.memory_format) -> None:
    device, mode = torch.device("cuda", 0), precision(name)
    if reason := mode.unsupported_reason(device):
        pytest.skip(reason)
    try:
        mode.apply()
        probes = probe_precision(mode, device, memory_format)
    finally:
        Precision().apply()
    assert effective_precision(probes) == name, probes


@pytest.mark.gpu
def test_on_cuda_pytorchs_default_is_not_fp32() -> None:
    device = torch.device("cuda", 0)
    if reason := TF32().unsupported_reason(device):
        pytest.skip(reason)
    try:
        Precision().apply()
        torch.backends.cudnn.allow_tf32 = True  # as a fresh process has it
        probes = probe_precision(Precision(), device, torch.contiguous_format)
    finally:
        Precision().apply()
    assert effective_precision(probes) == "mixed(tf32+fp32)"
