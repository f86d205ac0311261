"""The memory meter, held against steps whose memory can be counted by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.measure.gpu import Gpu
from cnnbench.measure.memory import CudaMemoryMeter, MemoryMeter, memory_meter
from fresh_memory import MIB, fresh_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.measurement import Memory

WEIGHTS_BYTES = 4 * 2000 * 2000


def peak(memory: Memory) -> int:
    assert memory.peak_allocated_bytes is not None
    return memory.peak_allocated_bytes


def read(step: Callable[[], None], held: Callable[[], Iterator[torch.Tensor]]) -> Memory:
    return MemoryMeter().read(step, held=held, data_bytes=123)


def nothing() -> Iterator[torch.Tensor]:
    yield from ()


def test_the_peak_counts_what_is_alive_at_once() -> None:
    def step() -> None:
        a = torch.empty(4 * MIB, dtype=torch.uint8)
        b = torch.empty(8 * MIB, dtype=torch.uint8)
        del a
        c = torch.empty(2 * MIB, dtype=torch.uint8)
        del b, c
        torch.empty(5 * MIB, dtype=torch.uint8)

    memory = read(step, nothing)
    assert peak(memory) == 12 * MIB
    assert memory.data_bytes == 123


def test_activations_grow_with_the_batch_and_the_rest_does_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def peak_at(batch_size: int) -> int:
        def step() -> None:
            model.zero_grad()
            model(torch.zeros(batch_size, 3, 32, 32)).sum().backward()

        step()
        return peak(read(step, model.parameters))

    small, large, larger = (peak_at(size) for size in (16, 32, 64))
    assert larger - large == pytest.approx(2 * (large - small), rel=0.2)


def test_a_tensor_that_is_held_twice_counts_once() -> None:
    tensor = torch.zeros(MIB, dtype=torch.uint8)
    once = read(lambda: None, lambda: iter([tensor]))
    twice = read(lambda: None, lambda: iter([tensor, tensor.view(2, -1), tensor[:7]]))
    assert peak(once) == peak(twice) == MIB


def test_the_processs_peak_is_above_what_it_had_before() -> None:
    meter = MemoryMeter()

    def step() -> None:
        fresh_memory(96).close()

    step()
    memory = meter.read(step, held=nothing, data_bytes=0)
    assert memory.process_bytes is not None
    assert 90 * MIB < memory.process_bytes < 400 * MIB
    assert meter.last_peak().process_bytes is not None


def test_what_a_cpu_does_not_have_is_unknown() -> None:
    memory = read(lambda: None, nothing)
    assert memory.peak_reserved_bytes is None
    assert memory.num_alloc_retries is None
    assert memory.setup_peak_bytes is None


def test_the_meter_suits_the_device() -> None:
    assert type(memory_meter(torch.device("cpu"))) is MemoryMeter


def test_cudas_meter_is_made_before_the_process_is_on_the_gpu() -> None:
    program = (
        "import torch; from cnnbench.measure.memory import memory_meter;"
        " memory_meter(torch.device('cuda', 0)); assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.gpu
def test_cudas_meter_leaves_the_set_up_and_the_data_out() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    held_before = torch.cuda.memory_allocated(device)
    data = torch.zeros(64 * MIB, dtype=torch.uint8, device=device)
    meter = memory_meter(device)
    assert type(meter) is CudaMemoryMeter
    torch.zeros(512 * MIB, dtype=torch.uint8, device=device)
    meter.steady_state()
    torch.zeros(128 * MIB, dtype=torch.uint8, device=device)
    memory = meter.read(lambda: None, held=nothing, data_bytes=data.nbytes)
    assert peak(memory) - held_before == 128 * MIB
    assert memory.setup_peak_bytes is not None
    assert memory.setup_peak_bytes - held_before == (64 + 512) * MIB
    assert memory.peak_reserved_bytes is not None
    assert memory.peak_reserved_bytes >= peak(memory)
    assert memory.num_alloc_retries == 0


@pytest.mark.gpu
def test_cudas_peak_of_a_step_is_near_the_one_that_the_cpus_profiler_sees() -> None:
    def peak_on(device: torch.device) -> int:
        torch.manual_seed(0)
        layers = [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
        model = nn.Sequential(*layers).to(device)
        images = torch.zeros(64, 16, 64, 64, device=device)
        meter = memory_meter(device)

        def step() -> None:
            model.zero_grad()
            functional.relu(model(images)).sum().backward()

        step()
        meter.steady_state()
        step()
        held = lambda: iter([images, *model.parameters()])  # noqa: E731 (as short as its use)
        return peak(meter.read(step, held=held, data_bytes=0))

    cpu = peak_on(torch.device("cpu"))
    torch.cuda.empty_cache()
    baseline = torch.cuda.memory_allocated()
    cuda = peak_on(torch.device("cuda", torch.cuda.current_device())) - baseline
    # cuDNN's workspaces come on top.
    assert 0.6 * cpu < cuda < 2.5 * cpu


@pytest.mark.gpu
def test_the_drivers_figure_covers_the_allocators() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    kept = torch.zeros(256 * MIB, dtype=torch.uint8, device=device)
    with Gpu(str(torch.cuda.get_device_properties(device).uuid)) as gpu:
        charged = gpu.process_bytes()
    if charged is None:
        pytest.skip("the driver does not tell (a container or a MIG partition)")
    assert charged >= torch.cuda.memory_reserved(device) >= kept.nbytes
