"""A store that cannot be used is named in one line, and stays as it was."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
from alembic import command as alembic_command
from alembic.config import Config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialTables
from sqlalchemy import create_engine

from cnnbench.errors import StoreError
from cnnbench.tracking import Tracker, open_store
from cnnbench.tracking.addresses import shown as shown_address
from mlflow_server import free_port
from sample_records import (
    sample_record,
)
from tracked import kinds, open_sweep


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://token@host:5000", "http://***@host:5000"),
        ("http://me:p@ss/w@host", "http://***@host"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://***@host/db?***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_what_it_holds_of_secrets(uri: str, shown: str) -> None:
    assert shown_address(uri) == shown


def make_old_store(path: Path) -> None:
    """Make a store as an earlier MLflow did, by that MLflow's own migrations."""
    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    engine = create_engine(f"sqlite:///{path}")
    InitialTables.metadata.create_all(engine)
    engine.dispose()
    alembic_command.upgrade(config, "451aebb31d03")


def test_a_store_of_an_older_mlflow_is_refused_untouched_until_its_remedy_is_run(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mlflow.db"
    make_old_store(path)
    before = path.read_bytes()
    with pytest.raises(StoreError) as refusal:
        open_store(None, tmp_path)
    assert path.read_bytes() == before
    (message,) = str(refusal.value).splitlines()
    assert f"mlflow db upgrade sqlite:///{path}" in message
    remedy = message.split("`")[1].split()
    subprocess.run(remedy, check=True, capture_output=True)
    sweep = open_sweep(open_store(None, tmp_path))
    sweep.log(sample_record())
    assert kinds(sweep) == [("cell", "FINISHED")]
    sweep.tracker.close()


def test_a_store_of_an_unknown_mlflow_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
        connection.commit()
    with pytest.raises(StoreError, match="newer one: upgrade MLflow"):
        open_store(None, tmp_path)


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(StoreError, match="holds other tables"):
        open_store(None, tmp_path)


def test_a_corrupt_store_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="file is not a database") as refusal:
        open_store(None, tmp_path)
    assert str(tmp_path / "mlflow.db") in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_store_that_another_program_locks_is_refused(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.close()
    monkeypatch.setattr("cnnbench.tracking.database.LOCK_SECONDS", 0)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            open_store(None, tmp_path)


def test_a_results_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken") as refusal:
        open_store(None, tmp_path / "taken" / "results")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_may_not_be_written_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close()
    (tmp_path / "mlflow.db").chmod(0o444)
    with pytest.raises(StoreError, match="readonly"):
        open_store(None, tmp_path)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite://", "lives in memory"),
        ("sqlite:///what?.db", "in its name"),
        ("carrier-pigeon://loft", "carrier-pigeon"),
        ("sqlite:/one-slash.db", "cannot use the MLflow store"),
    ],
)
def test_an_address_that_is_none_is_refused_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=reason):
        open_store(uri, tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["what?", "100%41"])
def test_a_results_folder_that_no_address_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="in its name"):
        open_store(None, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_database_driver_is_named_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver in ("psycopg", "psycopg2"):  # as where neither is installed
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(StoreError, match="needs the Python package 'psycopg") as refusal:
        open_store("postgresql://me:secret@127.0.0.1/mlflow", tmp_path)
    assert "secret" not in str(refusal.value)
    assert "//***@127.0.0.1" in str(refusal.value)


@pytest.mark.timeout(60)
def test_a_server_that_refuses_is_named_before_long_and_no_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot use the MLflow store") as refusal:
        open_store(f"http://me:secret@127.0.0.1:{free_port()}", tmp_path)
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_web_server_that_is_not_mlflows_is_refused(tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that the base class calls
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a page</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(StoreError, match="cannot use the MLflow store"):
            open_store(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
