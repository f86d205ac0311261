"""What a number was measured on: machine, libraries and data. Data only; `measure` collects it."""

from __future__ import annotations

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
class Environment:
    """The machine and the software, as one worker saw them before the first cell.

    `device` is the marketing name of the processor that trains; `flags` are the numeric switches of
    PyTorch as cells find them; `variables` an allow-list of environment variables, never secrets.
    """

    device: str
    device_type: str
    device_index: int | None = None
    device_uuid: str | None = None
    device_memory_bytes: int | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    cpu: str
    num_cpus: int
    memory_bytes: int
    num_threads: int
    operating_system: str
    python: str
    torch: str
    torchvision: str
    numpy: str
    cnnbench: str
    code_digest: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    flags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Return the device's name as a folder name."""
        kept = "".join(c if c.isalnum() else "-" for c in self.device.lower())
        return "-".join(filter(None, kept.split("-")))

    def hash_with(self, *parts: str) -> str:
        """Return the environment hash of a cell whose data and foreign code have the digests `parts`.

        Covers what decides whether a stored result still stands: device, driver, torch, cnnbench's
        own code. A commit that changes no code, another thread's load or another folder do not count.
        """
        fields = asdict(self)
        kept = {name: fields[name] for name in _IDENTITY}
        return digest({**kept, "parts": parts})


_IDENTITY = (
    "device",
    "device_type",
    "device_memory_bytes",
    "driver",
    "cuda",
    "cudnn",
    "cpu",
    "num_cpus",
    "num_threads",
    "torch",
    "torchvision",
    "cnnbench",
    "code_digest",
)
