"""The maker's figures: dense ones, of the GPU that CUDA names and of no other."""

from __future__ import annotations

import pytest

from cnnbench.cell import PRECISIONS
from cnnbench.measure.vendor import DATASHEETS, vendor_peaks


@pytest.mark.parametrize(
    ("name", "precision", "flops", "bandwidth"),
    [
        ("Tesla V100-SXM2-32GB", "fp16", 125e12, 900e9),
        ("Tesla T4", "fp16", 65e12, 320e9),
        ("NVIDIA A10", "bf16", 125e12, 600e9),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156e12, 2039e9),
        ("A100-SXM4-40GB", "bf16", 312e12, 1555e9),  # before driver 470
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12, 1935e9),
        ("NVIDIA L4", "bf16", 121e12, 300e9),
        ("NVIDIA L40S", "bf16", 362.05e12, 864e9),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12, 1008e9),
        ("NVIDIA RTX 6000 Ada Generation", "fp32", 91.1e12, 960e9),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12, 3350e9),
        ("NVIDIA H100 PCIe", "tf32", 378e12, 2000e9),
        ("NVIDIA H200", "fp16", 989.5e12, 4800e9),
        ("NVIDIA GH200 480GB", "bf16", 990e12, 4000e9),
        ("NVIDIA B200", "bf16", 2250e12, 7700e9),
    ],
)
def test_a_gpu_is_known_by_the_name_that_cuda_reports(
    name: str, precision: str, flops: float, bandwidth: float
) -> None:
    peaks = vendor_peaks(name)
    assert peaks[precision] == pytest.approx(flops)
    assert peaks["bandwidth"] == pytest.approx(bandwidth)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA A10G",  # Amazon's, slower than an A10
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100",
        "AMD EPYC",
    ],
)
def test_of_any_other_device_nothing_is_claimed(name: str) -> None:
    assert vendor_peaks(name) == {}


@pytest.mark.parametrize("name", DATASHEETS)
def test_each_row_names_its_source_and_is_dense(name: str) -> None:
    sheet, peaks = DATASHEETS[name], vendor_peaks(f"NVIDIA {name}")
    assert sheet.source
    assert set(peaks) <= {*PRECISIONS, "bandwidth"}
    assert {"fp32", "fp16", "bandwidth"} <= set(peaks)
    if "bf16" in peaks:
        # A tensor core multiplies bf16 as fast as fp16 and twice as fast as TF32; a figure with
        # sparsity among dense ones would break this.
        assert peaks["bf16"] == peaks["fp16"]
        assert peaks["bf16"] / peaks["tf32"] == pytest.approx(2.0, rel=0.03)


def test_a_gpu_without_bfloat16_claims_none() -> None:
    for name in ("Tesla T4", "Tesla V100-SXM2-16GB"):
        assert not {"tf32", "bf16"} & set(vendor_peaks(name))
