"""The UI on a store: its server, and the address where the runs are seen."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from cnnbench.environment import masked

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Ui:
    """How to see a store's runs: start `command` with `environment` added, then open `address`.

    `command` is empty where the store is a server already. `health` answers once `address` will.
    `address` is the prepared comparison where the UI is known to read it, else `plain_address`, the
    list of runs.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    health: str
    address: str
    plain_address: str


def ui_on(
    uri: str, artifacts: Path | None, *, port: int, experiment_id: str | None, view_key: str | None
) -> Ui:
    """Return how to see the runs of the store at `uri`; without `artifacts` it is a server itself."""
    # Without the workflow type the page opens for language models and shows no runs.
    runs = f"/{experiment_id}/runs?workflowType=machine_learning" if experiment_id else ""
    local = artifacts is not None
    # A browser asks for the name and the password itself.
    address = masked(uri).replace("//***@", "//").rstrip("/")
    server = f"http://127.0.0.1:{port}" if local else address
    plain = f"{server}/#/experiments{runs}"
    view = f"&compareRunsMode=CHART&viewStateShareKey={view_key}" if view_key else ""
    return Ui(
        command=_command(port) if local else (),
        environment=_environment(uri, artifacts) if local else {},
        health=f"{server}/health",
        address=f"{plain}{view}",
        plain_address=plain,
    )


def ui_version(uri: str, artifacts: Path | None) -> str:
    """Return the version of the UI that shows this store; empty where a server does not say."""
    if artifacts is not None:
        return str(mlflow.__version__)
    try:
        host = get_default_host_creds(uri)
        answer = http_request(host, "/version", "GET")
    except MlflowException:
        return ""
    return answer.text.strip() if answer.ok else ""


def _command(port: int) -> tuple[str, ...]:
    options = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    return (sys.executable, "-m", "mlflow", "ui", *options)


def _environment(uri: str, artifacts: Path | None) -> dict[str, str]:
    """Return what the server must know; not as arguments, for an address may hold a password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Jobs evaluate language models: three more processes, of no use here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
