"""The server that docs/team-server.md describes: PostgreSQL, S3 and logins, each the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chromium import CHROMIUM, PATIENCE_MS, chromium
from cnnbench.results import load
from cnnbench.tracking import Tracker, open_store
from command import TINY_PROFILE, listing, run_here
from log_sweep import records
from sample_records import sample_dataset, sample_environment
from team_servers import (
    ADMIN,
    ADMIN_PASSWORD,
    S3_LOGIN,
    Cluster,
    artifacts,
    postgres,
    postgres_program,
    s3,
    team_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMBER, MEMBER_PASSWORD = "member", "a-secret-of-the-member"
TESTS = Path(__file__).parent.parent
SWEEPS = ("team-000000000001", "team-000000000002")
CELLS_A_SWEEP = 6

pytestmark = pytest.mark.skipif(
    postgres_program("initdb") is None, reason="no PostgreSQL server is installed here"
)


@dataclass(frozen=True, kw_only=True)
class Team:
    """The servers that run: PostgreSQL, S3 and MLflow."""

    cluster: Cluster
    s3: str
    mlflow: str


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    for package, used in (("psycopg", "psycopg"), ("boto3", "boto3"), ("moto", "moto.server")):
        pytest.importorskip(used, reason=f"{package} is not installed")
    pytest.importorskip("flask_wtf", reason="flask-wtf, which MLflow's logins need, is missing")
    with ExitStack() as running:
        cluster = running.enter_context(postgres())
        store = running.enter_context(s3())
        folder = tmp_path_factory.mktemp("team")
        server = running.enter_context(team_server(cluster, store, folder))
        with logged_in(ADMIN, ADMIN_PASSWORD):
            add_member(server)
        yield Team(cluster=cluster, s3=store, mlflow=server)


@pytest.fixture
def member() -> Iterator[None]:
    with logged_in(MEMBER, MEMBER_PASSWORD):
        yield


def logged_in(user: str, password: str) -> Any:
    """Return a context in which MLflow logs in, as docs/team-server.md says."""
    stack = ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("MLFLOW_TRACKING_USERNAME", user)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    return stack


def add_member(server: str) -> None:
    from mlflow.server import get_app_client  # noqa: PLC0415  # brings the server

    get_app_client("basic-auth", tracking_uri=server).create_user(MEMBER, MEMBER_PASSWORD)


def start_sweep(sweep_id: str, uri: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process of its own that logs a sweep."""
    return subprocess.Popen(
        [
            *(sys.executable, str(TESTS / "log_sweep.py")),
            *(sweep_id, uri, str(folder), str(CELLS_A_SWEEP)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))},
        stdin=subprocess.DEVNULL,
    )


def log_at_once(uri: str, folder: Path) -> None:
    """Log two sweeps from two processes at the same time."""
    processes = [start_sweep(sweep_id, uri, folder) for sweep_id in SWEEPS]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


def assert_nothing_is_lost(tracker: Tracker) -> None:
    """Compare the store with the records, run by run and number by number."""
    experiment = tracker.client.get_experiment_by_name("cnnbench/team")
    assert experiment is not None
    runs = tracker.client.search_runs([experiment.experiment_id], max_results=1000)
    for sweep_id in SWEEPS:
        ours = [run for run in runs if run.data.tags["sweep_id"] == sweep_id]
        assert sorted(run.data.tags["kind"] for run in ours) == ["cell"] * CELLS_A_SWEEP + ["sweep"]
        assert {run.info.status for run in ours} == {"FINISHED"}
        rates = {run.data.tags.get("cell_hash"): run.data.metrics for run in ours}
        for record in records(sweep_id, CELLS_A_SWEEP):
            assert rates[record.cell_hash]["images_per_second"] == record.row()["images_per_second"]


@pytest.mark.usefixtures("member")
def test_two_sweeps_and_a_ui_session_at_once_lose_nothing(team: Team, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    tracker = open_store(team.mlflow, tmp_path)
    environment, dataset = sample_environment(), sample_dataset()
    for sweep_id in SWEEPS:  # so that there is an experiment to look at
        tracker.sweep(sweep_id, profile="team", environment=environment, dataset=dataset)
    address = tracker.ui(port=0, profile="team").address
    with chromium() as browser:
        login = {"username": MEMBER, "password": MEMBER_PASSWORD}
        page = browser.new_page(
            http_credentials=login,  # type: ignore[arg-type]  # a TypedDict of playwright's own
            viewport={"width": 1600, "height": 1000},
        )
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.get_by_role("heading", name="Runs", exact=True).wait_for()
        log_at_once(team.mlflow, tmp_path)
        page.reload()
        page.get_by_text(f"{len(SWEEPS) * CELLS_A_SWEEP} matching runs").wait_for()
        page.screenshot(path=tmp_path / "team.png")
    assert_nothing_is_lost(tracker)
    names = artifacts(team.s3)
    assert len([name for name in names if name.endswith("/record.json")]) == (
        len(SWEEPS) * CELLS_A_SWEEP
    )


def test_two_sweeps_at_once_on_the_database_itself_lose_nothing(team: Team, tmp_path: Path) -> None:
    team.cluster.create("direct")
    tracker = open_store(team.cluster.uri("direct"), tmp_path)
    log_at_once(tracker.uri, tmp_path)
    assert_nothing_is_lost(tracker)
    tracker.close()
    assert len(list((tmp_path / "mlartifacts").rglob("record.json"))) == len(SWEEPS) * CELLS_A_SWEEP


@pytest.mark.usefixtures("member")
def test_a_real_sweep_is_logged_there_and_no_password_is_kept_anywhere(
    team: Team, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    command = ("run", "--profile", "tiny.toml", "--tracking-uri", team.mlflow)
    assert run_here(*command, folder=tmp_path) == 0
    out, err = capfd.readouterr()
    (sweep,) = (tmp_path / "results" / "local").glob("*/journal.jsonl")
    assert not (tmp_path / "results" / "local" / "mlflow.db").exists()
    tracker = open_store(team.mlflow, tmp_path)
    experiment = tracker.client.get_experiment_by_name("cnnbench/tiny")
    assert experiment is not None
    runs = tracker.client.search_runs([experiment.experiment_id], "tags.kind = 'cell'")
    assert {run.data.tags["cell_hash"] for run in runs} == {
        record.cell_hash for record in load(sweep.parent)
    }
    kept = [path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()]
    kept += [out.encode(), err.encode(), str([run.to_dictionary() for run in runs]).encode()]
    for run in runs:
        folder = Path(tracker.client.download_artifacts(run.info.run_id, "", str(tmp_path)))
        kept += [path.read_bytes() for path in folder.rglob("*.json")]
    secrets = (MEMBER_PASSWORD, ADMIN_PASSWORD, S3_LOGIN["AWS_SECRET_ACCESS_KEY"])
    for secret in secrets:
        assert not [text for text in kept if secret.encode() in text]


def test_a_wrong_password_is_refused_before_anything_is_written(
    team: Team, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    before = listing(tmp_path)
    with logged_in(MEMBER, "mistyped"):
        command = ("run", "--profile", "tiny.toml", "--tracking-uri", team.mlflow)
        assert run_here(*command, folder=tmp_path) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"cnnbench: cannot use the MLflow store {team.mlflow}: ")
    assert "Traceback" not in err
    assert "mistyped" not in err
    assert listing(tmp_path) == before
