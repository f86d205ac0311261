"""Selective recomputation: what is dear to compute is kept, what is cheap is computed again.

Of a segment's forward pass the outputs of convolutions and matrix products are kept, and in its second
pass they are handed out instead of being computed. BatchNorm, activations, additions and pooling, which
take few operations and most of the memory, are computed again. PyTorch's own
`create_selective_checkpoint_contexts` does likewise and refuses a kept output that was changed in place
(`x += y` after a convolution); here that one is computed again.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch._ops import OpOverload

# Each gives one tensor.
KEPT: tuple[OpOverload, ...] = (
    torch.ops.aten.convolution.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
)


class KeptOutputs:
    """The outputs that one forward pass of a segment keeps, in the order in which they were made."""

    def __init__(self) -> None:
        """Begin with none."""
        # With the number of in-place changes that each had seen by then.
        self._outputs: list[tuple[torch.Tensor, int]] = []

    def keeping(self) -> TorchDispatchMode:
        """Return the context of the first pass."""
        return _Keeping(self._outputs)

    @contextmanager
    def handing_out(self) -> Iterator[None]:
        """Hand the outputs out in the second pass, which runs inside this context; a third has none."""
        with _HandingOut(self._outputs):
            try:
                yield
            finally:
                self._outputs.clear()


class _Keeping(TorchDispatchMode):
    """Keeps what dear operators give."""

    def __init__(self, outputs: list[tuple[torch.Tensor, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outputs = outputs

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func` and keep its output if it is dear."""
        out = func(*args, **(kwargs or {}))
        if func in KEPT:
            self._outputs.append((_alias(out), out._version))  # noqa: SLF001 (the documented way to notice in-place writes)
        return out


def _alias(out: torch.Tensor) -> torch.Tensor:
    """Return `out` apart from the graph, of which autograd makes `out` itself a part.

    Below autograd, where a mode runs, an alias counts in-place changes only with this key let in.
    """
    key = torch._C.DispatchKey.ADInplaceOrView  # noqa: SLF001 (as PyTorch's own checkpointing does)
    with torch._C._SetExcludeDispatchKeyGuard(key, False):  # noqa: SLF001, FBT003 (takes no keyword)
        return out.detach()


class _HandingOut(TorchDispatchMode):
    """Gives what was kept, and runs everything else."""

    def __init__(self, outputs: list[tuple[torch.Tensor, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rest = iter(outputs)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the kept output of a dear `func` as long as it is what it was; else run `func`."""
        if func in KEPT:
            output, version = next(self._rest, (None, 0))
            if output is not None and output._version == version:  # noqa: SLF001
                return output
        return func(*args, **(kwargs or {}))


def compiled_contexts() -> Callable[[], tuple[Any, Any]]:
    """Return what `torch.utils.checkpoint` takes while a compiler traces it: PyTorch's own."""
    return partial(create_selective_checkpoint_contexts, list(KEPT))
