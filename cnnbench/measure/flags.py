"""PyTorch's numeric switches, read back: what a process would compute in, by its own account."""

from __future__ import annotations

import sys

import torch


def numeric_flags() -> dict[str, str]:
    """Return every switch that decides how PyTorch computes, by its path below `torch`.

    Both families of precision switches are among them: the older `allow_tf32` and the newer
    `fp32_precision`. A switch that PyTorch refuses to report (it does where the families disagree)
    reads `unreadable`, one that this PyTorch does not have `absent`. No CUDA context is started and
    nothing imported: the compiler's switches read `not loaded` until something else has loaded it.
    """
    flags = {name: _read(torch, name) for name in _SWITCHES}
    for name in _COMPILER_SWITCHES:
        # `torch._inductor` would import it, which takes seconds.
        compiler = sys.modules.get(_COMPILER)
        flags[f"{_COMPILER.removeprefix('torch.')}.{name}"] = (
            "not loaded" if compiler is None else _read(compiler, name)
        )
    # There is no getter; the processor tells.
    flags["set_flush_denormal"] = str(_flushes_denormals())
    return flags


_SWITCHES = (
    # the older family
    "backends.cuda.matmul.allow_tf32",
    "backends.cudnn.allow_tf32",
    "backends.mkldnn.allow_tf32",
    "get_float32_matmul_precision",
    # the newer family: all, by library, by operator
    "backends.fp32_precision",
    "backends.cudnn.fp32_precision",
    "backends.mkldnn.fp32_precision",
    "backends.cuda.matmul.fp32_precision",
    "backends.cudnn.conv.fp32_precision",
    "backends.cudnn.rnn.fp32_precision",
    "backends.mkldnn.matmul.fp32_precision",
    "backends.mkldnn.conv.fp32_precision",
    "backends.mkldnn.rnn.fp32_precision",
    # sums of 16-bit products
    "backends.cuda.matmul.allow_fp16_accumulation",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction_split_k",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction_split_k",
    # which kernels
    "backends.cuda.preferred_blas_library",
    "backends.cudnn.enabled",
    "backends.cudnn.benchmark",
    "backends.cudnn.benchmark_limit",
    "backends.cudnn.deterministic",
    "backends.mkldnn.enabled",
    "backends.mkldnn.deterministic",
    "backends.mkl.is_available",
    "backends.openmp.is_available",
    "backends.nnpack.is_available",
    "backends.cpu.get_cpu_capability",
    # determinism
    "are_deterministic_algorithms_enabled",
    "is_deterministic_algorithms_warn_only_enabled",
    "utils.deterministic.fill_uninitialized_memory",
    # types
    "get_default_dtype",
    "is_autocast_cache_enabled",
)


_COMPILER = "torch._inductor.config"
_COMPILER_SWITCHES = (
    "max_autotune",
    "coordinate_descent_tuning",
    "emulate_precision_casts",
    "epilogue_fusion",
    "fallback_random",
    "freezing",
    "layout_optimization",
)


def _read(module: object, name: str) -> str:
    value = module
    try:
        for part in name.split("."):
            value = getattr(value, part)
        if callable(value):
            value = value()
    except RuntimeError:
        return "unreadable"
    except AttributeError:
        return "absent"
    return str(value)


def _flushes_denormals() -> bool:
    """Say whether a product that is denormal in fp32 becomes zero, as `torch.set_flush_denormal` asks."""
    small = torch.tensor(1e-38, dtype=torch.float32, device="cpu")
    return float(small * 0.1) == 0.0
