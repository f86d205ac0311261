"""Which CUDA kernels multiply matrices and convolve in a step, and whether their names belie its precision.

Kernels of cuBLAS, cuDNN and CUTLASS tell in their names what they multiply: `ampere_sgemm_...` in fp32,
`..._tf32f32_tf32f32_f32_...` and `s1688` in TF32, `bf16`, `fp16`, `h884` and `s16816` in the short formats
(https://docs.nvidia.com/cutlass/, "kernel naming"). A name that says nothing proves nothing, so names can
only contradict what the numeric probe saw.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnbench.measure.timing import Step

MAX_NAMES = 20
MAX_NAME_CHARACTERS = 120

_MULTIPLIES = re.compile("gemm|conv|xmma|fprop|dgrad|wgrad|cutlass|nvjet", re.IGNORECASE)
_SHORT_FORMATS = re.compile(r"bf16|fp16|f16f16|h884|h1688|[hs]16816", re.IGNORECASE)
_TENSOR_CORES = re.compile(rf"tf32|s1688|tensorop|{_SHORT_FORMATS.pattern}", re.IGNORECASE)

# What a cell of each precision cannot run. bf16 and fp16 cells may hold operators in any.
_CONTRADICTS = {"fp32": _TENSOR_CORES, "tf32": _SHORT_FORMATS}


def multiplying_kernels(step: Step, device: torch.device) -> tuple[str, ...]:
    """Return the names of the matrix and convolution kernels that `step` runs, the longest first.

    None on a CPU, and none where CUPTI, which tells, may not be used.
    """
    if device.type != "cuda":
        return ()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize(device)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    names = (event.key for event in events if event.self_device_time_total > 0)
    shown = [name[:MAX_NAME_CHARACTERS] for name in names if _MULTIPLIES.search(name)]
    return tuple(dict.fromkeys(shown))[:MAX_NAMES]


def contradicting(names: Iterable[str], precision: str) -> tuple[str, ...]:
    """Return those of the kernels' `names` that a cell of `precision` cannot run.

    >>> contradicting(["ampere_sgemm_128x64_nn", "cutlass_80_tensorop_s1688gemm_128x64"], "fp32")
    ('cutlass_80_tensorop_s1688gemm_128x64',)
    """
    pattern = _CONTRADICTS.get(precision)
    return tuple(name for name in names if pattern and pattern.search(name))
