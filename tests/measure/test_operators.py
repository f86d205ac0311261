"""One real step, watched: its operations equal an independent count, its operators are what they are."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.architectures import ARCHITECTURES
from cnnbench.cell import CHECKPOINTINGS, Recipe, parse_call
from cnnbench.checkpointing import apply_checkpointing, is_recomputing
from cnnbench.measure.operators import KINDS, Operation, kind_of, watch
from cnnbench.precision import BF16, Precision, precision
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.step import Tally, TrainingStep
from sample_models import SMALL, assert_equal_tensors, batch, build

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.checkpointing import Segment

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(2, 3, 32, 32)
GRANULARITIES = ("stage", "block", "activations")
aten = torch.ops.aten


def never() -> bool:
    return False


class Analysis:
    """Counts the operations of a model's convolutions and linear layers from their shapes.

    Knows nothing of operators: it sees modules, the sizes of what they take and return, and what wants
    a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self.forward: Counter[nn.Module] = Counter()
        self.backward: Counter[nn.Module] = Counter()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self.see)

    def see(self, module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            per_output = module.in_channels // module.groups * height * width
        else:
            assert isinstance(module, nn.Linear)
            per_output = module.in_features
        flops = 2 * out.numel() * per_output
        self.forward[module] += flops
        assert isinstance(module.weight, torch.Tensor)
        self.backward[module] += flops * (args[0].requires_grad + module.weight.requires_grad)

    @property
    def total(self) -> int:
        return sum(self.forward.values()) + sum(self.backward.values())


def training_step(
    model: nn.Module, mode: Precision, device: torch.device = CPU, num_images: int = 4
) -> Callable[[], None]:
    """Return the real step with its real optimizer, always on the same batch."""
    optimizer = make_optimizer(model, Recipe(optimizer="adam"), device)
    step = TrainingStep(
        model.train(), optimizer, precision=mode, device=device, label_smoothing=0.1
    )
    images, labels = (part.to(device) for part in batch(0, num_images, 32))
    tally = Tally.on(device)
    return lambda: step(images, labels, tally)


@cache
def watched(
    architecture: str, checkpointing: str = "none", precision_name: str = "fp32"
) -> tuple[Operation, ...]:
    model = build(architecture)
    apply_checkpointing(model, checkpointing, EXAMPLE)
    step = training_step(model, precision(precision_name))
    return watch(step, is_recomputing=is_recomputing)


@cache
def analysed(architecture: str) -> tuple[nn.Module, Analysis]:
    model = build(architecture)
    analysis = Analysis(model)
    training_step(model, Precision())()
    return model, analysis


def flops(operations: tuple[Operation, ...], *, recomputed: bool | None = None) -> int:
    return sum(o.flops for o in operations if recomputed in {None, o.is_recomputed})


def test_every_architecture_is_watched() -> None:
    assert {parse_call(name)[0] for name in SMALL} == set(ARCHITECTURES)


@pytest.mark.parametrize("precision_name", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", SMALL)
def test_a_steps_operations_equal_the_count_from_its_models_shapes(
    architecture: str, precision_name: str
) -> None:
    operations = watched(architecture, "none", precision_name)
    assert flops(operations) == analysed(architecture)[1].total
    assert not any(operation.is_recomputed for operation in operations)


def test_a_frozen_trunk_costs_its_forward_pass_alone() -> None:
    model, analysis = analysed("transfer_resnet50")
    last = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert sum(analysis.backward.values()) == analysis.forward[last[-1]]
    tuned = flops(watched("transfer_resnet50(frozen=False)"))
    assert 2.5 < tuned / flops(watched("transfer_resnet50")) < 3


def recomputed_modules(segments: list[Segment]) -> set[nn.Module]:
    """Return the modules inside the segments; a model that names methods keeps its linear layers out."""
    inside = {m for s in segments for owner in s.modules for m in owner.modules()}
    if any(segment.method != "forward" for segment in segments):
        inside = {module for module in inside if isinstance(module, nn.Conv2d)}
    return inside


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("architecture", SMALL)
def test_checkpointing_adds_its_segments_forward_pass_to_the_hardware_and_nothing_to_the_model(
    architecture: str, granularity: str
) -> None:
    assert {"none", *GRANULARITIES} == set(CHECKPOINTINGS)
    operations = watched(architecture, granularity)
    assert flops(operations, recomputed=False) == flops(watched(architecture))
    model, analysis = analysed(architecture)
    twin = build(architecture)
    segments, _ = apply_checkpointing(twin, granularity, EXAMPLE)
    inside = recomputed_modules(segments)
    twins = zip(model.modules(), twin.modules(), strict=True)
    expected = sum(analysis.forward[module] for module, other in twins if other in inside)
    assert bool(expected) == (architecture != "transfer_resnet50")
    again = [o.kind for o in operations if o.is_recomputed]
    assert bool(again) == bool(expected)
    if granularity == "activations":
        assert not {"convolution", "matmul"} & set(again)
    else:
        assert flops(operations, recomputed=True) == expected


@pytest.mark.parametrize("architecture", SMALL)
def test_each_operator_computes_in_the_type_that_autocast_gives_it(architecture: str) -> None:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        products = [o for o in watched(architecture, "none", name) if o.flops]
        assert products
        assert {product.dtype for product in products} == {dtype}
    losses = [o for o in watched(architecture, "none", "bf16") if o.kind == "loss"]
    assert {loss.dtype for loss in losses} == {torch.float32}


def test_a_step_has_the_kinds_that_its_layers_are_of() -> None:
    kinds = Counter(o.kind for o in watched("resnet(width=4,depth=2)", "none", "bf16"))
    assert set(kinds) <= set(KINDS)
    # 20 convolutions and as many BatchNorms, 17 ReLUs, a linear layer: forward and backward.
    assert kinds["convolution"] == kinds["normalization"] == 2 * 20
    assert kinds["activation"] == 2 * 17
    assert kinds["matmul"] == 3
    assert kinds["pooling"] == 1
    assert kinds["optimizer"] == 2  # the update, and the count of steps


def test_operators_are_those_that_run_and_not_their_parts() -> None:
    def names(architecture: str, kind: str) -> set[str]:
        return {o.name.removeprefix("aten::") for o in watched(architecture) if o.kind == kind}

    pooling = {"max_pool2d_with_indices", "max_pool2d_with_indices_backward"}
    assert names("simple_cnn(width=4,hidden=16)", "pooling") == pooling
    mbconv_net = "mbconv_net(width=0.25,depth=0.5)"
    assert names(mbconv_net, "activation") == {"silu", "silu_backward"}
    assert names(mbconv_net, "normalization") == {"native_batch_norm", "native_batch_norm_backward"}


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (aten.cudnn_batch_norm_backward.default, "normalization"),
        (aten.native_group_norm.default, "normalization"),
        (aten.linalg_vector_norm.default, "other"),
        (aten._softmax_backward_data.default, "activation"),  # noqa: SLF001 (its name)
        (aten.hardswish_.default, "activation"),
        (aten.sigmoid.default, "activation"),
        (aten.sigmoid_backward.default, "activation"),
        (aten.add_.Tensor, "elementwise"),
        (aten.mul.Tensor, "elementwise"),
        (aten._adaptive_avg_pool2d_backward.default, "pooling"),  # noqa: SLF001
        (aten.nll_loss_forward.default, "loss"),
        (aten._log_softmax.default, "loss"),  # noqa: SLF001
        (aten._to_copy.default, "copy"),  # noqa: SLF001
        (aten.copy_.default, "copy"),
        (aten.zero_.default, "copy"),
        (aten._scaled_dot_product_flash_attention.default, "matmul"),  # noqa: SLF001
        (aten.baddbmm.default, "matmul"),
        (aten._fused_sgd_.default, "optimizer"),
        (aten._amp_foreach_non_finite_check_and_unscale_.default, "optimizer"),
        (aten.sum.default, "other"),
        (aten.bernoulli_.float, "other"),
    ],
    ids=str,
)
def test_an_operator_is_of_one_kind(operator: Any, kind: str) -> None:
    assert kind_of(operator) == kind
    assert kind in KINDS


def test_views_and_allocations_are_not_among_the_operators() -> None:
    value = torch.randn(4, 6)

    def step() -> None:
        torch.empty(3).view(3, 1).squeeze_()
        value.t().reshape(2, 12)[0].detach()

    # Only the reshape of a transposed matrix moves anything.
    assert [operation.name for operation in watch(step, is_recomputing=never)] == ["aten::clone"]


def test_inside_inference_mode_the_parts_of_a_layer_are_seen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(2, 3, 8, 8)

    def step() -> None:
        with torch.inference_mode():
            model(images)

    analysis = Analysis(model)
    seen = watch(step, is_recomputing=never)
    assert [o.name for o in seen] == ["aten::convolution", "aten::addmm"]
    assert flops(seen) == sum(analysis.forward.values())


@pytest.mark.parametrize("checkpointing", CHECKPOINTINGS)
def test_a_watched_step_trains_as_an_unwatched_one(checkpointing: str) -> None:
    states = []
    for is_watched in (False, True):
        model = build("resnet(width=4,depth=2)")
        apply_checkpointing(model, checkpointing, EXAMPLE)
        step = training_step(model, BF16())
        for _ in range(2):
            if is_watched:
                watch(step, is_recomputing=is_recomputing)
            else:
                step()
        states.append(dict(model.state_dict()))
    assert_equal_tensors(*states)


def test_a_step_that_fails_fails_as_it_would_unwatched() -> None:
    def step() -> None:
        functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 2, 3, 3))

    with pytest.raises(RuntimeError, match="expected input"):
        watch(step, is_recomputing=never)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "fp16"])
@pytest.mark.parametrize("checkpointing", CHECKPOINTINGS)
@pytest.mark.parametrize("architecture", SMALL)
def test_on_cuda_a_step_has_the_same_operations(
    architecture: str, checkpointing: str, name: str
) -> None:
    device = torch.device("cuda", 0)
    model = build(architecture).to(device)
    apply_checkpointing(model, checkpointing, EXAMPLE.to(device))
    step = training_step(model, precision(name), device)
    seen = watch(step, is_recomputing=is_recomputing)
    on_cpu = watched(architecture, checkpointing)
    for recomputed in (False, True):
        assert flops(seen, recomputed=recomputed) == flops(on_cpu, recomputed=recomputed)
    assert not is_recomputing()
