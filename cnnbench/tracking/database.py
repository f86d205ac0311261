"""The database of a store that is no server: made whole, and refused if it is not this MLflow's."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import mlflow
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from cnnbench.errors import StoreError
from cnnbench.tracking.addresses import shown, sqlite_path, sqlite_uri

LOCK_SECONDS = 20


def open_database(uri: str, artifacts: Path, *, create: bool) -> str:
    """Return `uri` made absolute, once its database is there and of this MLflow's version."""
    path = sqlite_path(uri)
    if path is not None:
        uri = sqlite_uri(path)
        if not path.exists():
            if not create:
                msg = f"there is no MLflow store {path} yet: run `cnnbench run` first."
                raise StoreError(msg)
            _create_sqlite(path, artifacts)
    _check_schema(uri)
    return uri


def _create_sqlite(path: Path, artifacts: Path) -> None:
    """Build the store beside `path` and move it there whole: a kill leaves none half-made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        fresh = Path(folder) / "mlflow.db"
        with closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        sql_store(sqlite_uri(fresh), artifacts).engine.dispose()
        with suppress(FileExistsError):  # another sweep was quicker: its store is as good
            path.hardlink_to(fresh)


def sql_store(uri: str, artifacts: Path) -> SqlAlchemyStore:
    """Return MLflow's store on the database `uri`; an empty one gets its tables."""
    return SqlAlchemyStore(uri, str(artifacts))


def _check_schema(uri: str) -> None:
    """Refuse a database that is not this MLflow's, before MLflow migrates or retries anything."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # As patient as MLflow; takes the write lock, so what cannot be written shows here.
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        tables = sqlalchemy.inspect(connection).get_table_names()
        revision = MigrationContext.configure(connection).get_current_revision()
    if not tables:
        return
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    head = scripts.get_current_head()
    if revision == head:
        return
    store = shown(uri)
    if revision is None:
        msg = f"the database {store} holds other tables than MLflow's: give MLflow one of its own."
        raise StoreError(msg)
    wrote = f"another version of MLflow wrote the store {store} (schema {revision}, here {head})"
    if revision in {script.revision for script in scripts.walk_revisions()}:
        command = f"{sys.executable} -m mlflow db upgrade {store}"
        msg = f"{wrote}: back it up, then run `{command}`."
    else:
        msg = f"{wrote}, a newer one: upgrade MLflow here, or choose another store."
    raise StoreError(msg)
