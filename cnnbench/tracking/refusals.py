"""Refusals of a store, whoever raises them: one line that names the store and the remedy."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy
from alembic.util import CommandError
from mlflow.exceptions import MlflowException

from cnnbench.environment import masked
from cnnbench.errors import StoreError
from cnnbench.tracking.addresses import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_REASON_CHARACTERS = 300

_REFUSALS = (
    MlflowException,
    sqlalchemy.exc.SQLAlchemyError,
    CommandError,
    json.JSONDecodeError,  # a web server that is not MLflow's answers with a page
    OSError,
)


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into one line that names the store."""
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f"the MLflow store {shown(uri)} needs the Python package {error.name!r}: install it."
        raise StoreError(msg) from error
    except _REFUSALS as error:
        reason = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        # SQLAlchemy may say first on what occasion it flushed.
        lines = [
            line for line in reason.splitlines() if "autoflush" not in line
        ] or reason.splitlines()
        line = masked(lines[0])[:MAX_REASON_CHARACTERS].rstrip(".")
        msg = (
            f"cannot use the MLflow store {shown(uri)}: {line}. "
            "Put that right, or choose another with --tracking-uri or --results-dir."
        )
        raise StoreError(msg) from error
