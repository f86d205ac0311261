"""Addresses of stores: which are databases, which are files, and how a message shows them."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy

from cnnbench.environment import masked
from cnnbench.errors import StoreError


def is_database(uri: str) -> bool:
    """Say whether `uri` names a database; otherwise it names a server."""
    return uri.partition(":")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def sqlite_uri(path: Path) -> str:
    """Return the address of the SQLite file `path`.

    Raises:
        StoreError: an address cannot name that path.
    """
    uri = f"sqlite:///{path}"
    if "?" in uri or "%" in uri:  # MLflow and SQLAlchemy would each read it in their own way
        msg = f"the MLflow store {uri} has a '?' or '%' in its name: choose a folder without."
        raise StoreError(msg)
    return uri


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite address, `None` for another database.

    Raises:
        StoreError: it names no file.
    """
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        msg = f"the MLflow store {uri} lives in memory and would be lost: name a file."
        raise StoreError(msg)
    return Path(uri.partition(":///")[2]).absolute()


def shown(uri: str) -> str:
    """Return `uri` as a message may hold it: without who logs in, and how."""
    if is_database(uri) and uri.startswith("sqlite"):
        return uri  # a file's path, in which an `@` is part of a name
    address, mark, _ = masked(uri).partition("?")
    return f"{address}?***" if mark else address
