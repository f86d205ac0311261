"""Everything that speaks to MLflow: the store, one flat run per cell, and the UI on them."""

from __future__ import annotations

import os

# MLflow reads its telemetry switch while it is imported; the others bound what one call may cost and keep
# stdout ours. By default a server that is gone holds a call for four minutes, and one that is overloaded
# for as long as it says.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

# ruff: noqa: E402 - MLflow, which these import, must find the switches above set
from cnnbench.tracking.store import check_store, open_store
from cnnbench.tracking.sweep_log import Reconciled, SweepLog
from cnnbench.tracking.tracker import Tracker
from cnnbench.tracking.ui import Ui

__all__ = ["Reconciled", "SweepLog", "Tracker", "Ui", "check_store", "open_store"]
