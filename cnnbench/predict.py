"""Forecasts the peak memory of training steps from the model alone: nothing is computed, no device used.

The very step of a cell, with its precision, its checkpointing and its optimizer, is run on fake tensors,
which have shapes and no memory; what of it would be alive at once is counted. PyTorch's own
`torch.distributed._tools.mem_tracker` does likewise, but refuses models with frozen parts.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cnnbench import architectures
from cnnbench.cell import Recipe
from cnnbench.checkpointing import apply_checkpointing, is_recomputing
from cnnbench.errors import CnnbenchError, UnsupportedError
from cnnbench.forecast import PARTS, Forecast, Outlook, batch_within, between, is_on_line
from cnnbench.measure.lifetimes import LifetimeWatch, at_the_peak
from cnnbench.measure.workspace import workspace_of
from cnnbench.precision import precision
from cnnbench.search import Try, largest_batch
from cnnbench.setup import MEMORY_FORMATS, NUM_EXAMPLE_IMAGES, add_dropout
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.step import Tally, TrainingStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cnnbench.forecast import Question, Setting
    from cnnbench.job import ForecastJob

# Of one architecture, all settings together.
LIMIT_SECONDS = 60.0
# The operators and casts of a step on the CPU stand for those on CUDA as well.
CPU = torch.device("cpu")
NUM_IMAGE_DIMENSIONS = 4


class _TookTooLongError(BaseException):
    """The time limit is over; not an Exception, for a model may catch those."""


def forecast(job: ForecastJob) -> tuple[Outlook, ...]:
    """Return the outlooks of all questions of `job`, which are about one architecture.

    Raises:
        CnnbenchError: the model cannot be built.
    """
    first = job.questions[0].setting
    model = architectures.build(
        first.architecture,
        num_classes=job.num_classes,
        image_size=job.image_size,
        weights="none",
    )
    return predict(model, job.questions, image_size=job.image_size)


def predict(
    model: nn.Module,
    questions: Sequence[Question],
    *,
    image_size: int,
    limit_seconds: float | None = None,
) -> tuple[Outlook, ...]:
    """Return what each question's steps would need; a model that cannot be forecast gives the reason.

    The model stays as it was.

    Args:
        model: an image classifier on the CPU.
        questions: about settings of this model.
        image_size: what the model was built for, and is asked for wherever a setting leaves it open.
        limit_seconds: for all questions together (by default `LIMIT_SECONDS`); those without an
            answer then get none.
    """
    limit = LIMIT_SECONDS if limit_seconds is None else limit_seconds
    asked = [_for_size(question, image_size) for question in questions]
    answers: dict[Question, Outlook] = {}
    outlooks: list[Outlook] = []
    try:
        with _time_limit(limit):
            for question in asked:
                alike = _alike(question)
                if alike not in answers:
                    answers[alike] = _outlook(model, alike, image_size)
                outlooks.append(replace(answers[alike], setting=question.setting))
    except _TookTooLongError:
        reason = f"took longer than {limit:g} s"
        late = asked[len(outlooks) :]
        outlooks += [Outlook(setting=each.setting, reason=reason) for each in late]
    return tuple(outlooks)


def _for_size(question: Question, image_size: int) -> Question:
    """Return the question with the model's own size where it leaves it open."""
    setting = question.setting
    return replace(question, setting=replace(setting, image_size=setting.image_size or image_size))


def _alike(question: Question) -> Question:
    """Return the question with the same answer: TF32 is kept in fp32, and both halves have 16 bits."""
    setting = question.setting
    name = {"tf32": "fp32", "fp16": "bf16"}.get(setting.precision, setting.precision)
    return replace(question, setting=replace(setting, precision=name))


def _outlook(model: nn.Module, question: Question, image_size: int) -> Outlook:
    setting = question.setting
    if setting.image_size != image_size:
        reason = f"the model was built for images of {image_size} pixels"
        return Outlook(setting=setting, reason=reason)
    try:
        with _prepared(model, setting):
            return _answer(question, lambda size: _one_step(model, setting, size))
    except (CnnbenchError, UnsupportedError) as error:
        return Outlook(setting=setting, reason=str(error))
    except Exception as error:  # noqa: BLE001 (a model may train and not stand fake tensors)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outlook(setting=setting, reason=reason)


def _answer(question: Question, run: Callable[[int], Forecast]) -> Outlook:
    """Answer with as few runs as the line through two of them allows."""
    known: dict[int, Forecast] = {}

    def at(batch_size: int) -> Forecast:
        if batch_size not in known:
            known[batch_size] = run(batch_size)
        return known[batch_size]

    sizes = question.batch_sizes
    low, high = at(sizes[0]), at(sizes[-1])
    inner = sizes[1:-1]
    is_linear = bool(inner) and is_on_line(low, high, at(inner[len(inner) // 2]))
    forecasts = [
        known[size] if size in known else between(low, high, size) if is_linear else at(size)
        for size in sizes
    ]
    largest = None
    if question.budget_bytes is not None:
        other = high if low is not high else at(2 * low.batch_size)
        largest = _largest(at, low, other, question.budget_bytes)
    return Outlook(
        setting=question.setting,
        forecasts=tuple(forecasts),
        is_linear=is_linear,
        largest_batch=largest,
    )


def _largest(
    at: Callable[[int], Forecast], low: Forecast, high: Forecast, budget_bytes: int
) -> int:
    def attempt(batch_size: int) -> Try:
        total = at(batch_size).total
        return Try(batch_size=batch_size, fits=total <= budget_bytes, peak_bytes=total)

    start = batch_within(low, high, budget_bytes)
    return largest_batch(attempt, start=start, budget_bytes=budget_bytes)


@contextmanager
def _prepared(model: nn.Module, setting: Setting) -> Iterator[None]:
    """Wrap the model as a cell of `setting` would inside the context."""
    before = {module: dict(vars(module)) for module in model.modules()}
    hooks = {module: dict(module._forward_pre_hooks) for module in model.modules()}  # noqa: SLF001
    size = setting.image_size or 0
    try:
        if setting.dropout:
            add_dropout(model, setting.dropout)
        example = torch.zeros(NUM_EXAMPLE_IMAGES, 3, size, size)
        apply_checkpointing(model, setting.checkpointing, example)
        model.train()
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
            module._forward_pre_hooks.clear()  # noqa: SLF001
            module._forward_pre_hooks.update(hooks[module])  # noqa: SLF001


def _one_step(model: nn.Module, setting: Setting, batch_size: int) -> Forecast:
    """Run one step on fake tensors and return what it needs at its worst moment."""
    memory_format = MEMORY_FORMATS[setting.memory_format]
    size = setting.image_size or 0
    with FakeTensorMode(allow_non_fake_inputs=True), _faked(model, memory_format):
        step = TrainingStep(
            model,
            make_optimizer(model, Recipe(optimizer=setting.optimizer), CPU),
            precision=precision(setting.precision),
            device=CPU,
        )
        # Its few numbers weigh nothing, and it asks for their values, which there are none of.
        step.scaler = torch.amp.GradScaler(CPU.type, enabled=False)
        on_cpu = setting.device_type == "cpu"
        watch = LifetimeWatch(is_recomputing, *([workspace_of] if on_cpu else []))
        watch.hold("parameters", [*model.parameters(), *model.buffers()])
        watch.hold("optimizer", _states(step.optimizer))
        with watch:
            images = torch.empty((batch_size, 3, size, size), memory_format=memory_format)
            labels = torch.zeros(batch_size, dtype=torch.int64)
            step(images, labels, Tally.on(CPU))
        gradients = [parameter.grad for parameter in model.parameters()]
        watch.hold("gradients", (gradient for gradient in gradients if gradient is not None))
    parts = at_the_peak(watch.lifetimes)
    return Forecast(batch_size=batch_size, **{name: parts.get(name, 0) for name in PARTS})


def _states(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Return what the optimizer keeps from step to step, and let it do nothing from now on.

    Its fused update, which cells run, allocates nothing; some fused ones cannot run on fake tensors.
    """
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD):
            group.update(fused=False, foreach=True)
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


@contextmanager
def _faked(model: nn.Module, memory_format: torch.memory_format) -> Iterator[None]:
    """Put fake tensors in the place of the model's own inside the context."""
    kept: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    fakes: dict[int, torch.Tensor] = {}
    for module in model.modules():
        # Assigning through the module would check types.
        for store in cast("list[dict[str, Any]]", [module._parameters, module._buffers]):  # noqa: SLF001
            kept += [(store, name, own) for name, own in store.items() if own is not None]
    try:
        for place, name, own in kept:
            if id(own) not in fakes:  # a tensor that is used twice is there once
                fakes[id(own)] = _fake(own, memory_format)
            place[name] = fakes[id(own)]
        yield
    finally:
        for place, name, own in kept:
            place[name] = own


def _fake(own: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
    if own.ndim == NUM_IMAGE_DIMENSIONS:
        fake = torch.empty(own.shape, dtype=own.dtype, memory_format=memory_format)
    else:
        fake = torch.empty_strided(own.shape, own.stride(), dtype=own.dtype)
    is_parameter = isinstance(own, nn.Parameter)
    return nn.Parameter(fake, requires_grad=own.requires_grad) if is_parameter else fake


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Break off what runs inside the context when its time is over, by SIGALRM.

    Outside the main thread, where Python handles no signals, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TookTooLongError

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # Whoever had set a timer of his own gets it back.
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
