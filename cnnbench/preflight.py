"""Everything that can be found wrong before the first cell is, here: device, data, models, weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnbench import architectures
from cnnbench.data.datasets import prepare
from cnnbench.errors import InvalidValueError, MissingWeightsError
from cnnbench.job import Ready
from cnnbench.measure.collect import collect_environment

if TYPE_CHECKING:
    from cnnbench.architectures.pretrained import WeightsFile
    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Preflight


def preflight(job: Preflight) -> Ready:
    """Look at the machine, prepare the data set, and build every model once.

    Raises:
        CnnbenchError: naming what is wrong and what to do about it.
    """
    device = find_device(job.device)
    environment = collect_environment(device)
    dataset = prepare(
        job.dataset,
        data_dir=Path(job.data_dir),
        cache_dir=Path(job.cache_dir),
        download=job.download,
        image_size=job.image_size,
    )
    notes: list[str] = []
    digests: dict[str, str] = {}
    for architecture, asked_weights in job.models:
        weights, remarks = _try_model(architecture, asked_weights, job, dataset)
        digests[architecture] = architectures.code_digest(architecture) + _file_digest(weights)
        notes.extend(remarks)
    return Ready(
        environment=environment,
        dataset=dataset,
        model_digests=digests,
        notes=tuple(dict.fromkeys(notes)),
    )


def find_device(name: str) -> torch.device:
    """Return the device called `name`: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InvalidValueError: it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        msg = f"unknown device {name!r}. There are: auto, cpu, cuda, cuda:N."
        raise InvalidValueError(msg)
    if not torch.cuda.is_available():
        msg = f"device {name}: PyTorch sees no CUDA device here. Pass --device cpu."
        raise InvalidValueError(msg)
    number = int(index or 0)
    if number >= torch.cuda.device_count():
        msg = f"device {name}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0."
        raise InvalidValueError(msg)
    return torch.device("cuda", number)


def _try_model(
    architecture: str, asked_weights: str, job: Preflight, dataset: DatasetInfo
) -> tuple[WeightsFile | None, list[str]]:
    """Build the model and run two images through it; return its weights and what to say of them."""
    notes = []
    file = None
    weights = architectures.resolved_weights(architecture, asked_weights)
    try:
        file = architectures.find_weights(architecture, weights, download=job.download)
    except MissingWeightsError as error:
        if asked_weights != "default":
            raise
        weights = "none"
        notes.append(f"{architecture}: no accuracy will be claimed. {error}")
    size = job.image_size or dataset.image_size
    model = architectures.build(
        architecture, num_classes=dataset.num_classes, image_size=size, weights=weights
    )
    architectures.check(model, num_classes=dataset.num_classes, image_size=size)
    return file, notes


def _file_digest(file: WeightsFile | None) -> str:
    """Return what changes when the weights do: published ones are known by their checksum."""
    if file is None:
        return ""
    if file.sha256:
        return file.sha256
    with file.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
