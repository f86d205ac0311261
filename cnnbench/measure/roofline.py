"""The least time in which a device could run a step's operators, by what it was seen to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cnnbench.measure.operators import KINDS
from cnnbench.measurement import OperatorKind, Roofline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.environment import Peaks
    from cnnbench.measure.operators import Operation

_SHORT_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def roofline(operations: Sequence[Operation], peaks: Peaks, precision: str) -> Roofline:
    """Return the operators of a step by kind, in the order of `KINDS`, against `peaks`.

    Args:
        operations: what `operators.watch` saw.
        peaks: what the device reached.
        precision: the cell's.

    Raises:
        ValueError: no peak is known for the cell's precision, or for one that an operator computes in.
    """
    return Roofline(
        operators=tuple(
            _summary(kind, found, peaks, precision)
            for kind in KINDS
            if (found := [operation for operation in operations if operation.kind == kind])
        ),
        peak_flops_per_second=_peak(precision, peaks, "the cell's precision"),
        peak_bytes_per_second=peaks.bytes_per_second,
    )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The least time of one operator, and whether the bytes ask for it, not the arithmetic."""

    seconds: float
    is_by_bytes: bool

    @property
    def bytes_seconds(self) -> float:
        """Return the time where the bytes ask for it, and else nothing."""
        return self.seconds if self.is_by_bytes else 0.0


def bound_of(operation: Operation, peaks: Peaks, precision: str) -> Bound:
    """Return max(FLOPs / peak, bytes / bandwidth).

    The peak is that of what the operator computes in: `bf16` and `fp16` for these formats, and for
    float32 `tf32` in a cell of that precision, else `fp32`.

    Raises:
        ValueError: that peak is not known.
    """
    flops_seconds = 0.0
    if operation.flops:
        needed = _precision_of(operation, precision)
        flops_seconds = operation.flops / _peak(needed, peaks, operation.name)
    bytes_seconds = operation.bytes / peaks.bytes_per_second
    return Bound(
        seconds=max(flops_seconds, bytes_seconds), is_by_bytes=bytes_seconds >= flops_seconds
    )


def _summary(
    kind: str, operations: Sequence[Operation], peaks: Peaks, precision: str
) -> OperatorKind:
    bounds = [bound_of(operation, peaks, precision) for operation in operations]
    return OperatorKind(
        kind=kind,
        num_operators=len(operations),
        flops=sum(operation.flops for operation in operations),
        recomputed_flops=sum(o.flops for o in operations if o.is_recomputed),
        bytes=sum(operation.bytes for operation in operations),
        bound_seconds=sum(bound.seconds for bound in bounds),
        bytes_bound_seconds=sum(bound.bytes_seconds for bound in bounds),
    )


def _precision_of(operation: Operation, precision: str) -> str:
    if operation.dtype is torch.float32:
        return "tf32" if precision == "tf32" else "fp32"
    name = str(operation.dtype).removeprefix("torch.")
    return _SHORT_FORMATS.get(operation.dtype, name) if operation.dtype else name


def _peak(precision: str, peaks: Peaks, needed_for: str) -> float:
    if precision not in peaks.flops:
        msg = f"no peak was measured in {precision}, which is needed for {needed_for}"
        raise ValueError(msg)
    return peaks.flops[precision].flops_per_second
