"""What is done before a study's first cell: data, models and weights checked, tied widths worked out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnbench.campaign.trial import Trial
from cnnbench.errors import CnnbenchError, WorkerError
from cnnbench.job import EqualWidth, Preflight
from cnnbench.session import device_of
from cnnbench.study import METRICS
from cnnbench.sweep.arms import Arm, make_cell
from cnnbench.sweep.run import check, find_width

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cnnbench.cell import Cell
    from cnnbench.environment import Environment
    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.study import Study
    from cnnbench.sweep.workers import Launcher


def prepare(
    workers: Launcher,
    study: Study,
    environment: Environment,
    *,
    records: Mapping[str, Record],
    data_dir: Path,
    cache_dir: Path,
    is_lenient: bool,
) -> Trial:
    """Return the study ready to run, or, of several, with the reason why it cannot.

    Args:
        workers: start the processes that look.
        study: what is asked.
        environment: what it will run on.
        records: those that stand, which the trial reads from.
        data_dir: where data sets lie.
        cache_dir: where prepared ones go.
        is_lenient: whether something that is missing here leaves the study unmeasured, instead of
            being raised.

    Raises:
        CnnbenchError: what the study lacks.
        WorkerError: a worker broke.
    """
    trial = Trial(study=study, device=environment.device, records=records)
    try:
        ready, worked_out = _prepare(workers, study, environment, data_dir, cache_dir)
        able = replace(trial, ready=ready, worked_out=worked_out)
        able.next_cells()  # resolves them: what the data set cannot give is refused here
    except WorkerError:
        raise
    except CnnbenchError as error:
        if not is_lenient:
            raise
        return replace(trial, reason=str(error))
    return able


def _prepare(
    workers: Launcher, study: Study, environment: Environment, data_dir: Path, cache_dir: Path
) -> tuple[Ready, dict[str, dict[str, Any]]]:
    def preflight(cells: list[Cell]) -> Ready:
        models = tuple(dict.fromkeys((cell.architecture, cell.recipe.weights) for cell in cells))
        job = Preflight(
            device=device_of(environment),
            dataset=study.dataset,
            data_dir=str(data_dir),
            cache_dir=str(cache_dir),
            download=study.download,
            image_size=cells[0].recipe.image_size,
            models=models,
        )
        return check(workers, job)

    worked_out: dict[str, dict[str, Any]] = {}
    if any("equal_flops" in variant.tied.values() for variant in study.variants):
        ready = preflight(_cells(study, worked_out))
        worked_out = _widths(workers, study, ready)
    return preflight(_cells(study, worked_out)), worked_out


def _cells(study: Study, worked_out: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Return a cell of each arm, as it is profiled or trained."""
    kinds = sorted({METRICS[claim.metric].kind for claim in study.claims})
    return [
        make_cell(study, Arm(name=name, kind=kind), seed=0, worked_out=worked_out.get(name))
        for name in study.arms
        for kind in kinds
    ]


def _widths(workers: Launcher, study: Study, ready: Ready) -> dict[str, dict[str, Any]]:
    """Return, by variant, the widths that make it cost what the baseline does."""
    kind = METRICS[study.claims[0].metric].kind
    base = make_cell(study, Arm(name=study.baseline, kind=kind), seed=0)
    found: dict[str, dict[str, Any]] = {}
    for variant in study.variants:
        for tied, rule in variant.tied.items():
            if rule == "equal_flops":
                cell = make_cell(study, Arm(name=variant.name, kind=kind), seed=0)
                job = EqualWidth(
                    baseline=base.architecture,
                    variant=cell.architecture,
                    num_classes=ready.dataset.num_classes,
                    image_size=base.recipe.image_size or ready.dataset.image_size,
                )
                found.setdefault(variant.name, {})[tied] = find_width(workers, job)
    return found
