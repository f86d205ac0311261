"""When each piece of memory is born and dies in a step run on fake tensors, and what it is for."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch._ops import OpOverload


@dataclass(kw_only=True)
class Lifetime:
    """One storage: its size, the number of the operator that made it, and of the last that found it there."""

    num_bytes: int
    kind: str
    birth: int
    death: int | None = None


class LifetimeWatch(TorchDispatchMode):
    """Follows every storage that an operator makes, by weak references, until nothing holds it.

    To be entered above a `FakeTensorMode`, whose tensors have sizes and no memory: they live and die as
    those of a real step would, for Python, autograd and checkpointing hold them in the same way.
    `lifetimes` are all that were seen, in the order of their births.
    """

    def __init__(
        self,
        is_recomputing: Callable[[], bool],
        workspace_of: Callable[[OpOverload, Sequence[Any], Any], int] = lambda *_: 0,
    ) -> None:
        """Begin with nothing seen.

        Args:
            is_recomputing: says whether checkpointing repeats a forward pass at this moment.
            workspace_of: says how many bytes an operator needs, while it runs, beyond its inputs
                and outputs.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.lifetimes: list[Lifetime] = []
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], Lifetime]] = {}
        self._is_recomputing = is_recomputing
        self._workspace_of = workspace_of
        self._now = 0

    def hold(self, kind: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say that the storages of `tensors` are of `kind`, whether they were seen before or not."""
        for tensor in tensors:
            self._follow(tensor).kind = kind

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func` and follow what it returns."""
        out = func(*args, **(kwargs or {}))
        self._now += 1
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._follow(value)
        self._note_workspace(self._workspace_of(func, args, out))
        return out

    def _note_workspace(self, num_bytes: int) -> None:
        if num_bytes:
            now = self._now
            one = Lifetime(num_bytes=num_bytes, kind="workspace", birth=now, death=now)
            self.lifetimes.append(one)

    def _follow(self, tensor: torch.Tensor) -> Lifetime:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 (its identity: the address of what holds the bytes)
        known = self._alive.get(key)
        if known is not None:
            return known[1]
        life = Lifetime(num_bytes=storage.nbytes(), kind=self._kind(), birth=self._now)
        self.lifetimes.append(life)

        def end(_: object) -> None:
            life.death = self._now
            del self._alive[key]

        self._alive[key] = (weakref.ref(storage, end), life)
        return life

    def _kind(self) -> str:
        """Return what a new storage is for, as far as the moment tells."""
        in_backward = torch._C._current_graph_task_id() != -1  # noqa: SLF001 (as torch's checkpoint asks)
        return "workspace" if in_backward and not self._is_recomputing() else "activations"


def at_the_peak(lifetimes: Iterable[Lifetime]) -> dict[str, int]:
    """Return by kind the bytes that are there when most of them are, of equal moments the first.

    >>> a = Lifetime(num_bytes=4, kind="activations", birth=1, death=3)
    >>> b = Lifetime(num_bytes=2, kind="workspace", birth=2, death=4)
    >>> c = Lifetime(num_bytes=5, kind="workspace", birth=3)
    >>> at_the_peak([a, b, c])
    {'activations': 4, 'workspace': 7}
    """
    changes: dict[int, int] = {}
    kept = list(lifetimes)
    for life in kept:
        changes[life.birth] = changes.get(life.birth, 0) + life.num_bytes
        if life.death is not None:
            changes[life.death + 1] = changes.get(life.death + 1, 0) - life.num_bytes
    level = peak = 0
    worst = 0
    for moment in sorted(changes):
        level += changes[moment]
        if level > peak:
            worst, peak = moment, level
    found: dict[str, int] = {}
    for life in kept:
        if life.birth <= worst and (life.death is None or life.death >= worst):
            found[life.kind] = found.get(life.kind, 0) + life.num_bytes
    return found
