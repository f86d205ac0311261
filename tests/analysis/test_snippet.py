"""The snippet trains as the cell does: it runs as printed, in that precision, recomputing those parts."""

from __future__ import annotations

import ast
import itertools
from typing import Any

import pytest
import torch

from cnnbench import build
from cnnbench.analysis.snippet import SEGMENTS, snippet
from cnnbench.cell import (
    CHECKPOINTINGS,
    COMPILES,
    MEMORY_FORMATS,
    OPTIMIZERS,
    PRECISIONS,
    Cell,
    Recipe,
)
from cnnbench.checkpointing import find_segments

RECIPE = Recipe(image_size=16, num_classes=10, weights="none")
SMALL = ("simple_cnn(width=4)", "resnet(width=8,depth=1)", "mbconv_net(width=0.25,depth=0.25)")


def run(architecture: str, **settings: Any) -> dict[str, Any]:
    """Run a snippet as a program, and return its names."""
    recipe = settings.pop("recipe", RECIPE)
    cell = Cell(architecture=architecture, batch_size=8, recipe=recipe, **settings)
    names: dict[str, Any] = {"__name__": "__main__"}
    torch.manual_seed(0)
    exec(compile(snippet(cell), "snippet.py", "exec"), names)  # noqa: S102 - what is tested
    return names


def test_every_setting_has_a_program() -> None:
    names = (*SMALL, "transfer_resnet50", "torchvision:resnet18", "my.models:net(depth=3)")
    axes = (names, PRECISIONS, CHECKPOINTINGS, MEMORY_FORMATS, COMPILES, OPTIMIZERS)
    for name, precision, checkpointing, layout, compiled, optimizer in itertools.product(*axes):
        cell = Cell(
            architecture=name,
            precision=precision,
            checkpointing=checkpointing,
            memory_format=layout,
            compile=compiled,
            recipe=Recipe(optimizer=optimizer, dropout=0.1, label_smoothing=0.1),
        )
        ast.parse(snippet(cell))


@pytest.mark.parametrize("architecture", SMALL)
def test_it_runs_as_printed(architecture: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(
        architecture, precision="bf16", checkpointing="block", memory_format="channels_last"
    )
    assert capsys.readouterr().out.startswith("loss ")
    images, labels = names["batch"]()
    assert images.shape == (8, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert names["step"](images, labels).isfinite()


@pytest.mark.parametrize("checkpointing", ["stage", "block", "activations"])
@pytest.mark.parametrize("architecture", SMALL)
def test_recomputing_changes_neither_weights_nor_statistics(
    architecture: str, checkpointing: str
) -> None:
    plain = run(architecture)["model"].state_dict()
    recomputed = run(architecture, checkpointing=checkpointing)["model"].state_dict()
    assert plain.keys() == recomputed.keys()
    for name, value in plain.items():
        assert torch.equal(value, recomputed[name]), name


def test_dropout_and_another_optimizer_are_those_of_the_cell() -> None:
    recipe = Recipe(image_size=16, num_classes=10, dropout=0.3, optimizer="sgd", weight_decay=0.1)
    names = run(SMALL[0], recipe=recipe)
    [dropout] = [m for m in names["model"].modules() if isinstance(m, torch.nn.Dropout)]
    assert dropout.p == 0.3
    assert isinstance(names["optimizer"], torch.optim.SGD)
    assert names["optimizer"].param_groups[0]["weight_decay"] == 0.1


def test_momentum_begins_at_zero_where_the_first_step_may_overflow() -> None:
    recipe = Recipe(image_size=16, num_classes=10, optimizer="sgd")
    names = run(SMALL[0], precision="fp16", recipe=recipe)
    assert names["loss"].isfinite()
    preset = 'state[p]["momentum_buffer"] = torch.zeros_like(p)'
    for precision in PRECISIONS:
        text = snippet(Cell(architecture=SMALL[0], precision=precision, recipe=recipe))
        assert (preset in text) == (precision == "fp16")


def test_a_model_from_elsewhere_is_recomputed_too() -> None:
    names = run("torchvision:squeezenet1_1", checkpointing="block", recipe=Recipe(image_size=32))
    assert names["loss"].isfinite()


@pytest.mark.parametrize(
    ("name", "granularity", "architecture"),
    [
        (*key, {"resnet": "resnet(width=8)", "mbconv_net": "mbconv_net(width=0.25)"}.get(key[0]))
        for key in SEGMENTS
    ],
)
def test_the_named_segments_are_those_that_cells_recompute(
    name: str, granularity: str, architecture: str | None
) -> None:
    model = build(architecture or f"{name}(frozen=False)", num_classes=10, image_size=32)
    net = model.model if name == "transfer_resnet50" else model
    named = eval(f"[{SEGMENTS[name, granularity].rstrip(',')}]", {"net": net})  # noqa: S307 - our own
    found = find_segments(model, granularity, torch.zeros(2, 3, 32, 32))
    leaves = [[m for one in part for m in one.modules()] for part in named]
    expected = [[m for one in part.modules for m in one.modules()] for part in found]
    assert [_weights(part) for part in leaves] == [_weights(part) for part in expected]


def _weights(modules: list[torch.nn.Module]) -> list[int]:
    """Return the identities of the weights that a segment holds, each once, in order."""
    return [id(weight) for m in modules for weight in m.parameters(recurse=False)]
