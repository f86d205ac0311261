"""What numbers a training step computes in: IEEE fp32, and the modes that differ from it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar

import torch

from cnnbench.errors import lookup

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Precision:
    """IEEE fp32: no TensorFloat-32, neither in matrix products nor in cuDNN's convolutions.

    PyTorch leaves TF32 on for cuDNN convolutions by default
    (https://docs.pytorch.org/docs/stable/notes/cuda.html), so a plain loop's "fp32" is not IEEE.
    """

    name: ClassVar[str] = "fp32"
    allow_tf32: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype | None] = None

    def unsupported_reason(self, device: torch.device) -> str | None:  # noqa: ARG002 (for overriding)
        """Return why `device` cannot compute so, or `None` when it can."""
        return None

    def apply(self) -> None:
        """Set this process's numeric switches.

        Only the older family of switches is set: torch 2.9 to 2.15 raise inside `torch.compile`
        after a write to the newer one (pytorch issues 166387 and 196728). `measure.flags` reads both.
        """
        torch.set_float32_matmul_precision("high" if self.allow_tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.allow_tf32

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of the forward pass and the loss."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)

    def grad_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the gradient scaler; for modes that need none it passes everything through."""
        return torch.amp.GradScaler(device.type, enabled=False)


class TF32(Precision):
    """TensorFloat-32: fp32 storage, 10-bit mantissa in products. NVIDIA Ampere and newer."""

    name = "tf32"
    allow_tf32 = True

    def unsupported_reason(self, device: torch.device) -> str | None:
        """Return why `device` has no TF32, or `None` when it has."""
        if device.type != "cuda":
            return "TF32 needs an NVIDIA GPU"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return (
                f"TF32 needs compute capability 8.0; {torch.cuda.get_device_name(device)} is older"
            )
        return None


class BF16(Precision):
    """bfloat16 autocast: the range of fp32, so that gradients need no scaling."""

    name = "bf16"
    dtype = torch.bfloat16

    def unsupported_reason(self, device: torch.device) -> str | None:
        """Return why `device` has no native bfloat16, or `None` when it has."""
        if device.type == "cuda":
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return None
            return f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic"
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 (no public query exists)
            return None
        return "this processor has no AVX-512 for oneDNN's bfloat16 kernels"


class FP16(Precision):
    """float16 autocast with loss scaling, as the document trains."""

    name = "fp16"
    dtype = torch.float16

    def unsupported_reason(self, device: torch.device) -> str | None:
        """Return why `device` has no native float16, or `None` when it has."""
        if device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_fp16_supported():  # noqa: SLF001 (no public query exists)
            return None
        return "this processor has no AVX512-FP16: PyTorch would emulate float16, many times slower"

    def grad_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the gradient scaler, at PyTorch's initial scale of 65536."""
        return torch.amp.GradScaler(device.type)


MODES = {mode.name: mode for mode in (Precision, TF32, BF16, FP16)}


def precision(name: str) -> Precision:
    """Return the mode called `name`.

    Raises:
        UnknownNameError: naming the modes there are.
    """
    return lookup("precision", name, MODES)()
