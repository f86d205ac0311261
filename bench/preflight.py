"""What every part of the benchmarks asks a worker to look at before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.job import Preflight

if TYPE_CHECKING:
    from pathlib import Path


def preflight(
    architecture: str,
    dataset: str,
    folder: Path | str,
    *,
    image_size: int | None = None,
) -> Preflight:
    """Return the question whether `architecture` and `dataset` can be had; nothing is downloaded."""
    return Preflight(
        device="auto",
        dataset=dataset,
        data_dir=str(folder),
        cache_dir=str(folder),
        download=False,
        image_size=image_size,
        models=((architecture, "none"),),
    )
