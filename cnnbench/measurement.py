"""What measuring a cell leaves: raw windows, peaks and counts, with every rate derived beside them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

# Of the processors: above it a window is measured again, up to a limit, then marked.
MAX_FOREIGN_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """What the GPU says of itself about one window; `None` is unknown, never zero.

    The seconds are the driver's cumulative counters, differenced since the window before: how long clocks
    were lowered against heat, by the external power brake, and by the software power cap. The rest is
    read when the window has ended. `num_foreign_processes` are those of others on this GPU.
    """

    thermal_seconds: float | None = None
    power_brake_seconds: float | None = None
    power_cap_seconds: float | None = None
    num_foreign_processes: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_celsius: int | None = None
    watts: float | None = None


@dataclass(frozen=True, kw_only=True)
class Window:
    """`num_steps` consecutive training steps, synchronised only at their two ends.

    `foreign_fraction` is the share of the machine's processors that others took meanwhile (CPU only;
    `None`: unknown); `data_seconds` the part of `seconds` spent waiting for the next batch.
    """

    seconds: float
    num_steps: int
    data_seconds: float | None = None
    foreign_fraction: float | None = None
    gpu: GpuReading | None = None

    @property
    def step_seconds(self) -> float:
        """Return the mean time of one step of this window."""
        return self.seconds / self.num_steps

    @property
    def is_disturbed(self) -> bool:
        """Say whether others are known to have used the processors or the GPU meanwhile."""
        on_gpu = self.gpu is not None and bool(self.gpu.num_foreign_processes)
        return on_gpu or (self.foreign_fraction or 0.0) > MAX_FOREIGN_FRACTION


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What the GPU's total-energy counter rose by over one long window of `num_steps` steps.

    `idle_watts` is the draw before the first cell of the session, with nothing running.
    """

    joules: float
    seconds: float
    num_steps: int
    idle_watts: float | None = None

    @property
    def joules_per_step(self) -> float:
        """Return the energy of one step, the idle draw included."""
        return self.joules / self.num_steps


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peaks of one training step in its steady state, and of the set-up before it, in bytes.

    `setup_peak_bytes` is of what `peak_allocated_bytes` counts on CUDA (with the data set), on a CPU of
    what `process_bytes` does.

    `peak_allocated_bytes` counts tensors: the model, its gradients, the optimizer, one batch and the
    step's activations, without the resident data set (`data_bytes`). On a CPU it is the allocation peak
    that torch's profiler sees. `peak_reserved_bytes` is the CUDA caching allocator's; `process_bytes`
    what the driver charges the process with, on a CPU the peak resident set above that after imports.
    """

    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    process_bytes: int | None = None
    setup_peak_bytes: int | None = None
    data_bytes: int | None = None
    num_alloc_retries: int | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one operation was seen to compute in, and the relative errors that showed it."""

    operation: str
    forward: str
    backward: str
    forward_error: float
    backward_error: float


@dataclass(frozen=True, kw_only=True)
class OperatorKind:
    """All operators of one kind (`convolution`, `normalization`, ...) in one training step.

    `flops` are counted as executed, a multiplication and an addition as two; `recomputed_flops` is the
    part that checkpointing repeats. `bytes` are what must be read and written at least, each operator
    by itself. `bound_seconds` is the sum over operators of max(FLOPs / peak, bytes / bandwidth), and
    `bytes_bound_seconds` the part of it from those that the bandwidth bounds.
    """

    kind: str
    num_operators: int
    flops: int
    recomputed_flops: int
    bytes: int
    bound_seconds: float
    bytes_bound_seconds: float


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The operators of one training step against the peaks measured on this device in this session.

    Both peaks are those of the cell: FLOP/s in its precision, and bytes per second of a large copy.
    """

    operators: tuple[OperatorKind, ...]
    peak_flops_per_second: float
    peak_bytes_per_second: float

    @property
    def model_flops(self) -> int:
        """Return the operations of one step that the model asks for: recomputation left out."""
        return self.hardware_flops - sum(kind.recomputed_flops for kind in self.operators)

    @property
    def hardware_flops(self) -> int:
        """Return the operations of one step as executed."""
        return sum(kind.flops for kind in self.operators)

    @property
    def bound_seconds(self) -> float:
        """Return the least time in which this device could run the step's operators one by one."""
        return sum(kind.bound_seconds for kind in self.operators)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The timed windows of a cell, in the order measured, and what led up to them.

    `low_step_seconds` and `high_step_seconds` bound the median window's step time with 95 % confidence
    (bootstrap over `windows`, reproducible by `stats.median_interval`). `rejected_windows` were measured
    again because others used the machine. `is_steady` says that the warm-up ended because its halves
    agreed, without new allocations or compilations, and not because its time was over.
    """

    windows: tuple[Window, ...]
    rejected_windows: tuple[Window, ...] = ()
    low_step_seconds: float
    high_step_seconds: float
    stop_reason: str
    num_warmup_steps: int
    is_steady: bool = True
    setup_seconds: float
    compile_seconds: float | None = None
    energy: Energy | None = None

    @property
    def step_seconds(self) -> list[float]:
        """Return the step time of each window, in seconds."""
        return [window.step_seconds for window in self.windows]

    @property
    def median_step_seconds(self) -> float:
        """Return the median window's step time."""
        return statistics.median(self.step_seconds)

    @property
    def p95_step_seconds(self) -> float:
        """Return the step time that 95 % of the windows stay under (linear interpolation)."""
        ordered = sorted(self.step_seconds)
        position = 0.95 * (len(ordered) - 1)
        below = math.floor(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    @property
    def noise(self) -> float:
        """Return half the median's interval over the median: how well the median is known."""
        return (self.high_step_seconds - self.low_step_seconds) / 2 / self.median_step_seconds

    @property
    def total_steps_per_second(self) -> float:
        """Return all steps over all time: unlike the median, it shows stalls."""
        return sum(w.num_steps for w in self.windows) / sum(w.seconds for w in self.windows)

    @property
    def data_wait_fraction(self) -> float | None:
        """Return the share of the windows' time spent waiting for data."""
        waits = [w.data_seconds for w in self.windows if w.data_seconds is not None]
        if len(waits) < len(self.windows):
            return None
        return sum(waits) / sum(w.seconds for w in self.windows)
