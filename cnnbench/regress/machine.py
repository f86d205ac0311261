"""What a baseline holds for, found out without importing torch: device, driver, torch, CUDA, threads."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.errors import InvalidValueError
from cnnbench.measure.gpu import list_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cnnbench.environment import Environment
    from cnnbench.measure.gpu import ListedGpu

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The keys that two results must share to be compared; `driver` is its major version.

    `num_threads` counts on a CPU only.
    """

    device: str
    device_type: str
    driver: str = NONE
    torch: str
    cuda: str = NONE
    num_threads: int | None = None

    @classmethod
    def of(cls, environment: Environment) -> Machine:
        """Return the keys of a machine that a worker has looked at."""
        on_gpu = environment.device_type == "cuda"
        return cls(
            device=environment.device,
            device_type=environment.device_type,
            driver=_major(environment.driver),
            torch=environment.torch,
            cuda=environment.cuda or NONE,
            num_threads=None if on_gpu else environment.num_threads,
        )

    @property
    def folder(self) -> str:
        """Return the device as a folder name."""
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-") or "unknown"

    @property
    def file(self) -> str:
        """Return the other keys as a file name."""
        kept = [f"driver-{self.driver}", f"torch-{self.torch}", f"cuda-{self.cuda}"]
        if self.num_threads is not None:
            kept.append(f"threads-{self.num_threads}")
        return re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(kept)) + ".json"

    @property
    def text(self) -> str:
        """Return the keys in words."""
        parts = [self.device, f"torch {self.torch}"]
        parts += [
            f"{n} {v}" for n, v in (("driver", self.driver), ("CUDA", self.cuda)) if v != NONE
        ]
        if self.num_threads is not None:
            parts.append(f"{self.num_threads} thread{'' if self.num_threads == 1 else 's'}")
        return ", ".join(parts)

    def difference(self, other: Machine) -> str:
        """Return in words the keys in which `other` differs; empty where it does in none."""
        return ", ".join(
            f"{name.replace('_', ' ')} {getattr(self, name)} here, {getattr(other, name)} there"
            for name in self.differing(other)
        )

    def differing(self, other: Machine) -> list[str]:
        """Return the names of the keys in which `other` differs."""
        names = (field.name for field in fields(self))
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def this_machine(device: str = "auto") -> Machine:
    """Return the keys of this machine, within milliseconds; a worker's look must confirm them.

    Raises:
        InvalidValueError: a CUDA device is asked for, and the driver knows none.
    """
    torch, cuda = torch_version()
    gpu, driver = _gpu(device, cuda)
    if gpu is None:
        return Machine(
            device=processor(),
            device_type="cpu",
            torch=torch,
            num_threads=num_threads(),
        )
    return Machine(
        device=gpu.name or "unknown",
        device_type="cuda",
        driver=_major(driver),
        torch=torch,
        cuda=cuda or NONE,
    )


def num_threads() -> int:
    """Return how many threads a worker gets on a CPU: as exported, else one less than there are.

    With a thread on every processor each operator waits for the one that the rest of the machine
    disturbs.
    """
    exported = os.environ.get("OMP_NUM_THREADS", "")
    return int(exported) if exported.isdecimal() else max(1, len(os.sched_getaffinity(0)) - 1)


@contextmanager
def threads_exported(machine: Machine) -> Iterator[None]:
    """Let workers started inside the context have the threads of `machine`."""
    before = os.environ.get("OMP_NUM_THREADS")
    if machine.num_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(machine.num_threads)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before


def torch_version() -> tuple[str, str | None]:
    """Return the versions of torch and of the CUDA it was built with, read from its files.

    Raises:
        InvalidValueError: torch is not installed.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        msg = "PyTorch is not installed: run `make setup`."
        raise InvalidValueError(msg)
    text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=]*= '([^']+)'", text, re.MULTILINE)
    return version[1] if version else importlib.metadata.version("torch"), cuda and cuda[1]


def processor() -> str:
    """Return the processor's marketing name, as cells tell it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return os.uname().machine


def _gpu(device: str, cuda: str | None) -> tuple[ListedGpu | None, str | None]:
    """Return the GPU that torch would call `device`, and the driver's version; `None` for the CPU."""
    if device == "cpu":
        return None, None
    listing = list_gpus() if cuda else None
    gpus = visible(listing.gpus) if listing else []
    index = int(device.partition(":")[2] or 0) if re.fullmatch(r"cuda(:\d+)?", device) else 0
    if device == "auto" and not gpus:
        return None, None
    if index >= len(gpus):
        msg = f"device {device}: there are {len(gpus)} CUDA devices here. Pass --device cpu."
        raise InvalidValueError(msg)
    return gpus[index], listing.driver if listing else None


def visible(gpus: Sequence[ListedGpu]) -> list[ListedGpu]:
    """Return those of `gpus` that CUDA may use, in the order in which CUDA_VISIBLE_DEVICES has them."""
    whole = [gpu for gpu in gpus if not gpu.is_mig or gpu.parent_uuid is not None]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return whole
    found: list[ListedGpu] = []
    for name in filter(None, chosen.split(",")):
        if name.strip().isdecimal():
            found += whole[int(name) : int(name) + 1]
        else:
            found += [gpu for gpu in whole if gpu.uuid.startswith(name.strip())]
    return found


def _major(driver: str | None) -> str:
    return driver.partition(".")[0] if driver else NONE
