"""The two sides of a comparison: workers of each state of the code, and what they are asked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cnnbench.errors import CnnbenchError
from cnnbench.job import CellJob, Preflight
from cnnbench.session import device_of
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.run import check, look
from cnnbench.sweep.workers import Forkserver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cnnbench.environment import DatasetInfo, Environment
    from cnnbench.regress.suite import Subject
    from cnnbench.sweep.workers import Launcher

# Of one test: where data and models lie is the same for all tests with these.
_Place = tuple[str, int | None]


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

    def jobs(self, subjects: Sequence[Subject]) -> dict[str, CellJob]:
        """Return by name what a worker is asked to do for each test, every model tried once.

        Raises:
            CnnbenchError: naming the side, and what is wrong with it.
        """
        places: dict[_Place, list[Subject]] = {}
        for subject in subjects:
            places.setdefault(_place(subject), []).append(subject)
        jobs = {}
        for place, own in places.items():
            dataset = self._prepare(place, own)
            jobs.update({subject.name: self._job(subject, dataset) for subject in own})
        return jobs

    def _prepare(self, place: _Place, subjects: Sequence[Subject]) -> DatasetInfo:
        dataset, image_size = place
        models = ((s.cell.architecture, s.cell.recipe.weights) for s in subjects)
        job = Preflight(
            device=device_of(self.environment),
            dataset=dataset,
            data_dir=str(self.data_dir),
            cache_dir=str(self.folder),
            download=False,
            image_size=image_size,
            models=tuple(dict.fromkeys(models)),
        )
        try:
            return check(self.workers, job).dataset
        except CnnbenchError as error:
            msg = f"the {self.name} cannot be measured: {error}"
            raise type(error)(msg) from error

    def _job(self, subject: Subject, dataset: DatasetInfo) -> CellJob:
        return CellJob(
            cell=resolve(subject.cell, dataset),
            dataset=dataset,
            device=device_of(self.environment),
            device_uuid=self.environment.device_uuid,
            sweep_id="regress",
            environment_hash=self.environment.hash_with(),
            workload=subject.workload,
        )


def seeded(job: CellJob, seed: int) -> CellJob:
    """Return `job` with another seed."""
    return replace(job, cell=replace(job.cell, seed=seed))


@contextmanager
def side(name: str, device: str, data_dir: Path, folder: Path, root: Path | None) -> Iterator[Side]:
    """Yield a side whose workers run the code in `root`, `None` being this very code."""
    with Forkserver(root=root) as workers:
        own = folder / name
        own.mkdir()
        yield Side(name=name, workers=workers, device=device, data_dir=data_dir, folder=own)


def _place(subject: Subject) -> _Place:
    return subject.cell.dataset, subject.cell.recipe.image_size
