"""The two sides of a comparison: workers of each state of the code, and what they are asked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cnnbench.errors import CnnbenchError
from cnnbench.job import CellJob, Preflight
from cnnbench.session import absolute, device_of
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.run import check, look
from cnnbench.sweep.workers import ANYWHERE, Forkserver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cnnbench.cell import Cell
    from cnnbench.environment import DatasetInfo, Environment
    from cnnbench.regress.suite import Subject
    from cnnbench.sweep.workers import Launcher, Place

# Of one test: where data and models lie is the same for all tests with these.
_Place = tuple[str, int | None]
# An architecture and its weights.
_Model = tuple[str, str]
# Weights that are no file.
NAMED_WEIGHTS = ("default", "imagenet", "none")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One state of the code at work.

    Each side prepares its own data in `folder`: a change of the data path changes a number as well.
    """

    name: str
    workers: Launcher
    device: str
    data_dir: Path
    folder: Path

    @cached_property
    def environment(self) -> Environment:
        """Return what the side's workers see of the machine."""
        return look(self.workers, self.device)

    def jobs(self, subjects: Sequence[Subject]) -> tuple[dict[str, CellJob], dict[str, str]]:
        """Return by name what a worker is asked to do for each test, every model tried once.

        The second of the two says of each test whose model cannot be built why not.

        Raises:
            CnnbenchError: naming the side, and what is wrong with its data.
        """
        places: dict[_Place, list[Subject]] = {}
        for subject in subjects:
            anchor = replace(subject, cell=anchored(subject.cell))
            places.setdefault(_place(anchor), []).append(anchor)
        jobs: dict[str, CellJob] = {}
        refused: dict[str, str] = {}
        for place, own in places.items():
            models = tuple(dict.fromkeys(map(_model, own)))
            dataset, unfit = self._prepare(place, models)
            for subject in own:
                if _model(subject) in unfit:
                    refused[subject.name] = unfit[_model(subject)]
                else:
                    jobs[subject.name] = self._job(subject, dataset)
        return jobs, refused

    def _prepare(
        self, place: _Place, models: tuple[_Model, ...]
    ) -> tuple[DatasetInfo, dict[_Model, str]]:
        """Prepare the data and try the models; where one is refused, each by itself."""
        try:
            return self._check(place, models), {}
        except CnnbenchError:
            dataset = self._check_data(place)
        unfit: dict[_Model, str] = {}
        for model in models:
            try:
                self._check(place, (model,))
            except CnnbenchError as error:
                unfit[model] = str(error)
        return dataset, unfit

    def _check_data(self, place: _Place) -> DatasetInfo:
        try:
            return self._check(place, ())
        except CnnbenchError as error:
            msg = f"the {self.name} cannot be measured: {error}"
            raise type(error)(msg) from error

    def _check(self, place: _Place, models: tuple[_Model, ...]) -> DatasetInfo:
        dataset, image_size = place
        job = Preflight(
            device=device_of(self.environment),
            dataset=dataset,
            data_dir=str(self.data_dir),
            cache_dir=str(self.folder),
            download=False,
            image_size=image_size,
            models=models,
        )
        return check(self.workers, job).dataset

    def _job(self, subject: Subject, dataset: DatasetInfo) -> CellJob:
        return CellJob(
            cell=resolve(subject.cell, dataset),
            dataset=dataset,
            device=device_of(self.environment),
            device_uuid=self.environment.device_uuid,
            sweep_id="regress",
            environment_hash=self.environment.hash_with(),
            workload=subject.workload,
            measures_energy=False,
        )


def seeded(job: CellJob, seed: int) -> CellJob:
    """Return `job` with another seed."""
    return replace(job, cell=replace(job.cell, seed=seed))


@contextmanager
def side(
    name: str, device: str, data_dir: Path, folder: Path, place: Place = ANYWHERE
) -> Iterator[Side]:
    """Yield a side whose workers run in `place`, which decides what code they find."""
    with Forkserver(place) as workers:
        own = folder / name
        own.mkdir()
        yield Side(name=name, workers=workers, device=device, data_dir=data_dir, folder=own)


def anchored(cell: Cell) -> Cell:
    """Return the cell with the folders and files that it names given from the root on.

    A worker may run in another folder, that of another state of the code.
    """
    kind, colon, path = cell.dataset.partition(":")
    if kind == "folder":
        cell = replace(cell, dataset=f"{kind}{colon}{absolute(path)}")
    if cell.recipe.weights not in NAMED_WEIGHTS:
        recipe = replace(cell.recipe, weights=str(absolute(cell.recipe.weights)))
        cell = replace(cell, recipe=recipe)
    return cell


def _place(subject: Subject) -> _Place:
    return subject.cell.dataset, subject.cell.recipe.image_size


def _model(subject: Subject) -> _Model:
    return subject.cell.architecture, subject.cell.recipe.weights
