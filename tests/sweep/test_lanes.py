"""Lanes side by side: real workers, each on processors of its own, and devices that go away."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnbench.cell import Cell, Timing
from cnnbench.errors import InvalidValueError, StoreError, UnknownNameError, WorkerError
from cnnbench.job import Answer, CellJob, Preflight, Ready
from cnnbench.sweep.cores import share_out
from cnnbench.sweep.lanes import Lane, Lanes, lanes_of, run_in_lanes
from cnnbench.sweep.plan import make_plan
from cnnbench.sweep.run import Observer, check, find_gpus, has_pulse, look
from cnnbench.sweep.workers import Forkserver, Launcher, Outcome, Place
from processes import descendants, wait_for, wait_until_ended

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cnnbench.job import Request
    from cnnbench.record import Record

# No machine has it, so that whatever runs there fails, and its pulse with it.
GONE = "cuda:99"
TIMING = Timing(window_seconds=0.001, min_windows=2, max_windows=2, limit_seconds=1, warmup_steps=1)
MODELS = """
import json, os, time
from pathlib import Path
from torch import get_num_threads, nn

def net(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def meets(num_classes, me, other):
    # Ends only beside the other one: both must be running at once.
    Path(f"{me}.part").write_text(json.dumps({
        "processors": sorted(os.sched_getaffinity(0)), "num_threads": get_num_threads(),
        "lane": os.environ.get("CNNBENCH_TEST_LANE")}))
    Path(f"{me}.part").rename(f"{me}.json")
    deadline = time.monotonic() + 60
    while not Path(f"{other}.json").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(other)
        time.sleep(0.01)
    return net(num_classes)

def hangs(num_classes):
    Path("hangs.part").write_text(str(os.getpid()))
    Path("hangs.part").rename("hangs")
    time.sleep(1000)
"""


class Noting(Observer):
    """Writes down what it hears, and in which threads."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.records: list[str] = []
        self.warnings: list[str] = []
        self.threads: set[threading.Thread] = set()

    def on_cell(self, cell: Cell) -> None:
        self.cells.append(cell.architecture)
        self.threads.add(threading.current_thread())

    def on_progress(self, cell: Cell, progress: object) -> None:
        del cell, progress
        self.threads.add(threading.current_thread())

    def on_record(self, record: Record) -> None:
        self.records.append(record.cell.architecture)
        self.threads.add(threading.current_thread())

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lanes")
    (folder / "models_for_lanes.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield folder


@pytest.fixture(scope="module")
def places(folder: Path) -> list[Place]:
    del folder
    usable = sorted(os.sched_getaffinity(0))
    return [
        Place(processors=frozenset({processor}), variables={"CNNBENCH_TEST_LANE": name})
        for name, processor in (("first", usable[0]), ("second", usable[-1]))
    ]


@pytest.fixture(scope="module")
def launchers(places: list[Place]) -> Iterator[list[Forkserver]]:
    with Forkserver(places[0]) as first, Forkserver(places[1]) as second:
        yield [first, second]


@pytest.fixture(scope="module")
def ready(launchers: list[Forkserver], folder: Path) -> Ready:
    job = Preflight(
        device="cpu",
        dataset="synthetic(num_images=64)",
        data_dir=str(folder),
        cache_dir=str(folder),
        download=False,
        image_size=8,
        models=(("models_for_lanes:net", "none"),),
    )
    return check(launchers[0], job)


def jobs_of(ready: Ready, *models: str) -> list[CellJob]:
    """Return a short cell of each model; several of one model differ in their seed."""
    cells = [
        Cell(
            architecture=f"models_for_lanes:{model}",
            dataset="synthetic(num_images=64)",
            seed=seed,
            timing=TIMING,
        )
        for seed, model in enumerate(models)
    ]
    known = Ready(
        environment=ready.environment,
        dataset=ready.dataset,
        model_digests={cell.architecture: "" for cell in cells},
    )
    plan = make_plan("test", cells, known)
    return [
        CellJob(
            cell=cell,
            dataset=ready.dataset,
            device="cpu",
            sweep_id=plan.sweep_id,
            environment_hash=plan.environment_hash(cell),
        )
        for cell in plan.cells
    ]


def run(
    lanes: Sequence[Lane], ready: Ready, jobs: list[CellJob], observer: Observer | None = None
) -> list[Record]:
    records: list[Record] = []
    run_in_lanes(
        lanes,
        jobs,
        ready.environment,
        timeout_seconds=120.0,
        observer=observer or Observer(),
        keep=records.append,
    )
    return records


def on_devices(launchers: Sequence[Forkserver], *devices: str) -> list[Lane]:
    return [
        Lane(launcher=one, name=f"lane {number}", device=device)
        for number, (one, device) in enumerate(zip(launchers, devices, strict=True))
    ]


def test_two_lanes_run_at_once_each_on_its_own_processor(
    launchers: list[Forkserver], places: list[Place], ready: Ready, folder: Path
) -> None:
    jobs = jobs_of(ready, "meets(me='a',other='b')", "meets(me='b',other='a')", "net", "net")
    observer = Noting()
    records = run(on_devices(launchers, "cpu", "cpu"), ready, jobs, observer)
    assert [record.status for record in records] == ["completed"] * 4, records
    assert {record.cell_hash for record in records} == {job.cell.hash for job in jobs}
    assert sorted(observer.records) == sorted(observer.cells)
    assert observer.threads == {threading.current_thread()}
    told = [json.loads((folder / f"{name}.json").read_text()) for name in ("a", "b")]
    assert {one["lane"] for one in told} == {"first", "second"}
    assert {one["num_threads"] for one in told} == {1}
    own = {place.variables["CNNBENCH_TEST_LANE"]: sorted(place.processors) for place in places}
    assert {one["lane"]: one["processors"] for one in told} == own


def test_a_lane_whose_device_has_gone_loses_no_cell(
    launchers: list[Forkserver], ready: Ready
) -> None:
    jobs = jobs_of(ready, "net", "net", "net")
    observer = Noting()
    records = run(on_devices(launchers, GONE, "cpu"), ready, jobs, observer)
    assert [record.status for record in records] == ["completed"] * 3
    assert {record.cell_hash for record in records} == {job.cell.hash for job in jobs}
    (warning,) = observer.warnings
    assert warning.startswith("lane 0 is out of the sweep: it answers no more (")


def test_without_a_device_left_the_cells_end_as_failed_with_the_reason(
    launchers: list[Forkserver], ready: Ready
) -> None:
    jobs = jobs_of(ready, "net", "net", "net", "net")
    records = run(on_devices(launchers, GONE, GONE), ready, jobs)
    assert [record.status for record in records] == ["failed"] * 4
    assert {record.cell_hash for record in records} == {job.cell.hash for job in jobs}
    reasons = [record.error or "" for record in records]
    assert all(reasons)
    left = [reason for reason in reasons if reason.startswith("no device is left to run on: ")]
    assert len(left) >= 2
    assert all("lane 0: it answers no more" in reason for reason in left)
    assert all("lane 1: it answers no more" in reason for reason in left)


def test_a_cell_that_fails_by_itself_closes_no_lane(
    launchers: list[Forkserver], ready: Ready
) -> None:
    jobs = jobs_of(ready, "net(bad=1)", "net", "net(bad=2)", "net")
    observer = Noting()
    records = run(on_devices(launchers, "cpu", "cpu"), ready, jobs, observer)
    statuses = {record.cell.seed: record.status for record in records}
    assert statuses == {0: "failed", 1: "completed", 2: "failed", 3: "completed"}
    assert observer.warnings == []


class Broken(Launcher):
    """A launcher that can start no worker any more."""

    def run(self, *_: object, **__: object) -> Outcome:
        msg = "the fork server was killed by SIGKILL"
        raise WorkerError(msg)


def test_a_lane_that_can_start_no_worker_loses_no_cell(
    launchers: list[Forkserver], ready: Ready
) -> None:
    lanes = [Lane(launcher=Broken(), name="broken"), Lane(launcher=launchers[0], name="whole")]
    observer = Noting()
    records = run(lanes, ready, jobs_of(ready, "net", "net"), observer)
    assert [record.status for record in records] == ["completed"] * 2
    assert observer.warnings == [
        "broken is out of the sweep: the fork server was killed by SIGKILL"
    ]


def test_a_cell_that_takes_two_lanes_down_with_it_is_tried_on_no_third(ready: Ready) -> None:
    lanes = [Lane(launcher=Broken(), name=name) for name in ("a", "b", "c")]
    (record,) = run(lanes, ready, jobs_of(ready, "net"))
    assert record.status == "failed"
    assert (record.error or "").startswith("2 lanes were lost with it: ")


def test_a_single_lane_runs_the_jobs_as_they_are(launchers: list[Forkserver], ready: Ready) -> None:
    records = run([Lane(launcher=launchers[0])], ready, jobs_of(ready, "net", "net"))
    assert [(record.cell.seed, record.status) for record in records] == [
        (0, "completed"),
        (1, "completed"),
    ]


def test_a_cpu_is_one_lane_and_a_device_that_is_not_there_is_refused(
    launchers: list[Forkserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="unknown isolation"):
        Lanes("docker", "cpu")
    monkeypatch.setattr("cnnbench.sweep.lanes.launcher", lambda *_: launchers[0])
    workers = Lanes("forkserver", "cpu")
    assert lanes_of(workers) == lanes_of(launchers[0]) == [Lane(launcher=launchers[0])]
    assert look(workers, "cpu").device_type == "cpu"
    assert find_gpus(workers, "cpu") == ()
    with pytest.raises(InvalidValueError, match="unknown device"):
        lanes_of(Lanes("forkserver", "tpu"))


class TwoGpus(Launcher):
    """What a worker would answer on a machine with two GPUs of one model."""

    is_closed = False

    def run(self, request: Request, **_: object) -> Outcome:
        assert request.gpus == "auto"
        answer = Answer(gpus=("GPU-a", "GPU-b"))
        return Outcome(answer=answer, death=None, timed_out=False, started_at=0, stderr_tail="")

    def close(self) -> None:
        self.is_closed = True


def test_each_gpu_of_a_model_is_a_lane_with_processors_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    first = TwoGpus()
    with monkeypatch.context() as patch:
        patch.setattr("cnnbench.sweep.lanes.launcher", lambda *_: first)
        workers = Lanes("forkserver", "auto", Place(variables={"TRITON_CACHE_DIR": "there"}))
    before = descendants(os.getpid())
    with workers:
        lanes = workers.lanes
        assert first.is_closed
        assert [(lane.name, lane.device_uuid) for lane in lanes] == [
            ("GPU-a", "GPU-a"),
            ("GPU-b", "GPU-b"),
        ]
        assert {lane.device for lane in lanes} == {"cuda:0"}
        servers = sorted(descendants(os.getpid()) - before)
        for pid, lane in zip(servers, lanes, strict=True):
            file = Path(f"/proc/{pid}/environ")
            wait_for(file.read_bytes, said="the server's variables")
            variables = file.read_text().split("\0")
            assert f"CUDA_VISIBLE_DEVICES={lane.name}" in variables
            assert "TRITON_CACHE_DIR=there" in variables
        shares = [os.sched_getaffinity(pid) for pid in servers]
        assert shares == share_out(os.sched_getaffinity(0), 2)
        assert workers.lanes is lanes
    wait_until_ended(servers)


def test_a_device_has_a_pulse_as_long_as_it_computes(launchers: list[Forkserver]) -> None:
    assert has_pulse(launchers[0], "cpu")
    assert has_pulse(launchers[0], None)
    assert not has_pulse(launchers[0], GONE)


def test_what_cannot_be_kept_ends_the_sweep_and_its_processes(
    launchers: list[Forkserver], ready: Ready, folder: Path
) -> None:
    # Last of those that share the launchers, for it ends one of them.

    def refuse(_: Record) -> None:
        wait_for((folder / "hangs").exists, said="the cell on the other lane")
        msg = "the disk is full"
        raise StoreError(msg)

    server = launchers[0]._server.pid  # noqa: SLF001  # whose workers are to end with it
    with pytest.raises(StoreError, match="the disk is full"), launchers[0]:
        run_in_lanes(
            on_devices(launchers, "cpu", "cpu"),
            jobs_of(ready, "hangs", "net"),
            ready.environment,
            timeout_seconds=None,
            observer=Observer(),
            keep=refuse,
        )
    wait_until_ended([server, int((folder / "hangs").read_text())])


@pytest.mark.gpu
def test_on_cuda_a_lane_sees_its_own_gpu_alone(places: list[Place]) -> None:
    with Forkserver(places[0]) as workers:
        uuids = find_gpus(workers, "auto")
        assert uuids
        assert find_gpus(workers, "cuda:0") == ()
    place = Place(variables={"CUDA_VISIBLE_DEVICES": uuids[-1]})
    with Forkserver(place) as own:
        assert find_gpus(own, "cuda") == (uuids[-1],)
        assert has_pulse(own, "cuda:0")
