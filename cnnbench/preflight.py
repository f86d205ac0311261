"""What is done before the first cell: device, data, models and weights checked, peaks measured."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnbench import architectures
from cnnbench.architectures.factory import load
from cnnbench.architectures.pretrained import sha256_of
from cnnbench.data.datasets import prepare
from cnnbench.errors import InvalidValueError, MissingWeightsError
from cnnbench.job import FORECASTING, Progress, Ready
from cnnbench.measure.collect import collect_environment
from cnnbench.measure.gpu import Gpu
from cnnbench.measure.peaks import measure_peaks
from cnnbench.precision import precision
from cnnbench.predict import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from cnnbench.architectures.pretrained import WeightsFile
    from cnnbench.environment import DatasetInfo, Peaks
    from cnnbench.forecast import Outlook
    from cnnbench.job import EqualWidth, PeaksJob, Preflight

IDLE_SECONDS = 2.0


def preflight(job: Preflight, report: Callable[[Progress], None] = lambda _: None) -> Ready:
    """Look at the machine, prepare the data set, and build every model once.

    Args:
        job: what to look at.
        report: told what is being looked at, for whoever waits.

    Raises:
        CnnbenchError: naming what is wrong and what to do about it.
    """
    device = find_device(job.device)
    environment = collect_environment(device)
    notes: list[str] = []
    digests: dict[str, str] = {}
    own_files: dict[str, str] = {}
    outlooks: list[Outlook] = []
    with _proxies(job.proxies):
        report(Progress(phase=f"preparing {job.dataset}"))
        dataset = prepare(
            job.dataset,
            data_dir=Path(job.data_dir),
            cache_dir=Path(job.cache_dir),
            download=job.download,
            image_size=job.image_size,
        )
        for architecture, asked_weights in job.models:
            report(Progress(phase=f"trying {architecture}"))
            weights, remarks, outlook = _try_model(
                architecture, asked_weights, job, dataset, report
            )
            outlooks.extend(outlook)
            digests[architecture] = architectures.code_digest(architecture) + _file_digest(weights)
            if weights is not None and weights.sha256 is None:
                own_files[asked_weights] = _file_digest(weights)
            notes.extend(remarks)
    return Ready(
        environment=environment,
        dataset=dataset,
        model_digests=digests,
        notes=tuple(dict.fromkeys(notes)),
        weights_sha256s=own_files,
        outlooks=tuple(outlooks),
    )


@contextmanager
def _proxies(variables: Mapping[str, str]) -> Iterator[None]:
    """Let what is fetched go through the user's proxies: no cell sees them, for they may hold a password."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def peaks(job: PeaksJob) -> Peaks:
    """Measure what the device can reach, and what it draws with nothing running.

    Raises:
        InvalidValueError: there is no such device.
    """
    device = find_device(job.device)
    with _session(job) as gpu:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)  # a context, as every cell has one
        idle_watts = _idle_watts(gpu) if gpu else None
        found = measure_peaks(device, [precision(name) for name in job.precisions])
    return replace(found, idle_watts=idle_watts)


def equal_width(job: EqualWidth) -> int:
    """Return the width at which one architecture takes as many FLOPs as another.

    Raises:
        CnnbenchError: there is none, or one of the two cannot be built.
    """
    found = load("cnnbench.measure.equal_cost:width_of_equal_flops")
    return int(found(job.baseline, job.variant, job.num_classes, job.image_size))


def _session(job: PeaksJob) -> AbstractContextManager[Gpu | None]:
    return Gpu(job.device_uuid) if job.device_uuid else nullcontext()


def _idle_watts(gpu: Gpu) -> float | None:
    """Return the draw over some idle seconds by the energy counter; without one, the draw at their end."""
    before, start = gpu.energy_joules(), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    after, seconds = gpu.energy_joules(), time.perf_counter() - start
    if before is None or after is None:
        return gpu.watts()
    return (after - before) / seconds


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


def equal_gpus(name: str) -> tuple[str, ...]:
    """Return the UUIDs of the visible GPUs of the model that `name` leads to; none if it names one, or a CPU.

    Raises:
        InvalidValueError: there is no such device.
    """
    device = find_device(name)
    if device.type == "cpu" or ":" in name:
        return ()
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    first = found[device.index]
    model = (first.name, first.total_memory)
    return tuple(f"GPU-{one.uuid}" for one in found if (one.name, one.total_memory) == model)


def computes(name: str) -> bool:
    """Say whether the device called `name` adds up correctly; one that is gone raises.

    Raises:
        InvalidValueError: there is no such device.
    """
    ones = torch.ones(1024, device=find_device(name))
    return int(ones.sum().item()) == ones.numel()


def _try_model(
    architecture: str,
    asked_weights: str,
    job: Preflight,
    dataset: DatasetInfo,
    report: Callable[[Progress], None],
) -> tuple[WeightsFile | None, list[str], tuple[Outlook, ...]]:
    """Build the model and run two images through it; return its weights, remarks and its outlooks."""
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
    asked = [one for one in job.questions if one.setting.architecture == architecture]
    if asked:
        report(Progress(phase=f"{FORECASTING} {architecture}"))
    outlooks = predict(model, asked, image_size=size)
    return file, notes, outlooks


def _file_digest(file: WeightsFile | None) -> str:
    """Return what changes when the weights do: published ones are known by their checksum."""
    if file is None:
        return ""
    return file.sha256 or sha256_of(file)
