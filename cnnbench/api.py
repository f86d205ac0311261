"""The whole job as functions: run a sweep, load its records, build a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnbench import architectures
from cnnbench.options import AUTO
from cnnbench.results import Records, load
from cnnbench.session import Session
from cnnbench.sweep.run import Observer
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    import torch

    from cnnbench.cell import Cell

__all__ = ["Records", "build", "load", "plan", "run"]


def run(profile: str = "quick", *, observer: Observer | None = None, **settings: Any) -> Records:
    """Run a sweep, or what is missing of it, and return all its records.

    Args:
        profile: `quick`, `gpu`, `full`, a TOML file, or `auto` (`gpu` on CUDA, else `quick`).
        observer: hears what happens; by default nothing is shown.
        settings: the fields of `Options`; any axis (`architecture`, `precision`, `batch_size`,
            `checkpointing`, `memory_format`, `compile`, `loader`, `seed`), a value or a list, which
            replaces the profile's; any name of the `Recipe` (`epochs`, `learning_rate`, ...).

    Raises:
        CnnbenchError: what the user can put right, found before the first cell.
    """
    return Session(profile, settings, observer or Observer()).run()


def plan(profile: str = "quick", **settings: Any) -> list[Cell]:
    """Return the cells that `run` would run with the same arguments; runs and writes nothing."""
    session = Session(profile, settings, Observer())
    if profile == AUTO:
        with launcher(session.options.isolation) as workers:
            session.choose_profile(workers)
    return session.cells()


def build(
    architecture: str, *, num_classes: int = 10, image_size: int = 32, weights: str = "none"
) -> torch.nn.Module:
    """Return the model that cells of `architecture` train, such as `resnet(width=16)`.

    Raises:
        CnnbenchError: an unknown name or parameter, or weights that cannot be had.
    """
    return architectures.build(
        architecture, num_classes=num_classes, image_size=image_size, weights=weights
    )
