"""The whole job as functions: run a sweep, load its records, examine the machine, build a model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnbench import architectures
from cnnbench.errors import InvalidValueError
from cnnbench.max_batch import MaxBatchSession
from cnnbench.options import AUTO, sort_settings
from cnnbench.results import Records, load
from cnnbench.session import Session
from cnnbench.sweep.run import Observer
from cnnbench.sweep.studies import STUDIES
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from cnnbench.campaign.loop import Findings
    from cnnbench.cell import Cell
    from cnnbench.examination import Diagnostics
    from cnnbench.max_batch import LargestBatch
    from cnnbench.outlook import Outlooks

__all__ = [
    "Records",
    "build",
    "doctor",
    "find_max_batch",
    "forecast",
    "load",
    "plan",
    "run",
    "study",
]


def run(profile: str = "quick", *, observer: Observer | None = None, **settings: Any) -> Records:
    """Run a sweep, or what is missing of it, and return all its records.

    Args:
        profile: `quick`, `gpu`, `full`, a TOML file, or `auto` (`gpu` on CUDA, else `quick`).
        observer: hears what happens; by default nothing is shown.
        settings: the fields of `Options`; any axis (`architecture`, `precision`, `batch_size`,
            `checkpointing`, `memory_format`, `compile`, `loader`, `parallelism`, `seed`), a value or a
            list, which replaces the profile's; any name of the `Recipe` (`epochs`, `learning_rate`, ...).

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


def forecast(profile: str = "quick", **settings: Any) -> Outlooks:
    """Return what the cells that `run` would run with the same arguments need; nothing is run or written.

    Raises:
        CnnbenchError: what the user can put right.
    """
    found: Outlooks = import_module("cnnbench.outlook").forecast_memory(profile, settings)
    return found


def find_max_batch(
    profile: str = "quick", *, observer: Observer | None = None, **settings: Any
) -> tuple[list[LargestBatch], Path | None]:
    """Return the largest batch of every setting, found by trying, and the folder of the tries.

    Args:
        profile: as for `run`; its batch sizes do not count.
        observer: hears what happens.
        settings: as for `run`; on a CPU `memory_budget` (`2GiB`, or bytes) must be among them.

    Raises:
        CnnbenchError: what the user can put right, found before the first try.
    """
    session = MaxBatchSession(profile, settings, observer or Observer())
    folder = session.run().folder
    return session.found, folder


def doctor(
    *, noise: bool = False, say: Callable[[str], None] = lambda _: None, **settings: Any
) -> Diagnostics:
    """Say what this machine can measure, and what would spoil it.

    Args:
        noise: measure the machine's noise floor as well, which takes minutes, and keep it beside the
            results: from then on smaller differences count as none.
        say: told what is being done.
        settings: `device`, `data_dir`, `results_dir` and `tracking_uri`, as for `run`.

    Raises:
        CnnbenchError: there is no such device, or the noise could not be measured.
    """
    options, _, _ = sort_settings(settings)
    # Its statistics bring scipy, which no refusal of a run should wait for.
    diagnose_machine = import_module("cnnbench.examination").diagnose_machine
    found: Diagnostics = diagnose_machine(options, with_noise=noise, say=say)
    return found


def study(
    *names: str,
    budget_seconds: float | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> Findings:
    """Put advice to the test here, and write what came of it.

    Args:
        names: studies, or TOML files; none means all documented ones.
        budget_seconds: no cell starts after so long.
        observer: hears what happens; by default nothing is shown.
        settings: the fields of `Options`.

    Raises:
        CnnbenchError: what the user can put right, found before the first cell.
    """
    options, axes, recipe = sort_settings(settings)
    for name in (*axes, *recipe):
        msg = f"a study has its own {name}: write a study of your own to change it."
        raise InvalidValueError(msg)
    # Its statistics bring scipy, which no refusal of a run should wait for.
    campaign = import_module("cnnbench.campaign.loop").Campaign
    found: Findings = campaign(
        names or tuple(STUDIES), options, observer or Observer(), budget_seconds=budget_seconds
    ).run()
    return found


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
