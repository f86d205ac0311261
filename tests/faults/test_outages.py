"""A tracking store that is locked, refuses, fails, is silent, or is gone and comes back: no cell waits."""

from __future__ import annotations

import http.client
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
import torch

from cnnbench import logbook as logbook_module
from cnnbench.job import Ready
from cnnbench.logbook import MlflowLogbook
from cnnbench.sweep.journal import NAME, Journal
from cnnbench.sweep.run import Observer
from cnnbench.tracking import open_store
from command import TINY_PROFILE, run_here
from mlflow_server import free_port, mlflow_server
from sample_records import (
    sample_cell,
    sample_dataset,
    sample_environment,
    sample_record,
    write_surroundings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.record import Record

READY = Ready(environment=sample_environment(), dataset=sample_dataset(), model_digests={})


def records_of(sweep_id: str) -> list[Record]:
    return [sample_record(sweep_id=sweep_id, cell=sample_cell(seed=seed)) for seed in range(4)]


class Noting(Observer):
    """Writes down the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


@dataclass
class Front:
    """A web server before MLflow's: hands on, fails, or says nothing."""

    port: int
    behind: int
    mode: str = "hands on"
    num_requests: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def front(behind: int) -> Iterator[Front]:
    state = Front(port=free_port(), behind=behind)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            state.num_requests += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if state.mode == "silent":
                state.released.wait(30)
            elif state.mode == "closes":
                return
            elif state.mode == "fails":
                self.send_response(500)
                self.send_header("Retry-After", "3600")
                self.end_headers()
            else:
                self._hand_on(body)

        def _hand_on(self, body: bytes) -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", state.behind)) as connection:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815 (the base class's names)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", state.port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Served:
    """A real MLflow server that can be stopped and started again on the same store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._running = ExitStack()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        variables = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.folder}/served.db",
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "served"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._running.enter_context(
            mlflow_server(
                [*command, "--port", str(self.port)],
                environment=variables,
                health=f"{self.address}/health",
                log=self.folder / "server.log",
            )
        )

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow's own variables, set by a user who waits for one second, once more."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def opened(uri: str, folder: Path, observer: Observer, sweep_id: str) -> MlflowLogbook:
    book = MlflowLogbook(uri, folder, observer)
    book.open(sweep_id, "quick", READY)
    return book


def page_of(sweep: Path) -> Path:
    page = sweep / "report" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<p>the report")
    return page


def cells_of(uri: str, folder: Path, sweep_id: str) -> list[str]:
    """Return the hashes of the cells that have a run, and check that nothing is RUNNING."""
    tracker = open_store(uri, folder, create=False)
    ids = [experiment.experiment_id for experiment in tracker.client.search_experiments()]
    runs = list(tracker.client.search_runs(ids, f"tags.sweep_id = '{sweep_id}'"))
    tracker.close()
    assert "RUNNING" not in {run.info.status for run in runs}
    return sorted(run.data.tags["cell_hash"] for run in runs if run.data.tags["kind"] == "cell")


def hashes(records: list[Record]) -> list[str]:
    return sorted(record.cell_hash for record in records)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("mode", ["closes", "fails", "silent"])
def test_an_outage_is_asked_about_once_and_caught_up_with_at_the_end(
    served: Served, tmp_path: Path, mode: str
) -> None:
    observer, records = Noting(), records_of(mode)
    with front(served.port) as before:
        book = opened(before.address, tmp_path, observer, mode)
        assert book.catch_up([])
        book.log(records[0])
        before.mode = mode
        book.log(records[1])
        asked = before.num_requests
        for record in records[2:]:
            book.log(record)
        assert before.num_requests == asked, "in the pause nothing is asked"
        before.mode = "hands on"
        assert book.finish(records, page_of(tmp_path / mode)) == 0
        book.close()
    (warning,) = observer.warnings
    assert warning.startswith("MLflow does not take records (cannot use the MLflow store http:")
    assert cells_of(served.address, tmp_path, mode) == hashes(records)


@pytest.mark.usefixtures("impatient")
def test_what_waits_is_logged_between_cells_once_the_store_is_back(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook_module, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(logbook_module, "PATIENCE", 0.0)
    records = records_of("between")
    with front(served.port) as before:
        book = opened(before.address, tmp_path, Noting(), "between")
        before.mode = "closes"
        assert book.catch_up(records[:2])
        before.mode = "hands on"
        time.sleep(0.1)
        book.log(records[2])
        assert cells_of(served.address, tmp_path, "between") == hashes(records[:3])
        assert book.finish(records[:3], page_of(tmp_path / "between")) == 0
        book.close()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_stopped_and_started_gets_every_cell_once(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The last with this server: it is another process afterwards.
    observer, records = Noting(), records_of("stopped")
    results = tmp_path / "results"
    book = opened(served.address, results, observer, "stopped")
    assert book.catch_up([])
    with Journal(results / "stopped" / NAME) as journal:
        for number, record in enumerate(records):
            if number == 2:
                served.stop()
            journal.append(record)
            book.log(record)
    assert book.finish(records, page_of(results / "stopped")) == 3  # two cells' and the sweep's own
    book.close()
    outage, end = observer.warnings
    assert outage.endswith("; they wait in the journal")
    command = f"cnnbench sync --results-dir {results} --tracking-uri {served.address} stopped"
    assert end.endswith(f" Later: {command}")
    write_surroundings(results / "stopped")
    served.start()
    for num_logged in (2, 0):
        assert run_here(*command.split()[1:], folder=tmp_path) == 0
        assert capfd.readouterr().out == f"stopped: 4 cells, {num_logged} logged now\n"
    assert cells_of(served.address, results, "stopped") == hashes(records)


LOCKING_MODELS = """
import sqlite3, sys
from pathlib import Path
from torch import nn

def net(num_classes, locks=False):
    if locks and Path("builds").exists() and Path("lock").exists():
        sys.holds_a_lock = sqlite3.connect("results/local/mlflow.db", isolation_level=None)
        sys.holds_a_lock.execute("BEGIN IMMEDIATE")
    if locks:
        Path("builds").touch()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""


@contextmanager
def patience(milliseconds: int) -> Iterator[None]:
    """Let SQLite wait less long for a lock than the 20 s that MLflow sets in each session."""

    def hurry(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> Any:
        return statement.replace(
            "busy_timeout = 20000", f"busy_timeout = {milliseconds}"
        ), parameters

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", hurry, retval=True)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", hurry)


def test_a_store_that_stays_locked_costs_no_cell_and_strict_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    (tmp_path / "locking_models.py").write_text(LOCKING_MODELS)
    (tmp_path / "lock").touch()
    run = (
        *("run", "--profile", "tiny.toml", "--batch-size", "32", "--epochs", "0"),
        *("--architecture", "locking_models:net,locking_models:net(locks=True)"),
        *("--isolation", "inline"),
    )
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with patience(100):
            assert run_here(*run, "--strict", folder=tmp_path) == 1
        out, err = capfd.readouterr()
        assert "2 cells: 2 completed" in out
        assert "database is locked" in err
        assert " Later: cnnbench sync " in err
        vars(sys).pop("holds_a_lock").close()
        (tmp_path / "lock").unlink()
        assert run_here(*run, "--strict", folder=tmp_path) == 0
        assert "logged 1 cells that MLflow had not got" in capfd.readouterr().err
    finally:
        torch.set_num_threads(num_threads)
