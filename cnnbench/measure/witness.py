"""Who else was at work while a window was timed, by the account of the system or of the GPU."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cnnbench.measure.machine import foreign_fraction, read_load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnbench.measure.gpu import Counters, Gpu
    from cnnbench.measure.machine import Load
    from cnnbench.measurement import Window


class Witness:
    """Looks before and after a window, never during it; this one at the processors."""

    _load: Load | None = None
    _start = 0.0

    def __init__(self, mates: Sequence[int] = ()) -> None:
        """Take the processes that are no strangers: other ranks of the same cell, loaders of its batches.

        They may grow more afterwards.
        """
        self._mates = mates

    def before(self) -> None:
        """Look, right before the window starts."""
        self._load = read_load(self._mates)
        self._start = time.perf_counter()

    def after(self, window: Window) -> Window:
        """Return `window` with what was seen since `before`."""
        seconds = time.perf_counter() - self._start
        fraction = foreign_fraction(self._load, read_load(self._mates), seconds)
        return replace(window, foreign_fraction=fraction)


class GpuWitness(Witness):
    """Looks at the GPU: who uses the processors says little about it."""

    _counters: Counters | None = None

    def __init__(self, gpu: Gpu) -> None:
        """Ask the session `gpu`."""
        super().__init__()
        self._gpu = gpu

    def before(self) -> None:
        """Read the cumulative counters, before the first window."""
        if self._counters is None:
            self._counters = self._gpu.counters()

    def after(self, window: Window) -> Window:
        """Return `window` with what the counters rose by, and the GPU's state now.

        They move in steps, which may come between two windows: so each window is given what they rose
        by since the one before it.
        """
        reading = self._gpu.reading(self._counters)
        self._counters = self._gpu.counters()
        return replace(window, gpu=reading)


class PatientWitness(Witness):
    """Waits for its turn before each window, and then looks as another witness does."""

    def __init__(self, witness: Witness, wait_turn: Callable[[], None]) -> None:
        """Take the other witness, and what returns when it is our turn."""
        super().__init__()
        self._witness = witness
        self._wait_turn = wait_turn

    def before(self) -> None:
        """Wait, then look."""
        self._wait_turn()
        self._witness.before()

    def after(self, window: Window) -> Window:
        """Return `window` with what the other has seen."""
        return self._witness.after(window)


def witness(gpu: Gpu | None, mates: Sequence[int] = ()) -> Witness:
    """Return the witness for what the steps run on: `gpu`, or without one the processors."""
    return GpuWitness(gpu) if gpu else Witness(mates)
