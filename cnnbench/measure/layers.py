"""A training step layer by layer, on request: what bounds each layer, and how far it is from its limit."""

from __future__ import annotations

import csv
import inspect
import statistics
import time
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from cnnbench.measure.operators import OperatorWatch
from cnnbench.measure.roofline import bound_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn
    from torch._ops import OpOverload

    from cnnbench.environment import Peaks
    from cnnbench.measure.operators import Operation
    from cnnbench.measure.timing import Step

PHASES = ("forward", "backward", "recompute", "optimizer", "other")
COLUMNS = (
    "module",
    "phase",
    "num_operators",
    "seconds",
    "bound_seconds",
    "fraction",
    "bound_by",
    "flops",
    "bytes",
)

# The module's name and one of `PHASES`.
Place: TypeAlias = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one module did in one phase (one of `PHASES`) of a training step.

    Operators belong to the innermost module that runs them, or that they are the gradient of; `module`
    is its name in the model, for the model itself that of its class, and empty for what no module
    runs: loss, optimizer, batches. `seconds` is the median over some steps of the operators' times;
    `bound_seconds` the sum of max(FLOPs / peak, bytes / bandwidth), and `bytes_bound_seconds` the part
    of it that the bandwidth bounds.
    """

    module: str
    phase: str
    num_operators: int
    seconds: float
    bound_seconds: float
    bytes_bound_seconds: float
    flops: int
    bytes: int

    @property
    def bound_by(self) -> str:
        """Return `bytes` or `flops`, whichever makes up more of the bound."""
        return "bytes" if 2 * self.bytes_bound_seconds >= self.bound_seconds else "flops"

    @property
    def fraction(self) -> float | None:
        """Return the bound over the time: 1 is as fast as can be; `None` for no time at all."""
        return self.bound_seconds / self.seconds if self.seconds else None


def layer_table(
    step: Step,
    model: nn.Module,
    peaks: Peaks,
    precision: str,
    *,
    is_recomputing: Callable[[], bool],
    device: torch.device,
    repeats: int = 5,
) -> tuple[Layer, ...]:
    """Run `step` some times, watched, and return its layers in the order in which they first run.

    Each operator is timed alone, so what a device overlaps is counted twice, and times are those of a
    watched step. Views and allocations are left out.

    Args:
        step: the training step, warm and not compiled; it trains on.
        model: the model that it trains.
        peaks: what the device reached.
        precision: the cell's.
        is_recomputing: says whether checkpointing is repeating a forward pass at this moment.
        device: where the step runs.
        repeats: how many steps to take the median of.

    Raises:
        ValueError: the peak of what an operator computes in is not known.
    """
    runs = []
    for _ in range(repeats):
        mode = _LayerWatch(model, is_recomputing, timer(device))
        with mode:
            step()
        runs.append(mode.read())
    seconds: defaultdict[Place, list[float]] = defaultdict(list)
    for run in runs:
        for place, timed in run.items():
            seconds[place].append(sum(one for _, one in timed))
    return tuple(
        _layer(place, [operation for operation, _ in timed], seconds[place], peaks, precision)
        for place, timed in runs[-1].items()
    )


def write_layers(layers: tuple[Layer, ...], path: Path) -> None:
    """Write one row of `COLUMNS` for each layer to `path`, as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([getattr(layer, column) for column in COLUMNS] for layer in layers)


def _layer(
    place: Place,
    operations: list[Operation],
    seconds: list[float],
    peaks: Peaks,
    precision: str,
) -> Layer:
    module, phase = place
    bounds = [bound_of(operation, peaks, precision) for operation in operations]
    return Layer(
        module=module,
        phase=phase,
        num_operators=len(operations),
        seconds=statistics.median(seconds),
        bound_seconds=sum(bound.seconds for bound in bounds),
        bytes_bound_seconds=sum(bound.bytes_seconds for bound in bounds),
        flops=sum(operation.flops for operation in operations),
        bytes=sum(operation.bytes for operation in operations),
    )


class Timer:
    """Times operators by the processor's clock: right where each has ended when its call returns."""

    def __init__(self) -> None:
        """Begin with no time taken."""
        self._seconds: list[float] = []

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func` and take its time."""
        start = time.perf_counter()
        out = func(*args, **kwargs)
        self._seconds.append(time.perf_counter() - start)
        return out

    def read(self) -> list[float]:
        """Return the seconds of each run so far, in order."""
        return self._seconds


class CudaTimer(Timer):
    """Times operators by events in the stream, read when the step has ended.

    Watching takes the processor longer than most operators take the device, which would then wait
    between its events for its work to arrive. So it gets a pause before each operator that is longer
    than the watching (0.1 to 0.2 ms at 1 to 2 GHz), and always finds both events in its queue.
    """

    PAUSE_CYCLES = 200_000

    def __init__(self) -> None:
        """Begin with no time taken."""
        super().__init__()
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func` between two events."""
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(self.PAUSE_CYCLES)  # noqa: SLF001 (nothing public keeps a stream busy)
        start.record()
        out = func(*args, **kwargs)
        end.record()
        self._events.append((start, end))
        return out

    def read(self) -> list[float]:
        """Wait for the device and return the seconds of each run so far, in order."""
        torch.cuda.synchronize()
        return [float(start.elapsed_time(end)) / 1e3 for start, end in self._events]


def timer(device: torch.device) -> Timer:
    """Return the timer that is right for `device`."""
    return CudaTimer() if device.type == "cuda" else Timer()


class _LayerWatch(OperatorWatch):
    """Times each operator, and finds the module that it belongs to.

    In the forward pass and while recomputing that is the innermost one on Python's own stack: hooks
    (those of `torch.utils.module_tracker`, say) miss modules whose `forward` checkpointing calls
    directly. A gradient belongs to the module whose operator made its node in autograd's graph, known
    by the node's number, or whose parameter it is added to.
    """

    def __init__(self, model: nn.Module, is_recomputing: Callable[[], bool], clock: Timer) -> None:
        """Learn the names of the modules of `model` and of their parameters."""
        super().__init__(is_recomputing)
        self._clock = clock
        self._num_runs = 0
        self._noted: list[tuple[Place, Operation, int]] = []
        self._names: dict[nn.Module, str] = {m: name for name, m in model.named_modules()}
        self._names[model] = type(model).__name__
        self._owners = {
            parameter: name
            for module, name in self._names.items()
            for parameter in module.parameters(recurse=False)
        }
        self._nodes: list[int] = []
        self._node_names: list[str] = []
        self._place: Place = ("", "")

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func`, timed; where it belongs is asked before, while its caller waits."""
        self._place = self._find_place()
        self._num_runs += 1
        return self._clock.run(func, args, kwargs)

    def note(self, operation: Operation) -> None:
        """Keep what has just run, and by which run of the clock."""
        module, phase = self._place
        if phase == "other" and operation.kind == "optimizer":
            phase = "optimizer"
        self._noted.append(((module, phase), operation, self._num_runs - 1))

    def read(self) -> dict[Place, list[tuple[Operation, float]]]:
        """Return the operators of each place with their seconds, in the order in which they ran."""
        seconds = self._clock.read()
        found: defaultdict[Place, list[tuple[Operation, float]]] = defaultdict(list)
        for place, operation, run in self._noted:
            found[place].append((operation, seconds[run]))
        return dict(found)

    def _find_place(self) -> Place:
        if self._is_recomputing():
            return self._running_module() or "", "recompute"
        node: Any = torch._C._current_autograd_node()  # noqa: SLF001 (nothing public tells)
        if node is not None:
            return self._module_of(node), "backward"
        module = self._running_module()
        self._remember_node(module or "")
        return (module or "", "other" if module is None else "forward")

    def _running_module(self) -> str | None:
        """Return the innermost module that is running, by the methods on the stack."""
        frame = inspect.currentframe()
        while frame is not None:
            code = frame.f_code
            if code.co_argcount:
                owner = frame.f_locals.get(code.co_varnames[0])
                if isinstance(owner, torch.nn.Module) and owner in self._names:
                    return self._names[owner]
            frame = frame.f_back
        return None

    def _remember_node(self, module: str) -> None:
        """Note who runs the operator for which autograd has just made a node, if it has made one."""
        number = torch._C._autograd._get_sequence_nr() - 1  # noqa: SLF001 (nothing public tells)
        if not self._nodes or number > self._nodes[-1]:
            self._nodes.append(number)
            self._node_names.append(module)

    def _module_of(self, node: Any) -> str:
        """Return the module that `node` of autograd's graph belongs to."""
        parameter = getattr(node, "variable", None)  # of the nodes that add up gradients
        if parameter is not None:
            return self._owners.get(parameter, "")
        # An in-place change of a view makes nodes besides its operator's: they follow it.
        index = bisect_right(self._nodes, node._sequence_nr()) - 1  # noqa: SLF001
        return self._node_names[index] if index >= 0 else ""
