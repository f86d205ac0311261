"""Every GPU of the machine, looked at without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pynvml

from cnnbench.measure.gpu import (
    Gpu,
    list_gpus,
)
from fake_nvml import (
    FOREIGN_PID,
    GEFORCE_UUID,
    GIB,
    H200_UUID,
    MIG_UUID,
    UNSUPPORTED,
    FakeGpu,
    FakeNvml,
    arrive,
    h200,
    installed,
    mig_instance,
    old_geforce,
)


def test_the_listing_shows_every_gpu_instance_and_process() -> None:
    nvml = mig_instance()
    nvml.gpus.append(old_geforce().gpus[0])
    part = nvml.everyone()[1]
    arrive(part, FOREIGN_PID, num_bytes=None)
    with installed(nvml):
        listing = list_gpus()
    assert (listing.driver, listing.nvml) == ("595.71.05", "13.595.71.05")
    assert listing.unknowns == {}
    whole, instance, geforce = listing.gpus
    assert (whole.is_mig, instance.is_mig, geforce.is_mig) == (True, True, None)
    assert (whole.uuid, whole.name, whole.memory_bytes) == (H200_UUID, "NVIDIA H200", 141 * GIB)
    assert (instance.uuid, instance.parent_uuid) == (MIG_UUID, H200_UUID)
    assert instance.memory_bytes == 35 * GIB
    assert [asdict(process) for process in instance.processes or ()] == [
        {"pid": FOREIGN_PID, "num_bytes": None, "is_graphics": False}
    ]
    assert (geforce.uuid, geforce.used_bytes, geforce.parent_uuid) == (GEFORCE_UUID, GIB, None)


def test_a_gpu_that_cannot_be_looked_at_hides_no_other() -> None:
    nvml = FakeNvml(FakeGpu(uuid=H200_UUID), FakeGpu(uuid=GEFORCE_UUID))
    nvml.fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NO_PERMISSION, after=1)
    nvml.gpus[0].processes = UNSUPPORTED
    with installed(nvml):
        first, second = list_gpus().gpus
    assert first.processes is None
    assert first.unknowns == {"processes": "not supported by this GPU"}
    assert second.memory_bytes is None
    assert second.unknowns == {"memory": "refused: insufficient permissions"}
    assert second.processes == ()
    nvml.fail("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_GPU_IS_LOST, after=1)
    with installed(nvml):
        listing = list_gpus()
    assert [gpu.uuid for gpu in listing.gpus] == [H200_UUID]
    assert listing.unknowns == {"GPU 1": "broken: GPU is lost"}


def test_a_listing_survives_the_driver_whenever_it_dies() -> None:
    healthy = mig_instance()
    with installed(healthy):
        assert len(list_gpus().gpus) == 2
    for after in range(healthy.calls.total() - 1):  # the last call closes NVML
        nvml = mig_instance()
        nvml.die(after=after)
        with installed(nvml):
            listing = list_gpus()
        assert "broken: GPU is lost" in listing.unknowns.values() or listing.unknowns.keys() == {
            "NVML"
        }


def test_a_process_with_several_contexts_counts_once_and_holds_their_sum() -> None:
    nvml = h200()
    (card,) = nvml.gpus

    class Twice(dict[int, int]):
        def items(self) -> Any:
            return [pair for pair in super().items() for _ in range(2)]

        def __len__(self) -> int:
            return 2 * super().__len__()

    card.processes = Twice()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card)
        assert gpu.process_bytes() == 4 * GIB
        assert gpu.num_foreign_processes() == 0


def test_the_fake_leaves_pynvml_as_it_was() -> None:
    before = (pynvml.nvmlLib, pynvml.CDLL, dict(pynvml._nvmlGetFunctionPointer_cache))  # noqa: SLF001 (what the fake stands for)
    with installed(h200()), Gpu(H200_UUID):
        assert pynvml.nvmlLib is not before[0]
    after = (pynvml.nvmlLib, pynvml.CDLL, dict(pynvml._nvmlGetFunctionPointer_cache))  # noqa: SLF001
    assert after == before


def test_the_door_to_nvml_needs_no_torch() -> None:
    program = "import sys, cnnbench.measure.gpu; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
