"""A model cut into consecutive parts computes what it did, each weight in one part, none much dearer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnbench.checkpointing import apply_checkpointing
from cnnbench.errors import UnsupportedError
from cnnbench.training.cut import cut
from sample_models import SMALL, batch, build

EXAMPLE = torch.zeros(2, 3, 32, 32)
TRAINED = [name for name in SMALL if name != "transfer_resnet50"]


def passed_on(parts: tuple[nn.Module, ...], images: torch.Tensor) -> torch.Tensor:
    for part in parts:
        images = part(images)
    return images


@pytest.mark.parametrize("num_parts", [2, 4])
@pytest.mark.parametrize("name", [*TRAINED, "torchvision:shufflenet_v2_x0_5"])
def test_the_parts_compute_what_the_whole_does(name: str, num_parts: int) -> None:
    model = build(name).train()
    parts = cut(model, num_parts, EXAMPLE).parts
    images, _ = batch(0, 4, 32)
    torch.manual_seed(0)
    whole = model(images)
    torch.manual_seed(0)
    assert torch.equal(passed_on(parts, images), whole)
    owned = [parameter for part in parts for parameter in part.parameters()]
    assert all(list(part.parameters()) for part in parts)
    assert [id(p) for p in owned] == [id(p) for p in model.parameters()]


def test_cutting_changes_neither_statistics_nor_random_numbers() -> None:
    model = build("resnet(width=4,depth=1)").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    cut(model, 2, EXAMPLE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_the_borders_lie_between_blocks_where_the_dearest_part_is_cheapest() -> None:
    made = cut(build("resnet(width=4,depth=2)").train(), 4, EXAMPLE)
    assert made.borders == ("stage2.0", "stage3.0", "stage4.0")
    assert max(made.flops) / sum(made.flops) < 0.32


def test_no_segment_that_is_recomputed_is_cut() -> None:
    model = build("mbconv_net(width=0.25,depth=0.5)").train()
    alone = cut(model, 2, EXAMPLE)
    segments, _ = apply_checkpointing(model, "stage", EXAMPLE)
    made = cut(model, 2, EXAMPLE, segments)
    assert (alone.borders, made.borders) == (("stages.4.1",), ("stages.5.0",))


class Twice(nn.Module):
    """Uses the weights of its first layer again at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.between = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shared: torch.Tensor = self.shared(
            self.between(self.shared(x.mean((2, 3)).repeat(1, 3)[:, :8]))
        )
        return shared


class Undecided(nn.Module):
    """Computes another thing where its input is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() < 0 else self.layers(x).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Twice(), "Twice has 0 places to cut it, too few for 2 parts"),
        (Undecided(), "cannot follow the forward pass of Undecided to cut it"),
    ],
)
def test_what_cannot_be_cut_says_why(model: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        cut(model, 2, EXAMPLE)


def test_methods_that_are_recomputed_are_not_cut() -> None:
    model = build("simple_cnn(width=4,hidden=16)")
    segments, _ = apply_checkpointing(model, "stage", EXAMPLE)
    with pytest.raises(UnsupportedError, match="between methods"):
        cut(model, 2, EXAMPLE, segments)
