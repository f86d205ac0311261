"""What a worker is asked and what it answers, as JSON lines: never a pickle."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from cnnbench.cell import Cell
from cnnbench.environment import DatasetInfo, Environment, Peaks
from cnnbench.forecast import Outlook, Question
from cnnbench.record import Epoch, Record

# What a cell can be asked for besides its numbers, and the files that each leaves.
EXTRAS = {
    "trace": ("trace.json.gz", "operators.csv"),
    "layers": ("layers.csv",),
}


# How the phase of a preflight begins in which nothing is checked.
FORECASTING = "forecasting"


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Prepare the data set and try every architecture with its weights, before any cell.

    `proxies` are environment variables for what is fetched.
    Each of `questions` is answered from the model that was built for the trial.
    """

    device: str
    dataset: str
    data_dir: str
    cache_dir: str
    download: bool
    image_size: int | None
    models: tuple[tuple[str, str], ...]
    proxies: dict[str, str] = field(default_factory=dict, repr=False)
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What the preflight found, and `notes` that the user should read.

    `model_digests` tells by architecture when foreign code or a weights file has changed, and
    `weights_sha256s` has the SHA-256 of each of the user's own weights files, by what names it.
    """

    environment: Environment
    dataset: DatasetInfo
    model_digests: dict[str, str]
    notes: tuple[str, ...] = ()
    weights_sha256s: dict[str, str] = field(default_factory=dict)
    outlooks: tuple[Outlook, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ForecastJob:
    """Forecast the memory of one architecture's settings; all `questions` are about that one."""

    questions: tuple[Question, ...]
    num_classes: int
    image_size: int


@dataclass(frozen=True, kw_only=True)
class PeaksJob:
    """Measure what `device` can reach in each of `precisions`; those that it lacks are left out."""

    device: str
    precisions: tuple[str, ...]
    device_uuid: str | None = None


@dataclass(frozen=True, kw_only=True)
class EqualWidth:
    """Find the width at which the architecture `variant` takes as many FLOPs as `baseline` does."""

    baseline: str
    variant: str
    num_classes: int
    image_size: int


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Look for what `device` can measure here, and for what would spoil it."""

    device: str
    data_dir: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: `status` is `ok`, `warning`, `problem` or `unknown`.

    A `warning` makes numbers worse or misses some; a `problem` makes them wrong or impossible. All but
    `ok` name a `remedy` where there is one.
    """

    subject: str
    status: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class CellJob:
    """Train and profile one cell.

    `device_uuid` is what NVML knows the GPU by. `weights_sha256` is what the user's own weights file, if the
    cell has one, had before the first cell. Without `peaks` nothing is held against a roofline.
    Files that the cell leaves (those of `extras`, a snapshot when memory runs out) go to `folder`;
    where it is empty none are written. `extras` are names of `EXTRAS`. With `takes_turns` the worker asks
    for its turn before each timed window and before whatever follows them. `workload` is what the windows
    are filled with: `training`, `repeating`, `inference` or `loading`. `forecast_bytes` is the peak memory
    that was forecast, for the record. `measures_energy` asks for it where the GPU has a counter.
    """

    cell: Cell
    dataset: DatasetInfo
    device: str
    sweep_id: str
    environment_hash: str
    device_uuid: str | None = None
    peaks: Peaks | None = None
    folder: str = ""
    extras: tuple[str, ...] = ()
    takes_turns: bool = False
    weights_sha256: str = ""
    workload: str = "training"
    forecast_bytes: int | None = None
    measures_energy: bool = True


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a worker is doing now; `epoch` is the number of the one that ended, its curves with it."""

    phase: str
    epoch: int | None = None
    curves: Epoch | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A user's error found inside a worker: the class of `cnnbench.errors` and its sentence."""

    error: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One line from a worker: exactly one field is set; all but `progress` and `turn` end the job.

    With `turn` it waits until a line comes back. `pulse` says that the device computes.
    """

    progress: Progress | None = None
    turn: bool = False
    gpus: tuple[str, ...] | None = None
    pulse: bool = False
    environment: Environment | None = None
    ready: Ready | None = None
    peaks: Peaks | None = None
    width: int | None = None
    findings: tuple[Finding, ...] | None = None
    outlooks: tuple[Outlook, ...] | None = None
    record: Record | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One line to a worker: exactly one field is set.

    `look` names a device to look at, `gpus` one whose equals are asked for, `pulse` one that is to compute
    something.
    """

    look: str | None = None
    gpus: str | None = None
    pulse: str | None = None
    preflight: Preflight | None = None
    peaks: PeaksJob | None = None
    equal_width: EqualWidth | None = None
    examination: Examination | None = None
    forecast: ForecastJob | None = None
    cell: CellJob | None = None


def encode(message: object) -> bytes:
    """Return `message` as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """Return the answer in `line`.

    Raises:
        msgspec.ValidationError: `line` is no answer.
    """
    return msgspec.json.decode(line, type=Answer)


def decode_request(line: bytes) -> Request:
    """Return the request in `line`.

    Raises:
        msgspec.ValidationError: `line` is no request.
    """
    return msgspec.json.decode(line, type=Request)
