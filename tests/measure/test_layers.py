"""The step layer by layer: nothing lost, nothing counted twice, each operator where it belongs."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.cell import CHECKPOINTINGS, Recipe
from cnnbench.checkpointing import apply_checkpointing, is_recomputing
from cnnbench.environment import Peak, Peaks
from cnnbench.measure.layers import (
    COLUMNS,
    PHASES,
    CudaTimer,
    Layer,
    Timer,
    layer_table,
    timer,
    write_layers,
)
from cnnbench.measure.operators import watch
from cnnbench.measure.roofline import roofline
from cnnbench.precision import BF16, Precision
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.step import Tally, TrainingStep
from sample_models import SMALL, batch, build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(2, 3, 32, 32)
PEAKS = Peaks(
    flops={name: Peak(matmul=1e11, convolution=2e11) for name in ("fp32", "bf16")},
    bytes_per_second=1e10,
)


def training_step(
    model: nn.Module, mode: Precision, device: torch.device = CPU
) -> Callable[[], None]:
    optimizer = make_optimizer(model, Recipe(optimizer="adam"), device)
    step = TrainingStep(model.train(), optimizer, precision=mode, device=device)
    images, labels = (part.to(device) for part in batch(0, 4, 32))
    tally = Tally.on(device)
    return lambda: step(images, labels, tally)


def table(
    step: Callable[[], None], model: nn.Module, device: torch.device = CPU, repeats: int = 1
) -> tuple[Layer, ...]:
    return layer_table(
        step,
        model,
        PEAKS,
        "fp32",
        is_recomputing=is_recomputing,
        device=device,
        repeats=repeats,
    )


@cache
def layers_of(architecture: str, checkpointing: str) -> tuple[nn.Module, tuple[Layer, ...]]:
    model = build(architecture)
    apply_checkpointing(model, checkpointing, EXAMPLE)
    return model, table(training_step(model, Precision()), model)


def flops_by_module(layers: tuple[Layer, ...], phase: str) -> dict[str, int]:
    return {layer.module: layer.flops for layer in layers if layer.phase == phase and layer.flops}


@pytest.mark.parametrize("checkpointing", CHECKPOINTINGS)
@pytest.mark.parametrize("architecture", SMALL)
def test_the_rows_add_up_to_the_step(architecture: str, checkpointing: str) -> None:
    _, layers = layers_of(architecture, checkpointing)
    model = build(architecture)
    apply_checkpointing(model, checkpointing, EXAMPLE)
    operations = watch(training_step(model, Precision()), is_recomputing=is_recomputing)
    whole = roofline(operations, PEAKS, "fp32")
    assert sum(layer.num_operators for layer in layers) == len(operations)
    assert sum(layer.flops for layer in layers) == whole.hardware_flops
    assert sum(layer.bytes for layer in layers) == sum(kind.bytes for kind in whole.operators)
    assert sum(layer.bound_seconds for layer in layers) == pytest.approx(whole.bound_seconds)
    recomputed = sum(layer.flops for layer in layers if layer.phase == "recompute")
    assert recomputed == whole.hardware_flops - whole.model_flops
    places = [(layer.module, layer.phase) for layer in layers]
    assert len(places) == len(set(places))
    assert {phase for _, phase in places} <= set(PHASES)


@pytest.mark.parametrize("checkpointing", CHECKPOINTINGS)
@pytest.mark.parametrize("architecture", SMALL)
def test_products_belong_to_the_layers_that_own_their_weights(
    architecture: str, checkpointing: str
) -> None:
    model, layers = layers_of(architecture, checkpointing)
    named = dict(model.named_modules())
    owners = {n for n, m in named.items() if isinstance(m, nn.Conv2d | nn.Linear)}
    forward = flops_by_module(layers, "forward")
    assert set(forward) == owners
    trained = [n for n in named if n in owners and next(named[n].parameters()).requires_grad]
    backward = flops_by_module(layers, "backward")
    assert set(backward) == set(trained)
    for number, name in enumerate(trained):
        # The first trained layer's input needs no gradient.
        assert backward[name] == (1 if number == 0 else 2) * forward[name], name
    again = flops_by_module(layers, "recompute")
    assert again == {name: forward[name] for name in again}
    repeats = checkpointing not in {"none", "activations"}
    assert bool(again) == (repeats and architecture != "transfer_resnet50")


@pytest.mark.parametrize("checkpointing", CHECKPOINTINGS)
def test_normalisation_and_activations_belong_to_their_modules_in_both_directions(
    checkpointing: str,
) -> None:
    model, layers = layers_of("resnet(width=4,depth=2)", checkpointing)
    phases = defaultdict(set)
    for layer in layers:
        phases[layer.module].add(layer.phase)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert all({"forward", "backward"} <= phases[name] for name in norms)
    # What a block adds and activates by functions is its own; so is what the model pools.
    assert {"forward", "backward"} <= phases["stage1.0"] & phases["ResNet"]
    assert phases[""] >= {"other", "backward", "optimizer"}  # the loss, and the update
    names = {*dict(model.named_modules()), "ResNet"}
    assert set(phases) <= names


class Branches(nn.Module):
    """Two convolutions on one input, an in-place activation, and an in-place sum."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 5, padding=2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.left(images)
        out += self.right(images)
        out = self.act(out).clone()
        out[:, 0] *= 2  # a view, changed in place
        return out


def test_branches_and_changes_in_place_keep_their_gradients_apart() -> None:
    model, stem = Branches(), nn.Conv2d(3, 3, 1)
    whole = nn.Sequential(stem, model)
    images = torch.randn(2, 3, 8, 8)

    def step() -> None:
        whole(images).square().mean().backward()

    layers = table(step, whole)
    forward, backward = (flops_by_module(layers, phase) for phase in ("forward", "backward"))
    assert forward == {
        "0": 2 * 2 * 64 * 3 * 3,
        "1.left": 2 * 2 * 64 * 4 * 3 * 9,
        "1.right": 2 * 2 * 64 * 4 * 3 * 25,
    }
    assert backward == {
        "0": forward["0"],
        "1.left": 2 * forward["1.left"],
        "1.right": 2 * forward["1.right"],
    }
    found = {(layer.module, layer.phase): layer for layer in layers}
    activation = 2 * 4 * 64 * 4  # bytes of what it takes and returns
    assert found["1.act", "forward"].bytes == 2 * activation
    assert found["1.act", "backward"].bytes == 3 * activation


class Shared(nn.Module):
    """One layer, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(functional.relu(self.layer(rows)))  # type: ignore[no-any-return]


def test_a_gradient_that_is_added_up_belongs_to_its_parameters_module() -> None:
    model = Shared()
    model(torch.randn(3, 6)).sum().backward()
    rows = torch.randn(3, 6)

    def step() -> None:
        model(rows).sum().backward()

    found = {(layer.module, layer.phase): layer for layer in table(step, model)}
    product = 2 * 3 * 6 * 6
    assert found["layer", "forward"].flops == 2 * product
    assert found["layer", "backward"].flops == 3 * product
    # What else ran backward is the activation between the two.
    assert {module for module, phase in found if phase == "backward"} == {"layer", "Shared"}


def test_each_operator_is_timed() -> None:
    model = build("simple_cnn(width=4,hidden=16)")
    layers = table(training_step(model, BF16()), model, repeats=3)
    assert all(layer.seconds > 0 for layer in layers)
    assert all(layer.fraction is not None and layer.fraction > 0 for layer in layers)


def test_the_step_runs_as_often_as_asked() -> None:
    model, row, calls = nn.Linear(3, 2), torch.ones(1, 3), []

    def step() -> None:
        calls.append(model(row))

    assert len(table(step, model, repeats=4)) == 1
    assert len(calls) == 4


LAYER = Layer(
    module="stage1.0.conv1",
    phase="backward",
    num_operators=2,
    seconds=0.5,
    bound_seconds=0.25,
    bytes_bound_seconds=0.125,
    flops=3,
    bytes=4,
)


def test_a_layer_tells_what_bounds_it_and_how_far_it_is_from_that() -> None:
    assert (LAYER.bound_by, LAYER.fraction) == ("bytes", 0.5)
    flops = Layer(**{**vars(LAYER), "bytes_bound_seconds": 0.1, "seconds": 0.0})
    assert (flops.bound_by, flops.fraction) == ("flops", None)


def test_the_rows_are_written_and_read_back(tmp_path: Path) -> None:
    _, layers = layers_of("simple_cnn(width=4,hidden=16)", "block")
    path = tmp_path / "layers.csv"
    write_layers(layers, path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row, layer in zip(rows, layers, strict=True):
        assert row["module"] == layer.module
        assert (row["phase"], row["bound_by"]) == (layer.phase, layer.bound_by)
        assert int(row["flops"]) == layer.flops
        assert int(row["bytes"]) == layer.bytes
        assert float(row["seconds"]) == layer.seconds
        assert float(row["fraction"]) == layer.fraction


def test_the_timer_suits_the_device_and_keeps_the_order() -> None:
    clock = timer(CPU)
    assert type(clock) is Timer
    assert clock.run(torch.ops.aten.ones.default, ([2],), {}).tolist() == [1.0, 1.0]
    clock.run(torch.ops.aten.zeros.default, ([2],), {})
    assert len(clock.read()) == 2


@pytest.mark.gpu
def test_on_cuda_the_operators_times_do_not_hold_the_watching() -> None:
    device = torch.device("cuda", 0)
    assert type(timer(device)) is CudaTimer
    side = 4096
    matrix = torch.randn(side, side, device=device)
    model = nn.Linear(side, side, bias=False).to(device)

    def step() -> None:
        model(matrix)
        model(matrix[:1])

    step()
    layers = table(step, model, device, repeats=3)
    both = sum(layer.seconds for layer in layers)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(10):
        step()
    end.record()
    torch.cuda.synchronize()
    alone = start.elapsed_time(end) / 1e3 / 10
    # Two products of which one is large: pauses and watching would show many times over.
    assert 0.5 * alone < both < 2 * alone


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", CHECKPOINTINGS)
@pytest.mark.parametrize("architecture", SMALL)
def test_on_cuda_the_layers_are_those_of_a_cpu(architecture: str, checkpointing: str) -> None:
    device = torch.device("cuda", 0)
    model = build(architecture).to(device)
    apply_checkpointing(model, checkpointing, EXAMPLE.to(device))
    layers = table(training_step(model, Precision(), device), model, device)
    _, on_cpu = layers_of(architecture, checkpointing)
    for phase in ("forward", "backward", "recompute"):
        assert flops_by_module(layers, phase) == flops_by_module(on_cpu, phase)
    assert all(layer.seconds > 0 for layer in layers)
