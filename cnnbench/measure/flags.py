"""PyTorch's numeric switches, read back: what a process would compute in, by its own account."""

from __future__ import annotations

import torch


def numeric_flags() -> dict[str, str]:
    """Return every switch that decides how PyTorch computes, from the older and the newer family.

    A switch that PyTorch refuses to report (it does where the families disagree) reads `unreadable`.
    """
    return {name: _read(name) for name in _SWITCHES}


_SWITCHES = (
    "backends.cuda.matmul.allow_tf32",
    "backends.cudnn.allow_tf32",
    "backends.fp32_precision",
    "backends.cuda.matmul.fp32_precision",
    "backends.cudnn.conv.fp32_precision",
    "backends.mkldnn.matmul.fp32_precision",
    "backends.mkldnn.conv.fp32_precision",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.mkldnn.enabled",
)


def _read(name: str) -> str:
    value: object = torch
    try:
        for part in name.split("."):
            value = getattr(value, part)
    except RuntimeError:
        return "unreadable"
    except AttributeError:
        return "absent"
    return str(value)
