"""What NVIDIA says its GPUs can reach: dense figures from its datasheets, by the name that CUDA reports.

Datasheets print most tensor-core figures with 2:4 sparsity, which no training uses: here they are halved
where only those are printed. Half-precision figures are those with accumulation in fp32, as PyTorch
trains. A partition (MIG) has a name of its own and is not listed, nor is any GPU whose figures are
uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataSheet:
    """One row of a datasheet, in 10^12 FLOP/s by precision and 10^9 bytes/s; `None`: it has none."""

    source: str
    fp32: float
    tf32: float | None = None
    bf16: float | None = None
    fp16: float
    bandwidth: float


def vendor_peaks(device_name: str) -> dict[str, float]:
    """Return the maker's dense peaks of a GPU in FLOP/s by precision, and its `bandwidth` in bytes/s.

    Args:
        device_name: as `torch.cuda.get_device_name` reports it; older drivers leave `NVIDIA` out.

    Returns:
        Nothing where the GPU is not listed.
    """
    sheet = DATASHEETS.get(device_name.removeprefix("NVIDIA ").removeprefix("Tesla "))
    if sheet is None:
        return {}
    flops = {"fp32": sheet.fp32, "tf32": sheet.tf32, "bf16": sheet.bf16, "fp16": sheet.fp16}
    known = {name: value * 1e12 for name, value in flops.items() if value is not None}
    return known | {"bandwidth": sheet.bandwidth * 1e9}


_V100 = "NVIDIA V100 Tensor Core GPU datasheet"
_A100 = "NVIDIA A100 Tensor Core GPU datasheet"
_H100 = "NVIDIA H100 Tensor Core GPU datasheet"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet"
_GH200 = "NVIDIA GH200 Grace Hopper Superchip datasheet"
_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper, appendix"

_V100_SXM = DataSheet(source=_V100, fp32=15.7, fp16=125, bandwidth=900)
_V100_PCIE = DataSheet(source=_V100, fp32=14, fp16=112, bandwidth=900)

# The name that CUDA reports, without the maker's.
DATASHEETS = {
    "V100-SXM2-16GB": _V100_SXM,
    "V100-SXM2-32GB": _V100_SXM,
    "V100-PCIE-16GB": _V100_PCIE,
    "V100-PCIE-32GB": _V100_PCIE,
    "V100S-PCIE-32GB": DataSheet(source=_V100, fp32=16.4, fp16=130, bandwidth=1134),
    "T4": DataSheet(
        source="NVIDIA T4 Tensor Core GPU product brief", fp32=8.1, fp16=65, bandwidth=320
    ),
    "A10": DataSheet(
        source="NVIDIA A10 Tensor Core GPU datasheet",
        fp32=31.2,
        tf32=62.5,
        bf16=125,
        fp16=125,
        bandwidth=600,
    ),
    "A30": DataSheet(
        source="NVIDIA A30 Tensor Core GPU datasheet",
        fp32=10.3,
        tf32=82,
        bf16=165,
        fp16=165,
        bandwidth=933,
    ),
    "A40": DataSheet(
        source="NVIDIA A40 datasheet",
        fp32=37.4,
        tf32=74.8,
        bf16=149.7,
        fp16=149.7,
        bandwidth=696,
    ),
    "A100-PCIE-40GB": DataSheet(
        source=_A100, fp32=19.5, tf32=156, bf16=312, fp16=312, bandwidth=1555
    ),
    "A100-SXM4-40GB": DataSheet(
        source=_A100, fp32=19.5, tf32=156, bf16=312, fp16=312, bandwidth=1555
    ),
    "A100 80GB PCIe": DataSheet(
        source=_A100, fp32=19.5, tf32=156, bf16=312, fp16=312, bandwidth=1935
    ),
    "A100-SXM4-80GB": DataSheet(
        source=_A100, fp32=19.5, tf32=156, bf16=312, fp16=312, bandwidth=2039
    ),
    "L4": DataSheet(
        source="NVIDIA L4 Tensor Core GPU datasheet",
        fp32=30.3,
        tf32=120 / 2,
        bf16=242 / 2,
        fp16=242 / 2,
        bandwidth=300,
    ),
    "L40S": DataSheet(
        source="NVIDIA L40S GPU datasheet",
        fp32=91.6,
        tf32=183,
        bf16=362.05,
        fp16=362.05,
        bandwidth=864,
    ),
    "GeForce RTX 3090": DataSheet(
        source=_GA102, fp32=35.6, tf32=35.6, bf16=71, fp16=71, bandwidth=936
    ),
    "RTX A6000": DataSheet(
        source=_GA102, fp32=38.7, tf32=77.4, bf16=154.8, fp16=154.8, bandwidth=768
    ),
    "GeForce RTX 4090": DataSheet(
        source="NVIDIA Ada GPU architecture whitepaper, appendix",
        fp32=82.6,
        tf32=82.6,
        bf16=165.2,
        fp16=165.2,
        bandwidth=1008,
    ),
    "RTX 6000 Ada Generation": DataSheet(
        source="NVIDIA Ada GPU architecture whitepaper (professional), appendix",
        fp32=91.1,
        tf32=182.1,
        bf16=364.2,
        fp16=364.2,
        bandwidth=960,
    ),
    "GeForce RTX 5090": DataSheet(
        source="NVIDIA RTX Blackwell GPU architecture whitepaper, appendix",
        fp32=104.8,
        tf32=104.8,
        bf16=209.5,
        fp16=209.5,
        bandwidth=1792,
    ),
    "H100 80GB HBM3": DataSheet(
        source=_H100, fp32=67, tf32=989 / 2, bf16=1979 / 2, fp16=1979 / 2, bandwidth=3350
    ),
    "H100 PCIe": DataSheet(
        source=_H100, fp32=51, tf32=756 / 2, bf16=1513 / 2, fp16=1513 / 2, bandwidth=2000
    ),
    "H100 NVL": DataSheet(
        source=_H100, fp32=60, tf32=835 / 2, bf16=1671 / 2, fp16=1671 / 2, bandwidth=3900
    ),
    "H200": DataSheet(
        source=_H200, fp32=67, tf32=989 / 2, bf16=1979 / 2, fp16=1979 / 2, bandwidth=4800
    ),
    "H200 NVL": DataSheet(
        source=_H200, fp32=60, tf32=835 / 2, bf16=1671 / 2, fp16=1671 / 2, bandwidth=4800
    ),
    "GH200 480GB": DataSheet(source=_GH200, fp32=67, tf32=494, bf16=990, fp16=990, bandwidth=4000),
    "GH200 144G HBM3e": DataSheet(
        source=_GH200, fp32=67, tf32=494, bf16=990, fp16=990, bandwidth=4900
    ),
    "B200": DataSheet(
        source="NVIDIA Blackwell datasheet, individual GPU of HGX B200",
        fp32=75,
        tf32=2200 / 2,
        bf16=4500 / 2,
        fp16=4500 / 2,
        bandwidth=7700,
    ),
}
