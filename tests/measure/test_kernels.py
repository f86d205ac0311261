"""Kernels' names, as cuBLAS, cuDNN and CUTLASS write them, and what they contradict."""

from __future__ import annotations

import pytest
import torch

from cnnbench.measure.kernels import contradicting, multiplying_kernels
from cnnbench.precision import precision

# Names as profiles of V100, T4, A100 and H100 show them.
KERNELS = {
    "fp32": (
        "ampere_sgemm_128x64_nn",
        "volta_sgemm_128x64_tn",
        "cutlass_80_simt_sgemm_128x64_8x5_nt_align1",
        "void implicit_convolve_sgemm<float, float, 128, 5, 5, 3, 3, 3, 1, false, false, true>",
        "sm80_xmma_wgrad_implicit_gemm_indexed_f32f32_f32f32_f32_nhwckrsc_nhwc_tilesize64x32x8",
    ),
    "tf32": (
        "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_stage4",
        "cutlass_80_tensorop_s1688gemm_128x128_16x5_nn_align4",
        "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32_warpgroupsize1x1x1",
    ),
    "bf16": (
        "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_64x3_nn",
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
        "cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_nn_align8",
    ),
    "fp16": (
        "ampere_fp16_s16816gemm_fp16_128x64_ldg8_f2f_stages_64x4_tn",
        "volta_h884gemm_128x128_ldg8_nn",
        "sm80_xmma_dgrad_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x64x64",
    ),
}
FORBIDDEN = {
    "fp32": {"tf32", "bf16", "fp16"},
    "tf32": {"bf16", "fp16"},
    "bf16": set(),
    "fp16": set(),
}


@pytest.mark.parametrize("asked", FORBIDDEN)
@pytest.mark.parametrize("made_for", KERNELS)
def test_a_kernel_contradicts_the_precisions_that_cannot_run_it(asked: str, made_for: str) -> None:
    names = KERNELS[made_for]
    expected = names if made_for in FORBIDDEN[asked] else ()
    assert contradicting(names, asked) == expected


def test_a_processor_has_no_kernels_to_name() -> None:
    assert multiplying_kernels(lambda: None, torch.device("cpu")) == ()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_on_cuda_the_kernels_names_agree_with_the_precision(name: str) -> None:
    device = torch.device("cuda")
    mode = precision(name)
    reason = mode.unsupported_reason(device)
    if reason:
        pytest.skip(reason)
    mode.apply()
    square = torch.randn(1024, 1024, device=device)

    def step() -> None:
        with mode.autocast(device):
            torch.mm(square, square)

    step()
    names = multiplying_kernels(step, device)
    assert names
    assert contradicting(names, name) == ()
    if name == "tf32" and not any("nvjet" in kernel for kernel in names):
        assert contradicting(names, "fp32") == names
