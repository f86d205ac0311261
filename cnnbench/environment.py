"""What a number was measured on: machine, libraries and data. Data only; `measure` collects it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from cnnbench.digest import digest


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A data set that was found, verified and split.

    `digest` (32 characters) covers images, labels and splits. `path` is the prepared copy that the
    workers map into memory (empty for `synthetic`, which is generated); `source` says where it came from.
    """

    name: str
    digest: str
    source: str
    path: str
    image_size: int
    num_channels: int
    num_classes: int
    num_train: int
    num_val: int
    num_test: int
    augmentation: str
    augmentations: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """How a GPU is set up, as NVML tells it; `None` is unknown, and `unknowns` says why.

    `power_limit_watts` is what is enforced now, `default_power_limit_watts` what it leaves the factory
    with. `num_ecc_errors` are uncorrected ones since the driver was loaded. Clocks are the highest
    that the GPU may reach.
    """

    power_limit_watts: float | None = None
    default_power_limit_watts: float | None = None
    max_sm_clock_mhz: int | None = None
    max_memory_clock_mhz: int | None = None
    is_persistent: bool | None = None
    has_ecc: bool | None = None
    num_ecc_errors: int | None = None
    is_mig: bool | None = None
    unknowns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The best that the device reached in one precision, in FLOP/s (an addition counts as one)."""

    matmul: float
    convolution: float

    @property
    def flops_per_second(self) -> float:
        """Return the higher of the two: no operator can be faster."""
        return max(self.matmul, self.convolution)


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What the device reached before the first cell of a session, by precision.

    `bytes_per_second` is a large copy's, reading and writing both counted; `idle_watts` the draw with
    nothing running, `None` where it cannot be measured. `foreign_fraction` is the share of the processors
    that others took meanwhile (CPU only): beside them the peaks may be too low. `vendor` holds the
    maker's dense figures where they are known, in the same units: FLOP/s by precision, and `bandwidth`.
    """

    flops: dict[str, Peak]
    bytes_per_second: float
    idle_watts: float | None = None
    foreign_fraction: float | None = None
    vendor: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the software, as one worker saw them before the first cell.

    `device` is the marketing name of the processor that trains; `processors` say how the machine's are
    shared out and clocked; `libraries` the versions of all that
    takes part in a number; `flags` the numeric switches of PyTorch as cells find them; `allocator` how
    memory is handed out; `variables` an allow-list of environment variables, never secrets.
    """

    device: str
    device_type: str
    device_index: int | None = None
    device_uuid: str | None = None
    device_memory_bytes: int | None = None
    gpu: GpuSettings | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    cpu: str
    num_cpus: int
    memory_bytes: int
    num_threads: int
    processors: dict[str, str] = field(default_factory=dict)
    operating_system: str
    python: str
    torch: str
    torchvision: str
    numpy: str
    cnnbench: str
    code_digest: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    libraries: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    allocator: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Return the device's name as a folder name."""
        kept = "".join(c if c.isalnum() else "-" for c in self.device.lower())
        return "-".join(filter(None, kept.split("-")))

    def hash_with(self, *parts: str) -> str:
        """Return the environment hash of a cell whose data and foreign code have the digests `parts`.

        Covers what decides whether a stored result still stands: device, power limit, driver, torch,
        cnnbench's own code. A commit that changes no code, another thread's load or another folder
        do not count.
        """
        return digest({**self._identity(_MACHINE + _CODE), "parts": parts})

    @property
    def machine_hash(self) -> str:
        """Return what the hash covers besides cnnbench's own code and the number of threads."""
        return digest(self._identity(_MACHINE))

    def _identity(self, names: tuple[str, ...]) -> dict[str, object]:
        fields = asdict(self)
        power_limit = self.gpu.power_limit_watts if self.gpu else None
        return {**{name: fields[name] for name in names}, "power_limit_watts": power_limit}


_MACHINE = (
    "device",
    "device_type",
    "device_memory_bytes",
    "driver",
    "cuda",
    "cudnn",
    "cpu",
    "num_cpus",
    "torch",
    "torchvision",
)
_CODE = ("num_threads", "cnnbench", "code_digest")

# From "://" to the last "@" that comes before the next URI: a password may hold any character.
_USER_PART = re.compile(r"://(?:(?!\s[a-z][a-z0-9+.-]*://).)*@", re.IGNORECASE | re.DOTALL)


def masked(text: str) -> str:
    """Return `text` with the user part of every URI in it hidden: `http://***@host` for `http://me:pw@host`.

    In doubt it hides more: what follows up to the last `@` goes as well, unless another URI begins
    after a space.
    """
    return _USER_PART.sub("://***@", text)
