"""A cell's parts, put together: equal where they must be, different where the recipe says so."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from cnnbench.architectures import IMAGENET_STATISTICS
from cnnbench.checkpointing import FROZEN_NOTE
from cnnbench.errors import UnsupportedError
from cnnbench.setup import Bench, add_dropout, compile_unsupported, set_up
from cnnbench.training.fit import evaluate
from cnnbench.training.step import GraphedStep, Tally, TrainingStep
from sample_jobs import TINY_CNN, tiny_cell, tiny_recipe
from sample_models import assert_equal_tensors, build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.environment import DatasetInfo

    MakeBench = Callable[..., Bench]

CPU = torch.device("cpu")
RESNET = "resnet(width=4,depth=1)"


@pytest.fixture
def bench(digits: DatasetInfo) -> MakeBench:
    def make(architecture: str = RESNET, **changes: Any) -> Bench:
        names = ("seed", "precision", "checkpointing", "memory_format", "compile", "loader")
        axes = {name: changes.pop(name) for name in names if name in changes}
        cell = tiny_cell(architecture, recipe=tiny_recipe(epochs=1, **changes), **axes)
        return set_up(cell, digits, CPU)

    return make


def step_of(bench: Bench) -> TrainingStep:
    return bench.training_step()[0]


def loss_of(step: TrainingStep, bench: Bench) -> float:
    tally = Tally.on(CPU)
    for images, labels in bench.loader("train").epoch(0):
        step(images, labels, tally)
    return tally.read()[0]


def test_the_same_seed_gives_the_same_model_and_another_one_another(bench: MakeBench) -> None:
    one, two, other = (step_of(bench(seed=seed)).model.state_dict() for seed in (1, 1, 2))
    assert_equal_tensors(dict(one), dict(two))
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_each_step_of_a_bench_is_fresh(bench: MakeBench) -> None:
    made = bench()
    first = step_of(made)
    loss_of(first, made)
    fresh = step_of(made)
    assert_equal_tensors(dict(fresh.model.state_dict()), dict(step_of(bench()).model.state_dict()))
    assert not fresh.optimizer.state


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.5}], ids=["plain", "dropout"])
@pytest.mark.parametrize("checkpointing", ["stage", "block"])
def test_checkpointing_changes_no_loss(
    bench: MakeBench, checkpointing: str, changes: dict[str, Any]
) -> None:
    plain = bench(**changes)
    ours = bench(checkpointing=checkpointing, **changes)
    assert loss_of(step_of(ours), ours) == loss_of(step_of(plain), plain)


def test_a_graph_of_what_draws_random_numbers_again_is_unsupported(bench: MakeBench) -> None:
    made = bench(TINY_CNN, checkpointing="stage", dropout=0.5)
    graphed = replace(made, cell=replace(made.cell, compile="graph"))
    with pytest.raises(UnsupportedError, match="take compile=off or default"):
        graphed.training_step()


def test_layout_reaches_the_model_and_the_batches_and_changes_little_else(bench: MakeBench) -> None:
    nchw, nhwc = bench(), bench(memory_format="channels_last")
    step = step_of(nhwc)
    weight = step.model.get_parameter("stage1.0.conv1.weight")
    images, _ = next(nhwc.loader("train").epoch(0))
    for tensor in (weight, images):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()
    assert loss_of(step, nhwc) == pytest.approx(loss_of(step_of(nchw), nchw), rel=1e-3)


def test_only_training_images_are_augmented(bench: MakeBench) -> None:
    cropped, plain = bench(augmentation="crop"), bench(augmentation="none")
    for split, same in (("train", False), ("val", True), ("test", True)):
        (ours, labels), (theirs, their_labels) = (
            next(b.loader(split).epoch(3)) for b in (cropped, plain)
        )
        assert torch.equal(labels, their_labels)
        assert torch.equal(ours, theirs) is same, split


def test_the_recipe_reaches_the_optimizer_and_the_loss(bench: MakeBench) -> None:
    recipe = {"optimizer": "adamw", "learning_rate": 0.02, "weight_decay": 0.3}
    group = step_of(bench(**recipe)).optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert type(step_of(bench(**recipe)).optimizer) is torch.optim.AdamW
    plain, smooth = bench(), bench(label_smoothing=0.3)
    assert loss_of(step_of(plain), plain) < loss_of(step_of(smooth), smooth)


def test_a_subset_of_the_training_images_is_kept(bench: MakeBench) -> None:
    made = bench(train_subset=100)
    assert len(made.loader("train").split) == 100
    assert len(made.loader("test").split) == 270


def test_dropout_acts_in_training_only_and_adds_no_key(bench: MakeBench) -> None:
    plain, dropping = bench(), bench(dropout=0.5)
    model = step_of(dropping).model
    assert list(model.state_dict()) == list(step_of(plain).model.state_dict())
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))


def test_dropout_acts_on_the_last_linear_layers_input() -> None:
    model = build(TINY_CNN, 16).train()
    add_dropout(model, 0.999)
    with torch.no_grad():
        logits = model(torch.randn(64, 3, 16, 16))
    bias = model.get_parameter("fc2.bias")
    dropped = (logits == bias).all(dim=1)
    assert dropped.float().mean() > 0.9


def test_dropout_without_a_linear_layer_is_unsupported() -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnsupportedError, match="dropout needs a linear layer"):
        add_dropout(model, 0.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "tf32"}, "TF32 needs an NVIDIA GPU"),
        ({"compile": "graph"}, "compile=graph records CUDA graphs, which need a CUDA device"),
        ({"compile": "reduce-overhead"}, "compile=reduce-overhead records CUDA graphs"),
    ],
)
def test_what_a_cpu_cannot_do_is_unsupported_with_its_reason(
    bench: MakeBench, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(UnsupportedError) as raised:
        bench(**changes)
    assert reason in str(raised.value)


def test_compiling_without_a_compiler_is_unsupported(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedError, match="no-such-compiler is not installed"):
        bench(compile="default")


def test_on_cuda_inductor_needs_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setenv("CC", "no-such-compiler")
    reason = compile_unsupported("max-autotune", cuda)
    assert (
        reason
        == "compile=max-autotune on CUDA needs a C compiler, and no-such-compiler is not installed"
    )
    assert compile_unsupported("graph", cuda) is None
    monkeypatch.setenv("CC", sys.executable)
    assert compile_unsupported("default", cuda) is None


def test_what_cannot_be_checkpointed_is_unsupported(
    bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from torch import nn
def make():
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
"""
    (tmp_path / "setup_flat.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsupportedError, match="found no block to recompute in Sequential"):
        bench("setup_flat:make", checkpointing="block").training_step()


def test_a_frozen_trunk_is_noted(bench: MakeBench) -> None:
    step, notes = bench("transfer_resnet50", checkpointing="block").training_step()
    assert notes == (FROZEN_NOTE,)
    assert sum(p.numel() for p in step.optimizer.param_groups[0]["params"]) == 2048 * 10 + 10


def test_missing_weights_leave_random_ones_and_say_why(
    bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    made = bench("transfer_resnet50", weights="imagenet")
    assert made.weights == "none"
    assert made.missing_weights is not None
    assert "--download" in made.missing_weights
    assert made.data.train.mean != IMAGENET_STATISTICS["transfer_resnet50"][0]


def test_a_weights_file_is_loaded_and_its_images_look_as_it_expects(
    bench: MakeBench, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    file = tmp_path / "weights.pt"
    torch.save(build("transfer_resnet50", seed=5).state_dict(), file)
    made = bench("transfer_resnet50", weights=str(file))
    assert (made.weights, made.missing_weights) == (str(file), None)
    assert (made.data.train.mean, made.data.train.std) == IMAGENET_STATISTICS["transfer_resnet50"]
    saved = torch.load(file, weights_only=True)
    assert_equal_tensors(dict(step_of(made).model.state_dict()), saved)


def test_a_cell_that_was_not_planned_is_a_mistake_of_ours(digits: DatasetInfo) -> None:
    cell = tiny_cell(recipe=tiny_recipe(image_size=None))
    with pytest.raises(ValueError, match="was not resolved"):
        set_up(cell, digits, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("compile_mode", ["off", "graph"])
@pytest.mark.parametrize("checkpointing", ["none", "block"])
def test_on_cuda_every_combination_trains(
    digits: DatasetInfo, compile_mode: str, checkpointing: str
) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    recipe = tiny_recipe(epochs=1, dropout=0.1)
    cell = tiny_cell(RESNET, recipe=recipe, compile=compile_mode, checkpointing=checkpointing)
    made = set_up(cell, digits, device)
    step, _ = made.training_step()
    assert type(step) is (GraphedStep if compile_mode == "graph" else TrainingStep)
    losses = []
    for number in range(4):
        tally = Tally.on(device)
        for images, labels in made.loader("train").epoch(number):
            step(images, labels, tally)
        losses.append(tally.read()[0])
    assert losses[-1] < losses[0]


def test_batches_from_workers_train_as_resident_ones_do(bench: MakeBench) -> None:
    losses = {}
    for loader in ("device", "workers"):
        made = bench(loader=loader)
        step = step_of(made)
        losses[loader] = loss_of(step, made)
        _, accuracy, _ = evaluate(step.model, made.loader("val"), made.precision)
        losses[f"{loader} val"] = accuracy
    assert losses["workers"] == pytest.approx(losses["device"], rel=1e-4)
    assert losses["workers val"] == pytest.approx(losses["device val"], abs=0.01)
