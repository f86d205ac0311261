"""The bytes of single operators, worked out by hand: what must be read once and written once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.measure.operators import watch

if TYPE_CHECKING:
    from collections.abc import Callable

FLOAT, LONG = 4, 8


def never() -> bool:
    return False


def moved(function: Callable[[], object], *, only: str = "") -> int:
    """Return the bytes of all operators in `function`, or of those called `only`."""

    def step() -> None:
        function()

    seen = watch(step, is_recomputing=never)
    return sum(o.bytes for o in seen if only in {"", o.name.removeprefix("aten::")})


def gradients(function: Callable[[], torch.Tensor]) -> Callable[[], object]:
    """Return the backward pass of what `function` returns; every element's gradient is stored."""
    out = function()
    gradient = torch.randn_like(out)
    return lambda: out.backward(gradient)


def test_an_activation_reads_its_input_and_writes_its_output() -> None:
    value = torch.randn(10, 7)
    assert moved(lambda: torch.relu(value)) == 2 * 70 * FLOAT
    assert moved(lambda: torch.relu_(value)) == 2 * 70 * FLOAT
    assert moved(lambda: value.to(torch.bfloat16)) == 70 * (FLOAT + 2)


def test_an_addition_in_place_reads_both_and_writes_one() -> None:
    value, other, row = torch.randn(10, 7), torch.randn(10, 7), torch.randn(7)
    assert moved(lambda: value.add_(other)) == 3 * 70 * FLOAT
    assert moved(lambda: value.add_(row)) == (2 * 70 + 7) * FLOAT
    assert moved(lambda: value.add_(1.0)) == 2 * 70 * FLOAT


def test_a_tensor_that_is_passed_twice_is_read_once() -> None:
    value = torch.randn(10, 7)
    assert moved(lambda: torch.mul(value, value)) == 2 * 70 * FLOAT
    # Rows 0 to 7 and 2 to 9 overlap: no more is read than there is.
    assert moved(lambda: torch.cat([value[:8], value[2:]])) == (70 + 112) * FLOAT


def test_an_expanded_tensor_is_as_large_as_what_it_repeats() -> None:
    grey = torch.randn(5, 1, 4, 4)
    assert moved(lambda: grey.expand(-1, 3, -1, -1).contiguous()) == (5 * 16 + 5 * 48) * FLOAT
    assert moved(lambda: grey[0].expand(3, 4, 4).contiguous()) == (16 + 48) * FLOAT
    assert moved(lambda: torch.zeros(()).expand(10, 7) + grey[0, 0, 0, 0]) == (1 + 1 + 70 + 1) * (
        FLOAT
    )


def test_overlapping_windows_are_no_larger_than_their_storage() -> None:
    value = torch.randn(10)
    assert moved(lambda: value.unfold(0, 5, 1).clone()) == (10 + 6 * 5) * FLOAT


def test_views_and_allocations_cost_nothing() -> None:
    value = torch.randn(4, 6)
    assert moved(lambda: value.t().view(torch.int32)[1:].unsqueeze(0).detach()) == 0
    assert moved(lambda: torch.empty_like(value).resize_(3, 3)) == 0
    assert moved(lambda: torch.ops.aten._unsafe_view(value, [24])) == 0  # noqa: SLF001 (its name)


def test_what_is_overwritten_is_not_read() -> None:
    value, source = torch.randn(10, 7), torch.randn(7)
    assert moved(value.zero_) == 70 * FLOAT
    assert moved(lambda: value.fill_(3.0)) == 70 * FLOAT
    assert moved(value.uniform_) == 70 * FLOAT
    assert moved(lambda: value.bernoulli_(0.5)) == 70 * FLOAT
    assert moved(lambda: value.copy_(source)) == (70 + 7) * FLOAT
    assert moved(lambda: torch.add(source, 1.0, out=torch.empty(7))) == 2 * 7 * FLOAT


def test_of_a_pattern_only_the_shape_is_used() -> None:
    value = torch.randn(10, 7)
    assert moved(lambda: torch.ones_like(value)) == 70 * FLOAT
    assert moved(lambda: value.new_zeros(3)) == 3 * FLOAT


def test_a_gather_reads_only_what_it_delivers() -> None:
    table, rows = torch.randn(1000, 7), torch.tensor([3, 1, 999])
    whole = (3 * 7 + 3 * 7) * FLOAT + 3 * LONG
    assert moved(lambda: table.index_select(0, rows)) == whole
    assert moved(lambda: table[rows]) == whole
    assert moved(lambda: functional.embedding(rows, table)) == whole
    assert moved(lambda: table.gather(0, rows[:, None])) == 2 * 3 * FLOAT + 3 * LONG
    # Of a table of two rows no more than these.
    many = torch.zeros(100, dtype=torch.int64)
    assert moved(lambda: table[:2].index_select(0, many)) == (2 + 100) * 7 * FLOAT + 100 * LONG


def test_a_scatter_writes_only_what_it_delivers() -> None:
    table, rows, values = torch.randn(1000, 7), torch.tensor([3, 1, 999]), torch.randn(3, 7)
    assert moved(lambda: table.index_put_((rows,), values)) == 2 * 21 * FLOAT + 3 * LONG
    assert moved(lambda: table.index_add_(0, rows, values)) == 3 * 21 * FLOAT + 3 * LONG
    assert moved(lambda: table.scatter_(0, rows[:, None], 1.0)) == 3 * FLOAT + 3 * LONG
    # How much of it, nobody knows: the mask alone is sure.
    assert moved(lambda: table.masked_fill_(torch.ones(7, dtype=torch.bool), 0.0)) == 7 + 7


def test_a_strided_1x1_convolution_skips_what_lies_between_its_windows() -> None:
    images = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight = torch.randn(6, 4, 1, 1, requires_grad=True)
    pixels, filters, output = 2 * 4 * 4 * 4, 6 * 4, 2 * 6 * 4 * 4

    def convolve() -> torch.Tensor:
        return functional.conv2d(images, weight, stride=2)

    assert moved(convolve) == (pixels + filters + output) * FLOAT
    # The gradient of the input is written whole: most of it is zero.
    assert (
        moved(gradients(convolve), only="convolution_backward")
        == (output + pixels + filters + images.numel() + filters) * FLOAT
    )


def test_a_convolution_reads_and_writes_everything_where_its_windows_meet() -> None:
    images, layer = torch.randn(2, 4, 8, 8), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    sizes = images.numel() + layer.weight.numel() + 6 + 2 * 6 * 4 * 4
    assert moved(lambda: layer(images)) == sizes * FLOAT
    lifted = nn.ConvTranspose2d(4, 6, 2, stride=3, bias=False)
    assert (
        moved(lambda: lifted(images))
        == (images.numel() + lifted.weight.numel() + lifted(images).numel()) * FLOAT
    )


def test_a_gradient_that_nobody_asks_for_costs_nothing() -> None:
    images, layer = torch.randn(2, 4, 8, 8), nn.Conv2d(4, 6, 3, padding=1, bias=False)
    output, weight = 2 * 6 * 8 * 8, layer.weight.numel()
    first = moved(gradients(lambda: layer(images)), only="convolution_backward")
    assert first == (output + images.numel() + weight) * FLOAT
    layer.weight.requires_grad_(False)  # noqa: FBT003 (PyTorch's way)
    images.requires_grad_()
    frozen = moved(gradients(lambda: layer(images)), only="convolution_backward")
    assert frozen == (output + weight + images.numel()) * FLOAT


def test_pooling_reads_what_its_windows_cover() -> None:
    images = torch.randn(2, 3, 7, 7, requires_grad=True)

    def pool() -> torch.Tensor:
        return functional.max_pool2d(images, 2)

    output, covered = 2 * 3 * 3 * 3, 2 * 3 * 6 * 6
    assert moved(pool) == (covered + output) * FLOAT + output * LONG  # the positions, too
    # Of the images the gradient needs the shape alone.
    assert (
        moved(gradients(pool), only="max_pool2d_with_indices_backward")
        == (output + images.numel()) * FLOAT + output * LONG
    )
    assert moved(lambda: functional.avg_pool2d(images, 1, stride=3)) == 2 * (2 * 3 * 3 * 3) * FLOAT


def test_batch_norm_moves_its_images_and_a_few_numbers_a_channel() -> None:
    channels = 3
    images, layer = torch.randn(2, channels, 4, 4, requires_grad=True), nn.BatchNorm2d(channels)
    size, row = images.numel() * FLOAT, channels * FLOAT
    # Weight and bias; running mean and variance, read and written; those of the batch, kept.
    trained = 2 * size + (2 + 4 + 2) * row
    assert moved(lambda: layer(images), only="native_batch_norm") == trained
    # Weight, the batch's mean and variance; the gradients of weight and bias.
    backward = moved(gradients(lambda: layer(images)), only="native_batch_norm_backward")
    assert backward == 3 * size + (3 + 2) * row
    layer.eval()
    assert moved(lambda: layer(images)) == 2 * size + 4 * row
    layer.requires_grad_(False)  # noqa: FBT003
    frozen = moved(gradients(lambda: layer(images)), only="native_batch_norm_backward")
    assert frozen == 2 * size + 3 * row


def test_the_loss_picks_one_value_a_row() -> None:
    values = torch.randn(5, 100, requires_grad=True)
    labels = torch.arange(5)

    def loss() -> torch.Tensor:
        return functional.nll_loss(values, labels)

    assert moved(loss) == (5 + 2) * FLOAT + 5 * LONG  # the loss, and the number of rows
    backward = moved(gradients(loss), only="nll_loss_backward")
    assert backward == (1 + 1 + 500) * FLOAT + 5 * LONG


def parameters() -> list[nn.Parameter]:
    layers = nn.Linear(6, 4), nn.Linear(4, 2)
    found = [p for layer in layers for p in layer.parameters()]
    for parameter in found:
        parameter.grad = torch.randn_like(parameter)
    return found


def test_fused_adam_reads_four_lists_and_writes_three() -> None:
    values = parameters()
    number, numel = len(values), sum(p.numel() for p in values)
    optimizer = torch.optim.AdamW(values, fused=True)
    optimizer.step()
    # Weights, gradients and both moments; the gradients stay as they are. Each has its count of steps.
    assert moved(optimizer.step, only="_fused_adamw_") == (7 * numel + number) * FLOAT
    assert moved(optimizer.step, only="_foreach_add_") == 2 * number * FLOAT


def test_a_gradient_scaler_has_the_gradients_written_back() -> None:
    value, gradient, first, second = (torch.ones(10) for _ in range(4))

    def update() -> None:
        torch._fused_adam_(
            [value],
            [gradient],
            [first],
            [second],
            [],
            [torch.ones(())],
            lr=0.1,
            beta1=0.9,
            beta2=0.99,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=torch.ones(()),
            found_inf=torch.zeros(()),
        )

    # As above, one write more; the count, the scale and the flag.
    assert moved(update, only="_fused_adam_") == (8 * 10 + 3) * FLOAT


def test_the_first_step_of_fused_sgd_does_not_read_its_momentum() -> None:
    values = parameters()
    numel = sum(p.numel() for p in values)
    optimizer = torch.optim.SGD(values, lr=0.1, momentum=0.9, nesterov=True, fused=True)
    assert moved(optimizer.step, only="_fused_sgd_") == 4 * numel * FLOAT
    assert moved(optimizer.step, only="_fused_sgd_") == 5 * numel * FLOAT


def test_reading_one_number_back_reads_one_number() -> None:
    value = torch.randn(10)
    assert moved(value[3].item) == FLOAT


def test_what_lies_in_the_processors_memory_does_not_pass_another_devices() -> None:
    # PyTorch's device without data stands in for one with.
    assert moved(lambda: torch.randn(10, 7).to("meta"), only="_to_copy") == 70 * FLOAT


@pytest.mark.gpu
def test_on_cuda_what_lies_in_the_processors_memory_does_not_count() -> None:
    value = torch.randn(10, 7)
    assert moved(lambda: value.to("cuda")) == 70 * FLOAT
    there = value.to("cuda")
    assert moved(there.cpu) == 70 * FLOAT
    assert moved(lambda: there * torch.tensor(2.0)) == 2 * 70 * FLOAT


@pytest.mark.gpu
def test_on_cuda_batch_norm_moves_the_same_as_on_a_cpu() -> None:
    images, layer = torch.randn(2, 3, 4, 4), nn.BatchNorm2d(3)
    kinds = {"native_batch_norm", "cudnn_batch_norm"}
    on_cuda = layer.to("cuda")
    inputs = images.to("cuda")
    found = {name: moved(lambda: on_cuda(inputs), only=name) for name in kinds}
    assert sum(found.values()) == (2 * images.numel() + 8 * 3) * FLOAT
