"""Checkpointing changes the memory and the time of a step, and no number that it computes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from cnnbench.architectures import ARCHITECTURES
from cnnbench.cell import CHECKPOINTINGS, parse_call
from cnnbench.checkpointing import (
    FROZEN_NOTE,
    apply_checkpointing,
    find_segments,
    is_recomputing,
)
from cnnbench.errors import UnsupportedError
from cnnbench.measure.memory import MemoryMeter
from sample_models import (
    SMALL,
    Trained,
    assert_equal_tensors,
    backward,
    batch,
    build,
    train,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GRANULARITIES = ("stage", "block", "activations")
# Which recompute all of a segment.
WHOLE = ("stage", "block")
EXAMPLE = torch.zeros(2, 3, 32, 32)

ELSEWHERE = (
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:efficientnet_b0",  # stochastic depth
    "torchvision:densenet121",  # blocks that share one growing list
    "torchvision:densenet121(drop_rate=0.2)",  # dropout that is no module
    "torchvision:vgg11_bn(init_weights=False)",  # flat rows of simple layers, and dropout
    "torchvision:convnext_tiny",
    "torchvision:googlenet",
    "timm:resnet18",
    "timm:resnet18(drop_path_rate=0.5)",
    "timm:efficientnet_b0",
    "timm:convnext_atto",
)


@cache
def trained(architecture: str, checkpointing: str) -> Trained:
    return train(build(architecture), checkpointing)


def trained_elsewhere(architecture: str, checkpointing: str, seed: int = 0) -> Trained:
    model = build(architecture, 64)
    return train(model, checkpointing, num_steps=1, image_size=64, batch_size=2, seed=seed)


class ConvolutionCounter(TorchDispatchMode):
    """Counts how often each filter bank convolves, in the forward pass and while recomputing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {p.data_ptr(): name for name, p in model.named_parameters()}
        self.counts: Counter[str] = Counter()
        self.recomputed: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            name = self.names[args[1].data_ptr()]
            self.counts[name] += 1
            self.recomputed[name] += is_recomputing()
        return func(*args, **(kwargs or {}))


def watch_convolutions(model: nn.Module) -> ConvolutionCounter:
    counter = ConvolutionCounter(model)
    with counter:
        backward(model.train(), *batch(0, 4, 32))
    return counter


def count_convolutions(model: nn.Module) -> Counter[str]:
    return watch_convolutions(model).counts


def peak_bytes(model: nn.Module, batch_size: int) -> int:
    images, labels = batch(0, batch_size, 32)

    def step() -> None:
        model.zero_grad()
        backward(model, images, labels)

    step()
    memory = MemoryMeter().read(step, held=lambda: (), data_bytes=0)
    assert memory.peak_allocated_bytes is not None
    return memory.peak_allocated_bytes


def test_every_architecture_is_among_the_small_ones() -> None:
    assert {parse_call(name)[0] for name in SMALL} == set(ARCHITECTURES)
    assert {"none", *GRANULARITIES} == set(CHECKPOINTINGS)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("architecture", SMALL)
def test_gradients_parameters_and_buffers_equal_the_plain_run_bit_for_bit(
    architecture: str, granularity: str
) -> None:
    plain, ours = trained(architecture, "none"), trained(architecture, granularity)
    assert ours.segments or ours.notes == (FROZEN_NOTE,)
    assert_equal_tensors(ours.gradients, plain.gradients)
    # Its keys are the plain model's, too, so that checkpoints of weights load into either.
    assert_equal_tensors(ours.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("architecture", ELSEWHERE)
def test_models_from_elsewhere_are_cut_by_themselves_and_compute_the_same(
    architecture: str,
) -> None:
    plain = trained_elsewhere(architecture, "none")
    for granularity in GRANULARITIES:
        ours = trained_elsewhere(architecture, granularity)
        assert len(ours.segments) > 1
        assert_equal_tensors(ours.gradients, plain.gradients)
        assert_equal_tensors(ours.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("architecture", [name for name in SMALL if "cnn" not in name])
def test_statistics_are_counted_once_a_step(architecture: str) -> None:
    state = trained(architecture, "block").model.state_dict()
    counts = {int(value) for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert counts == ({0} if architecture == "transfer_resnet50" else {2})


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("architecture", SMALL)
def test_evaluation_afterwards_equals_the_plain_one(architecture: str, granularity: str) -> None:
    images, _ = batch(7, 8, 32)
    plain, ours = trained(architecture, "none").model, trained(architecture, granularity).model
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("granularity", WHOLE)
@pytest.mark.parametrize("architecture", [name for name in SMALL if name != "transfer_resnet50"])
def test_each_segment_runs_twice_and_the_rest_once(architecture: str, granularity: str) -> None:
    plain = count_convolutions(build(architecture))
    assert set(plain.values()) == {1}
    model = build(architecture)
    segments, _ = apply_checkpointing(model, granularity, EXAMPLE)
    names = {id(p): name for name, p in model.named_parameters()}
    inside = {names[id(p)] for s in segments for m in s.modules for p in m.parameters()}
    counts = count_convolutions(model)
    assert counts == {name: 2 if name in inside else 1 for name in plain}
    assert 2 in counts.values()


@pytest.mark.parametrize("granularity", WHOLE)
@pytest.mark.parametrize("architecture", SMALL)
def test_the_second_pass_of_a_segment_is_told_from_the_first(
    architecture: str, granularity: str
) -> None:
    model = build(architecture)
    apply_checkpointing(model, granularity, EXAMPLE)
    seen = watch_convolutions(model)
    assert seen.counts == {name: 1 + again for name, again in seen.recomputed.items()}
    assert not is_recomputing()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    ("architecture", "batch_size"),
    [
        ("simple_cnn", 64),
        ("resnet(width=16,depth=2)", 16),
        ("mbconv_net(width=0.25,depth=1)", 32),
        ("transfer_resnet50(frozen=False)", 96),
    ],
)
def test_the_peak_falls(architecture: str, granularity: str, batch_size: int) -> None:
    plain = peak_bytes(build(architecture), batch_size)
    model = build(architecture)
    apply_checkpointing(model, granularity, EXAMPLE)
    assert peak_bytes(model, batch_size) < plain


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_frozen_trunk_has_nothing_to_recompute_and_says_so(granularity: str) -> None:
    model = build("transfer_resnet50")
    segments, notes = apply_checkpointing(model, granularity, EXAMPLE)
    assert (segments, notes) == ([], (FROZEN_NOTE,))
    assert set(count_convolutions(model).values()) == {1}


def test_stages_are_rows_of_blocks_of_one_resolution() -> None:
    model = build("resnet(width=4,depth=2)")
    names = {module: name for name, module in model.named_modules()}
    stages = [[names[m] for m in s.modules] for s in find_segments(model, "stage", EXAMPLE)]
    assert stages == [
        ["stem.0", "stem.1", "stem.2", "stage1.0", "stage1.1"],
        ["stage2.0", "stage2.1"],
        ["stage3.0", "stage3.1"],
        ["stage4.0", "stage4.1"],
    ]


@pytest.mark.parametrize(("granularity", "number"), [("stage", 4), ("block", 16)])
def test_a_model_inside_a_wrapper_is_cut_like_the_model(granularity: str, number: int) -> None:
    model = build("transfer_resnet50(frozen=False)")
    assert len(find_segments(model, granularity, EXAMPLE)) == number


def test_finding_segments_leaves_the_model_and_the_random_state_as_they_were() -> None:
    model = build("torchvision:efficientnet_b0")
    model.get_submodule("classifier").eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    find_segments(model, "block", EXAMPLE)
    assert [module.training for module in model.modules()] == modes
    assert_equal_tensors(dict(model.state_dict()), state)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())  # noqa: SLF001 (no public list exists)


@pytest.mark.parametrize(
    "architecture",
    ["torchvision:efficientnet_b0", "timm:resnet18(drop_path_rate=0.5)"],
)
def test_what_draws_random_numbers_is_noticed_and_only_that(architecture: str) -> None:
    segments = find_segments(build(architecture, 64), "block", torch.zeros(2, 3, 64, 64))
    assert {segment.draws_random for segment in segments} == {False, True}
    ours, other = (trained_elsewhere(architecture, "none", seed).gradients for seed in (0, 1))
    differ = [not torch.equal(gradient, other[name]) for name, gradient in ours.items()]
    assert any(differ), "another seed must give other gradients, or nothing was drawn"


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_random_numbers_are_not_drawn_again_inside_a_recorded_graph(granularity: str) -> None:
    model = build("timm:resnet18(drop_path_rate=0.5)")
    before = [vars(module).copy() for module in model.modules()]
    with pytest.raises(UnsupportedError, match=f"checkpointing={granularity} with compile=graph"):
        apply_checkpointing(model, granularity, EXAMPLE, captured=True)
    assert [vars(module) for module in model.modules()] == before
    plain = build("timm:resnet18")
    assert apply_checkpointing(plain, granularity, EXAMPLE, captured=True)[0]
    assert apply_checkpointing(model, "none", EXAMPLE, captured=True) == ([], ())


def test_the_documents_own_models_draw_nothing() -> None:
    segments = [s for name in SMALL for s in find_segments(build(name), "block", EXAMPLE)]
    assert segments
    assert not any(segment.draws_random for segment in segments)


class Block(nn.Module):
    """A convolution with statistics, which may begin by overwriting its input."""

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=in_place)
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(self.first(x)) + 1


class Net(nn.Module):
    """A stem, blocks that run in order, and a head."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class TwiceThrough(Net):
    """Runs its first block twice."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.blocks[0](self.stem(x))
        return self.fc(self.blocks[1](self.blocks[0](x)).mean((2, 3)))


class SpectralBlock(nn.Module):
    """A convolution whose filters are divided by an estimate that each pass refines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: torch.Tensor) -> Any:
        return functional.relu(self.conv(x))


class RandomMethods(nn.Module):
    """A model that names its segments itself, one of which drops some of its values."""

    checkpoint_methods = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.second(self.first(x)))

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(functional.relu(self.conv(x)), 0.5, training=self.training)

    def second(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x).mean((2, 3))


class Asking(Block):
    """A block that asks in each pass, in another thread, whether it is being recomputed."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.answers: list[bool] = []

    def forward(self, x: torch.Tensor) -> Any:
        with ThreadPoolExecutor(1) as pool:
            self.answers.append(pool.submit(is_recomputing).result())
        if self.fails and is_recomputing():
            msg = "the second pass fails"
            raise RuntimeError(msg)
        return super().forward(x)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(Block(), Block(in_place=True), Block()),
        lambda: TwiceThrough(Block(), Block()),
        lambda: Net(SpectralBlock(), SpectralBlock()),
        RandomMethods,
    ],
    ids=["in_place", "twice", "spectral", "methods"],
)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_users_own_model_trains_as_it_would_plainly(
    make: Callable[[], nn.Module], granularity: str
) -> None:
    plain = train(seeded(make))
    ours = train(seeded(make), granularity)
    assert ours.segments
    assert_equal_tensors(ours.gradients, plain.gradients)
    assert_equal_tensors(ours.model.state_dict(), plain.model.state_dict())


def test_a_segment_that_begins_in_place_is_left_out() -> None:
    model = Net(Block(), Block(in_place=True), Block())
    segments = find_segments(model, "block", EXAMPLE)
    assert [segment.name for segment in segments] == ["blocks.0", "blocks.2"]


def test_a_block_that_runs_twice_is_left_out() -> None:
    segments = find_segments(TwiceThrough(Block(), Block()), "block", EXAMPLE)
    assert [segment.name for segment in segments] == ["blocks.1"]


def test_every_thread_is_told_of_a_recomputation() -> None:
    model = Net(Asking(), Asking())
    apply_checkpointing(model, "block", EXAMPLE)
    backward(model, *batch(0, 4, 32))
    # Finding the segments, the first pass, and the second.
    assert [block.answers for block in model.blocks] == [[False, False, True]] * 2


def test_a_recomputation_that_fails_is_over() -> None:
    model = Net(Block(), Asking(fails=True))
    apply_checkpointing(model, "block", EXAMPLE)
    with pytest.raises(RuntimeError, match="the second pass fails"):
        backward(model, *batch(0, 4, 32))
    assert not is_recomputing()


@pytest.mark.gpu
def test_on_cuda_autograds_own_thread_is_told_from_the_first_pass() -> None:
    model = Net(Asking(), Asking()).to("cuda")
    apply_checkpointing(model, "block", EXAMPLE.to("cuda"))
    images, labels = batch(0, 4, 32)
    backward(model, images.to("cuda"), labels.to("cuda"))
    assert [block.answers for block in model.blocks] == [[False, False, True]] * 2


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_model_without_blocks_is_unsupported_by_name(granularity: str) -> None:
    with pytest.raises(UnsupportedError, match=f"checkpointing={granularity}: .* in Net"):
        apply_checkpointing(Net(), granularity, EXAMPLE)


def test_without_checkpointing_the_model_is_not_touched() -> None:
    model = build("resnet(width=4,depth=2)")
    assert apply_checkpointing(model, "none", EXAMPLE) == ([], ())
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_evaluation_recomputes_nothing() -> None:
    model = build("resnet(width=4,depth=2)")
    apply_checkpointing(model, "block", EXAMPLE)
    with torch.no_grad(), ConvolutionCounter(model) as counter:
        model.eval()(EXAMPLE)
    assert set(counter.counts.values()) == {1}


def test_compiled_checkpointing_keeps_batchnorm_statistics() -> None:
    plain = train(seeded(lambda: Net(Block(), Block())))
    model = seeded(lambda: Net(Block(), Block()))
    model.compile()
    ours = train(model, "block")
    assert len(ours.segments) == 2
    state, plain_state = ours.model.state_dict(), plain.model.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            assert int(value) == 2, name
        else:
            torch.testing.assert_close(value, plain_state[name], rtol=1e-4, atol=1e-5)
