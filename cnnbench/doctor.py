"""What this machine can measure, and what would spoil it: looked at before any cell, each with its remedy."""

from __future__ import annotations

import os
import pkgutil
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnbench import architectures
from cnnbench.data import DATASETS
from cnnbench.data.prepared import Request
from cnnbench.errors import CnnbenchError
from cnnbench.job import Finding
from cnnbench.measure import machine
from cnnbench.measure.collect import collect_environment
from cnnbench.measure.gpu import MIG_INSTANCE, Gpu, list_gpus
from cnnbench.measurement import MAX_FOREIGN_FRACTION
from cnnbench.precision import MODES
from cnnbench.preflight import find_device
from cnnbench.setup import compile_unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.environment import Environment
    from cnnbench.job import Examination

LOAD_SECONDS = 2.0
MIN_FREE_MEMORY_BYTES = 4 * 2**30
GIB = 2**30
NUM_NAMED_PROCESSES = 3
# Some GPUs are read at a watt more or less than what they are set to.
POWER_LIMIT_TOLERANCE = 0.99

# Variables that change numbers behind the back of whoever reads them, and the value that does not.
SPOILING = {
    "NVIDIA_TF32_OVERRIDE": ("", "it overrules every TF32 switch: fp32 and tf32 become the same"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("0", "it turns TF32 on in fp32 cells"),
    "CUDA_LAUNCH_BLOCKING": ("0", "every kernel waits for the one before"),
    "ONEDNN_DEFAULT_FPMATH_MODE": ("STRICT", "oneDNN may compute fp32 in a shorter format"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("0", "every allocation waits for the driver"),
}


def examine(job: Examination) -> tuple[Finding, ...]:
    """Look at everything and return what was found, in the order of `_CHECKS`.

    Raises:
        InvalidValueError: there is no such device.
    """
    device = find_device(job.device)
    environment = collect_environment(device)
    findings: list[Finding] = []
    for subject, check in _CHECKS.items():
        try:
            found = list(check(subject, environment, job))
        except (OSError, RuntimeError, ValueError) as error:
            found = [Finding(subject=subject, status="unknown", text=f"could not be read: {error}")]
        findings.extend(found)
    return tuple(findings)


def _device(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    if environment.device_type == "cuda":
        memory = (environment.device_memory_bytes or 0) / GIB
        yield _ok(subject, f"{environment.device}, {memory:.0f} GiB, driver {environment.driver}")
        return
    yield _ok(subject, f"{environment.cpu}, {environment.num_cpus} processors")
    if torch.version.cuda is None:
        text, remedy = "this PyTorch was built without CUDA", "install PyTorch's CUDA build"
    elif Path("/proc/driver/nvidia/version").exists():
        text = "there is an NVIDIA driver, but PyTorch can use no GPU"
        remedy = f"compare `nvidia-smi` with CUDA {torch.version.cuda}, which PyTorch was built for"
    else:
        return
    yield Finding(subject=subject, status="warning", text=text, remedy=remedy)


def _precisions(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    device = torch.device(environment.device_type)
    reasons = {name: mode().unsupported_reason(device) for name, mode in MODES.items()}
    able = [name for name, reason in reasons.items() if reason is None]
    yield _ok(subject, f"can be measured: {', '.join(able)}")
    for name, reason in reasons.items():
        if reason is not None:
            yield _ok(subject, f"{name} cannot: {reason}")


def _tf32(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    """Tell what PyTorch does by default; cells set it themselves and prove it."""
    if environment.device_type != "cuda":
        return
    convolutions = environment.flags["backends.cudnn.allow_tf32"]
    matmuls = environment.flags["backends.cuda.matmul.allow_tf32"]
    yield _ok(
        subject,
        f"PyTorch's own defaults here are {convolutions} in convolutions and {matmuls} in matrix"
        " products: a plain loop's fp32 is mixed. Cells set both, and prove what they compute in",
    )


def _variables(subject: str, _: Environment, __: Examination) -> Iterator[Finding]:
    for name, (harmless, effect) in SPOILING.items():
        value = os.environ.get(name, "")
        if value not in {"", harmless}:
            text = f"{name}={value}: {effect}"
            yield Finding(
                subject=subject, status="problem", text=text, remedy=f"unset {name} and run again"
            )


def _load(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    """Watch the processors for two seconds while this process sleeps."""
    before, seconds_before = machine.read_load(), machine.processor_seconds()
    time.sleep(LOAD_SECONDS)
    share = machine.foreign_fraction(before, machine.read_load(), LOAD_SECONDS)
    if share is None:
        text = "the system does not tell who uses the processors: cells cannot notice other load"
        yield Finding(subject=subject, status="unknown", text=text)
        return
    text = f"others use {share:.1%} of the processors now"
    if share <= MAX_FOREIGN_FRACTION:
        yield _ok(subject, text)
        return
    busiest = _busiest(seconds_before, machine.processor_seconds())
    remedy = "stop them, or measure later"
    if environment.device_type == "cpu":
        remedy += ": windows are timed again while others are at work, up to a limit, then marked"
    yield Finding(subject=subject, status="warning", text=f"{text}{busiest}", remedy=remedy)


def _busiest(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> str:
    # By number: the kernel's workers change their names with their work.
    used = {pid: seconds - before.get(pid, ("", 0.0))[1] for pid, (_, seconds) in after.items()}
    busy = sorted(used, key=lambda pid: -used[pid])[:NUM_NAMED_PROCESSES]
    named = [
        f"{after[pid][0]} ({pid})"
        for pid in busy
        if used[pid] > MAX_FOREIGN_FRACTION * LOAD_SECONDS
    ]
    return f", most of all {', '.join(named)}" if named else ""


def _quota(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    quota = machine.processor_quota()
    if quota is not None and quota < environment.num_cpus:
        yield Finding(
            subject=subject,
            status="warning",
            text=f"a control group allows {quota:g} of {environment.num_cpus} processors and stops"
            " whoever uses more, in the middle of a window",
            remedy=f"give the container more, or set OMP_NUM_THREADS={max(1, int(quota))}",
        )
    if environment.num_threads > environment.num_cpus:
        yield Finding(
            subject=subject,
            status="warning",
            text=f"PyTorch runs {environment.num_threads} threads on {environment.num_cpus}"
            " processors",
            remedy="unset OMP_NUM_THREADS",
        )


def _frequency(subject: str, _: Environment, __: Examination) -> Iterator[Finding]:
    governor = machine.frequency_governor()
    if governor is None:
        text = "the processors' frequency governor is not told here"
        yield Finding(subject=subject, status="unknown", text=text)
    elif governor == "performance":
        yield _ok(subject, "the frequency governor is performance")
    else:
        yield Finding(
            subject=subject,
            status="warning",
            text=f"the frequency governor is {governor}: clocks follow the load with a delay",
            remedy="sudo cpupower frequency-set -g performance",
        )


def _memory(subject: str, _: Environment, __: Examination) -> Iterator[Finding]:
    free = machine.available_bytes()
    if free is None:
        yield Finding(subject=subject, status="unknown", text="the free memory is not told here")
    elif free < MIN_FREE_MEMORY_BYTES:
        yield Finding(
            subject=subject,
            status="warning",
            text=f"{free / GIB:.1f} GiB of memory are free: the fork server and one worker need 4",
            remedy="end what uses it",
        )
    else:
        yield _ok(subject, f"{free / GIB:.1f} GiB of memory are free")


def _gpu(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    if environment.device_uuid is None:
        return
    yield from _gpu_settings(subject, environment)
    yield from _gpu_processes(subject, environment.device_uuid)
    with Gpu(environment.device_uuid) as gpu:
        if environment.device_type == "cuda":
            torch.zeros(1, device=f"cuda:{environment.device_index}")  # on the GPU, as a cell is
        for reason in gpu.throttle_reasons() or ():
            text = f"its clocks are lowered now: {reason}"
            remedy = "let it cool down, or mend its cooling and power supply"
            yield Finding(subject=subject, status="warning", text=text, remedy=remedy)
        gpu.reading(gpu.counters())
        gpu.energy_joules()
        unknowns = dict(gpu.unknowns)
    remark = unknowns.pop(MIG_INSTANCE, None)
    if remark is not None:
        yield Finding(subject=subject, status="unknown", text=remark)
    for what, why in unknowns.items():
        text = f"{what} cannot be read: {why}. Cells say so, and leave it empty"
        yield Finding(subject=subject, status="unknown", text=text)
    if not unknowns:
        yield _ok(subject, "every counter answers: throttling, clocks, power, energy, processes")


def _gpu_processes(subject: str, uuid: str) -> Iterator[Finding]:
    """Name who else is on the GPU; this process is not on it."""
    for listed in list_gpus().gpus:
        if listed.uuid != uuid or listed.processes is None:
            continue
        computing = [str(process.pid) for process in listed.processes if not process.is_graphics]
        if computing:
            text = f"other processes compute on this GPU: {', '.join(computing)}"
            remedy = "end them, or name another GPU with --device"
            yield Finding(subject=subject, status="warning", text=text, remedy=remedy)
        if len(computing) < len(listed.processes):
            text = "a desktop draws on this GPU, and takes a little of its time and memory"
            remedy = "measure without a desktop, or on another GPU"
            yield Finding(subject=subject, status="warning", text=text, remedy=remedy)


def _gpu_settings(subject: str, environment: Environment) -> Iterator[Finding]:
    settings = environment.gpu
    if settings is None:
        return
    limit, default = settings.power_limit_watts, settings.default_power_limit_watts
    if limit and default and limit < POWER_LIMIT_TOLERANCE * default:
        yield Finding(
            subject=subject,
            status="warning",
            text=f"its power limit is {limit:.0f} W, {default:.0f} W by default: numbers are this"
            " setting's",
            remedy=f"sudo nvidia-smi --power-limit={default:.0f}",
        )
    if settings.is_persistent is False:
        yield Finding(
            subject=subject,
            status="warning",
            text="persistence mode is off: the driver starts anew for each cell",
            remedy="sudo nvidia-smi --persistence-mode=1",
        )
    if settings.is_mig:
        yield Finding(
            subject=subject,
            status="warning",
            text="it is partitioned (MIG): most counters stay empty, and neighbours share the memory"
            " bandwidth",
            remedy="sudo nvidia-smi --multi-instance-gpu=0, or read results with that in mind",
        )
    if settings.num_ecc_errors:
        yield Finding(
            subject=subject,
            status="problem",
            text=f"its memory had {settings.num_ecc_errors} uncorrected errors since the driver's"
            " start",
            remedy="sudo nvidia-smi --gpu-reset; if they come back, the GPU is broken",
        )


def _compilers(subject: str, environment: Environment, _: Examination) -> Iterator[Finding]:
    device = torch.device(environment.device_type)
    for mode in ("default", "graph"):
        reason = compile_unsupported(mode, device)
        if reason is None:
            yield _ok(subject, f"compile={mode} can be measured")
        else:
            status = "ok" if mode == "graph" else "warning"
            remedy = (
                "" if mode == "graph" else "install g++, or name a compiler with CXX (on CUDA: CC)"
            )
            yield Finding(subject=subject, status=status, text=reason, remedy=remedy)


def _data(subject: str, _: Environment, job: Examination) -> Iterator[Finding]:
    """Look for every data set by name; what is found is checked against its checksums."""
    for name, spec in DATASETS.items():
        if not name.isidentifier():  # folder:PATH, synthetic(...)
            continue
        request = Request(
            name=name,
            data_dir=Path(job.data_dir),
            cache_dir=Path(job.data_dir),
            download=False,
            image_size=None,
        )
        try:
            found = pkgutil.resolve_name(spec)(request)
        except CnnbenchError as error:
            text, remedy = _split(error, ". ")
            yield Finding(subject=subject, status="warning", text=text, remedy=remedy)
        else:
            yield _ok(subject, f"{name} is there and whole ({found.source})")


def _weights(subject: str, _: Environment, __: Examination) -> Iterator[Finding]:
    for architecture in architectures.IMAGENET_WEIGHTS:
        try:
            file = architectures.find_weights(architecture, "imagenet")
        except CnnbenchError as error:
            text, remedy = _split(error, ": ")
            yield Finding(subject=subject, status="warning", text=text, remedy=remedy)
        else:
            yield _ok(subject, f"ImageNet's for {architecture} are there ({file and file.path})")


def _disk(subject: str, _: Environment, job: Examination) -> Iterator[Finding]:
    for name, folder in (("the working folder", Path.cwd()), ("the data folder", job.data_dir)):
        existing = next(p for p in (Path(folder), *Path(folder).parents) if p.exists())
        free = shutil.disk_usage(existing).free
        text = f"{free / GIB:.1f} GiB are free for {name}"
        if free < GIB:
            yield Finding(
                subject=subject, status="warning", text=text, remedy="free some, or name another"
            )
        else:
            yield _ok(subject, text)


def _split(error: CnnbenchError, separator: str) -> tuple[str, str]:
    """Tell what an error says is wrong from what it says to do."""
    text, _, remedy = str(error).partition(separator)
    return text, remedy


def _ok(subject: str, text: str) -> Finding:
    return Finding(subject=subject, status="ok", text=text)


_CHECKS: dict[str, Callable[[str, Environment, Examination], Iterator[Finding]]] = {
    "device": _device,
    "precision": _precisions,
    "TF32": _tf32,
    "variables": _variables,
    "load": _load,
    "quota": _quota,
    "clocks": _frequency,
    "memory": _memory,
    "GPU": _gpu,
    "compiling": _compilers,
    "data": _data,
    "weights": _weights,
    "disk": _disk,
}
