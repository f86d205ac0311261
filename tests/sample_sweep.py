"""A small sweep with plausible numbers, for tests that show or tabulate records."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.environment import DatasetInfo, Environment
from cnnbench.measurement import Energy, Memory, OperatorKind, Profile, Roofline, Window
from cnnbench.record import MIB, Epoch, Fit, Record

ENVIRONMENT = Environment(
    device="AMD EPYC 7763 64-Core Processor",
    device_type="cpu",
    cpu="AMD EPYC 7763 64-Core Processor",
    num_cpus=2,
    memory_bytes=8 * 2**30,
    num_threads=2,
    operating_system="Linux 6.8.0",
    python="3.11.9",
    torch="2.15.0",
    torchvision="0.30.0",
    numpy="2.3.4",
    cnnbench="0.1.0",
    code_digest="5d1f0c9be2a47788",
    git_commit="c472208f3d",
    git_dirty=False,
    flags={"matmul.fp32_precision": "ieee", "cudnn.conv.fp32_precision": "ieee"},
    variables={"OMP_NUM_THREADS": "2"},
)

DIGITS = DatasetInfo(
    name="digits",
    digest="9b0f3b7c52f14e0d9b0f3b7c52f14e0d",
    source="scikit-learn",
    path="prepared/digits.npy",
    image_size=32,
    num_channels=3,
    num_classes=10,
    num_train=1257,
    num_val=270,
    num_test=270,
    augmentation="none",
    augmentations=("none", "crop"),
    mean=(0.3, 0.3, 0.3),
    std=(0.37, 0.37, 0.37),
)

ARCHITECTURES = {
    "simple_cnn": (268_650, 4100.0, 14.0, 0.35),
    "resnet(width=16,depth=1)": (78_042, 1350.0, 22.0, 1.5),
    "mbconv_net(width=0.25,depth=0.25)": (215_418, 905.0, 31.0, 2.1),
    "transfer_resnet50": (23_528_522, 118.0, 118.0, 3.4),
}
SPEED = {"fp32": 1.0, "tf32": 1.6, "bf16": 1.34, "fp16": 1.29}
TIMING = Timing(half_width=0.03, limit_seconds=2.0, warmup_steps=3)


def sweep(
    *,
    precisions: tuple[str, ...] = ("fp32", "bf16"),
    batch_sizes: tuple[int, ...] = (32, 128),
    checkpointings: tuple[str, ...] = ("none", "block"),
    epochs: int = 6,
    cuda: bool = False,
) -> list[Record]:
    """Return one completed record for every combination, over four architectures."""
    axes = itertools.product(ARCHITECTURES, precisions, batch_sizes, checkpointings)
    return [_record(*values, epochs=epochs, cuda=cuda) for values in axes]


def troubled(records: list[Record]) -> list[Record]:
    """Return the records with the last four spoilt in four ways, one remarked on, one suspect."""
    *kept, remarked, suspect, gone, full, unable, broken = records
    return [
        *kept,
        replace(remarked, notes=("the trunk is frozen: checkpointing has nothing to save",)),
        replace(suspect, validity="suspect", validity_reasons=("noise of 14 % above 10 %",)),
        replace(gone, validity="invalid", validity_reasons=("ran fp32 where bf16 was asked for",)),
        spoilt(full, "out_of_memory", "tried to allocate 2.4 GiB, 1.1 GiB were free"),
        spoilt(unable, "unsupported", "this processor has no fp16 convolutions"),
        spoilt(broken, "failed", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ]


def metered(records: list[Record]) -> list[Record]:
    """Return the completed records with their operators counted and their energy measured."""
    return [_metered(record) if record.profile else record for record in records]


def _metered(record: Record) -> Record:
    assert record.profile is not None
    flops = record.cell.batch_size * (record.num_parameters or 0) * 60
    kind = OperatorKind(
        kind="convolution",
        num_operators=12,
        flops=flops,
        recomputed_flops=flops // 4 if record.cell.checkpointing != "none" else 0,
        bytes=flops // 40 + 1_000_000,
        bound_seconds=record.profile.median_step_seconds / 2,
        bytes_bound_seconds=0.0,
    )
    peak = 4 * flops / record.profile.median_step_seconds
    return replace(
        record,
        roofline=Roofline(
            operators=(kind,), peak_flops_per_second=peak, peak_bytes_per_second=peak / 30
        ),
        profile=replace(
            record.profile,
            energy=Energy(joules=30 * record.profile.median_step_seconds, seconds=2, num_steps=1),
        ),
    )


def spoilt(record: Record, status: str, error: str) -> Record:
    """Return the record as a cell that measured nothing."""
    return replace(record, status=status, error=error, profile=None, fit=None)


def with_cell(record: Record, **changes: Any) -> Record:
    """Return the record as that of another cell."""
    cell = replace(record.cell, **changes)
    return replace(record, cell=cell, cell_hash=cell.hash)


def _record(
    architecture: str,
    precision: str,
    batch_size: int,
    checkpointing: str,
    *,
    epochs: int,
    cuda: bool,
) -> Record:
    parameters, rate, megabytes, per_image = ARCHITECTURES[architecture]
    transfer = architecture == "transfer_resnet50"
    cell = Cell(
        architecture=architecture,
        precision=precision,
        batch_size=batch_size,
        checkpointing=checkpointing,
        recipe=Recipe(epochs=epochs, weights="none" if transfer else "default"),
        timing=TIMING,
    )
    rng = random.Random(cell.hash)  # noqa: S311 - plausible noise, no secret
    rate *= SPEED[precision] * (batch_size / (batch_size + 24.0)) * (60 if cuda else 1)
    cost = {"none": 1.0, "stage": 0.78, "block": 0.75}[checkpointing]
    saving = {"none": 1.0, "stage": 0.62, "block": 0.48}[checkpointing]
    step = batch_size / (rate * (1.0 if transfer else cost) * rng.uniform(0.97, 1.03))
    windows = tuple(
        Window(seconds=4 * step * rng.lognormvariate(0, 0.015), num_steps=4, data_seconds=1e-5)
        for _ in range(10)
    )
    half = 1.0 if precision == "fp32" else 0.6
    peak = megabytes + batch_size * per_image * half * (1.0 if transfer else saving)
    start = 1.76e9 + rng.uniform(0, 100)
    return Record(
        sweep_id="a3f09c51d2e87b64",
        cell=cell,
        cell_hash=cell.hash,
        environment_hash="0c2d7e5518f9ab31",
        status="completed",
        device="NVIDIA H200" if cuda else ENVIRONMENT.device,
        effective_precision=precision,
        num_parameters=parameters,
        num_trainable_parameters=20_490 if transfer else parameters,
        profile=Profile(
            windows=windows,
            low_step_seconds=step * 0.988,
            high_step_seconds=step * 1.013,
            stop_reason="precise",
            num_warmup_steps=5,
            setup_seconds=0.4,
        ),
        memory=Memory(
            peak_allocated_bytes=int(peak * MIB),
            peak_reserved_bytes=int(peak * 1.2 * MIB) if cuda else None,
            process_bytes=int((peak * 1.3 + 40) * MIB),
            data_bytes=5 * MIB,
            num_alloc_retries=0 if cuda else None,
        ),
        fit=_fit(epochs, batch_size, rng, meaningful=not transfer) if epochs else None,
        started_at=start,
        finished_at=start + 6.5 + 10 * rng.random(),
        start_seconds=0.04,
    )


def _fit(epochs: int, batch_size: int, rng: random.Random, *, meaningful: bool) -> Fit:
    pace = 0.9 if batch_size < 100 else 0.55
    top = 0.985 if meaningful else 0.3
    curve = []
    for epoch in range(1, epochs + 1):
        accuracy = top * (1 - math.exp(-pace * epoch)) + rng.uniform(-0.012, 0.008)
        curve.append(
            Epoch(
                train_loss=2.3 * math.exp(-pace * epoch),
                train_accuracy=min(accuracy + 0.01, 1.0),
                val_loss=2.3 * math.exp(-0.9 * pace * epoch) + 0.05,
                val_accuracy=round(accuracy * 270) / 270,
                learning_rate=1e-3,
                train_seconds=0.6,
                val_seconds=0.1,
            )
        )
    note = None if meaningful else "random frozen weights say nothing about transfer learning"
    best = max(epoch.val_accuracy for epoch in curve)
    return Fit(
        epochs=tuple(curve),
        num_train_images=1257,
        test_accuracy=round((best - 0.01) * 270) / 270,
        accuracy_note=note,
    )
