"""The step against a loop written out by hand, and the gradient scaler's bookkeeping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.cell import OPTIMIZERS, Recipe
from cnnbench.precision import precision
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.schedule import make_schedule
from cnnbench.training.step import GraphedStep, Tally, TrainingStep, undone
from sample_models import assert_equal_tensors, batch, build

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")
ARCHITECTURE = "resnet(width=4,depth=1)"


def make_step(
    mode: str = "fp32",
    *,
    device: torch.device = CPU,
    recipe: Recipe | None = None,
    kind: type[TrainingStep] = TrainingStep,
    capturable: bool = False,
) -> TrainingStep:
    recipe = recipe or Recipe(learning_rate=0.01)
    model = build(ARCHITECTURE).to(device).train()
    return kind(
        model,
        make_optimizer(model, recipe, device, capturable=capturable),
        precision=precision(mode),
        device=device,
        label_smoothing=recipe.label_smoothing,
    )


def losses(step: TrainingStep, num_steps: int, device: torch.device = CPU) -> list[float]:
    """Return the loss of each of some steps on different batches."""
    seen = []
    for number in range(num_steps):
        tally = Tally.on(device)
        step(*on(device, number), tally)
        seen.append(tally.read()[0])
    return seen


def on(device: torch.device, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch(number, 16, 32)
    return images.to(device), labels.to(device)


def set_scale(step: TrainingStep, scale: float) -> None:
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": scale})


def state_of(step: TrainingStep) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step.model.state_dict().items()}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_step_is_the_loop_that_one_would_write(label_smoothing: float) -> None:
    step = make_step(recipe=Recipe(learning_rate=0.01, label_smoothing=label_smoothing))
    ours = losses(step, 3)
    model = build(ARCHITECTURE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    theirs = []
    for number in range(3):
        images, labels = on(CPU, number)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_label_smoothing_changes_the_loss() -> None:
    smooth = make_step(recipe=Recipe(label_smoothing=0.2))
    assert losses(smooth, 1) != losses(make_step(), 1)


def test_autocast_holds_for_the_forward_pass() -> None:
    fp32, bf16 = losses(make_step(), 2), losses(make_step("bf16"), 2)
    assert fp32 != bf16
    assert bf16 == pytest.approx(fp32, rel=0.05)


def test_a_tally_is_the_mean_over_images_and_not_over_batches() -> None:
    tally = Tally.on(CPU)
    assert tally.read() == (0.0, 0.0)
    logits = torch.eye(4)
    tally.add(torch.tensor(2.0), logits[:1], torch.tensor([0]))
    tally.add(torch.tensor(1.0), logits[1:], torch.tensor([1, 0, 0]))
    assert tally.num_images == 4
    assert tally.read() == ((2.0 + 3 * 1.0) / 4, 2 / 4)


def test_a_tally_shows_a_loss_that_is_not_finite() -> None:
    tally = Tally.on(CPU)
    tally.add(torch.tensor(torch.nan), torch.eye(2), torch.tensor([0, 1]))
    tally.add(torch.tensor(1.0), torch.eye(2), torch.tensor([0, 1]))
    assert tally.read()[0] != tally.read()[0]


@pytest.mark.parametrize("mode", ["fp32", "bf16"])
def test_without_a_scaler_skipped_steps_are_unknown(mode: str) -> None:
    step = make_step(mode)
    losses(step, 1)
    assert step.skipped_steps() is None
    assert step.loss_scale() is None


def test_fp16_trains_like_fp32_and_skips_nothing_where_nothing_overflows() -> None:
    step = make_step("fp16")
    set_scale(step, 1024.0)
    before = step.loss_scale()
    fp16, fp32 = losses(step, 4), losses(make_step(), 4)
    assert fp16 != fp32
    assert fp16 == pytest.approx(fp32, rel=0.05)
    assert step.skipped_steps() == 0
    assert step.loss_scale() == before


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_an_overflow_skips_the_update_and_is_counted(optimizer: str) -> None:
    step = make_step("fp16", recipe=Recipe(optimizer=optimizer, learning_rate=0.01))
    tally = Tally.on(CPU)
    images, labels = on(CPU, 0)
    set_scale(step, 1024.0)
    step(images, labels, tally)
    assert step.skipped_steps() == 0
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    images[0, 0, 0, 0] = torch.inf
    for _ in range(2):
        step(images, labels, tally)
    assert step.skipped_steps() == 2
    assert step.loss_scale() == 1024 / 4
    assert_equal_tensors({n: p.detach() for n, p in step.model.named_parameters()}, before)
    assert step.num_attempts == 3


def test_an_optimizer_that_counts_no_steps_leaves_the_skipped_ones_unknown() -> None:
    step = make_step("fp16", recipe=Recipe(optimizer="sgd", learning_rate=0.01))
    losses(step, 1)
    assert step.skipped_steps() is None
    assert step.loss_scale() is not None


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_undone_leaves_no_trace_in_later_steps(optimizer: str, mode: str) -> None:
    recipe = Recipe(optimizer=optimizer, learning_rate=0.01)
    plain, step = make_step(mode, recipe=recipe), make_step(mode, recipe=recipe)
    start = state_of(step)
    addresses = [p.data_ptr() for p in step.model.parameters()]
    with undone(step):
        losses(step, 3)
        assert not torch.equal(state_of(step)["fc.weight"], start["fc.weight"])
    assert_equal_tensors(state_of(step), start)
    assert [p.data_ptr() for p in step.model.parameters()] == addresses
    assert losses(step, 3) == losses(plain, 3)
    assert_equal_tensors(state_of(step), state_of(plain))
    assert step.loss_scale() == plain.loss_scale()


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """Return the device, deterministic, and its switches as they were afterwards."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    precision("fp32").apply()
    yield torch.device("cuda", torch.cuda.current_device())
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_on_cuda_a_graphed_step_trains_like_the_plain_one(
    cuda: torch.device, optimizer: str, mode: str
) -> None:
    options: dict[str, Any] = {
        "device": cuda,
        "recipe": Recipe(optimizer=optimizer, learning_rate=0.001),
        "capturable": True,
    }
    plain = make_step(mode, **options)
    graphed = make_step(mode, kind=GraphedStep, **options)
    assert losses(graphed, 6, cuda) == pytest.approx(losses(plain, 6, cuda), rel=2e-2)
    ours, theirs = state_of(graphed), state_of(plain)
    for name, value in ours.items():
        if name.endswith("num_batches_tracked"):
            assert int(value) == int(theirs[name]) == 6
    assert graphed.num_attempts == 6
    if optimizer != "sgd":
        assert graphed.skipped_steps() == plain.skipped_steps()
    assert graphed.loss_scale() == plain.loss_scale()


@pytest.mark.gpu
def test_on_cuda_a_graph_sees_the_learning_rate_change(cuda: torch.device) -> None:
    recipe = Recipe(optimizer="sgd", learning_rate=0.1)
    step = make_step(device=cuda, recipe=recipe, kind=GraphedStep, capturable=True)
    schedule = make_schedule("cosine", step.optimizer, num_epochs=1, num_steps=4)
    changes = []
    for number in range(5):
        before = state_of(step)["fc.weight"]
        step(*on(cuda, number), Tally.on(cuda))
        changes.append(float((state_of(step)["fc.weight"] - before).abs().max()))
        if number < 4:
            schedule.after_step()
    # The cosine has reached zero by the last step.
    assert all(change > 0 for change in changes[:4])
    assert changes[4] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_on_cuda_no_step_waits_for_the_device(
    cuda: torch.device, optimizer: str, mode: str
) -> None:
    recipe = Recipe(optimizer=optimizer, learning_rate=0.001)
    step, tally = make_step(mode, device=cuda, recipe=recipe), Tally.on(cuda)
    schedule = make_schedule("one_cycle", step.optimizer, num_epochs=1, num_steps=8)
    images, labels = on(cuda, 0)
    for _ in range(3):
        step(images, labels, tally)
        schedule.after_step()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(5):
            step(images, labels, tally)
            schedule.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tally.read()[0] > 0


@pytest.mark.gpu
def test_on_cuda_an_overflow_skips_the_update_and_is_counted(cuda: torch.device) -> None:
    step, tally = make_step("fp16", device=cuda), Tally.on(cuda)
    set_scale(step, 1024.0)
    images, labels = on(cuda, 0)
    step(images, labels, tally)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    images[0, 0, 0, 0] = torch.inf
    step(images, labels, tally)
    assert step.skipped_steps() == 1
    assert step.loss_scale() == 512
    assert_equal_tensors({n: p.detach() for n, p in step.model.named_parameters()}, before)


class Dropping(nn.Module):
    """A model whose loss depends on the device's random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)

    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(functional.dropout(images.flatten(1), 0.5, training=self.training))


@pytest.mark.gpu
def test_on_cuda_a_graph_draws_anew_in_each_step(cuda: torch.device) -> None:
    model = Dropping().to(cuda).train()
    recipe = Recipe(optimizer="sgd", learning_rate=1e-12)
    optimizer = make_optimizer(model, recipe, cuda, capturable=True)
    step = GraphedStep(model, optimizer, precision=precision("fp32"), device=cuda)
    images, labels = on(cuda, 0)
    seen = set()
    for _ in range(4):
        tally = Tally.on(cuda)
        step(images, labels, tally)
        seen.add(tally.read()[0])
    assert len(seen) == 4
