"""`cnnbench sync`: brings a tracking store up to the journals."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import click

from cnnbench.commands.options import DEBUG, RESULTS_DIR
from cnnbench.errors import StoreError
from cnnbench.results import NO_TRACKING


@click.command()
@click.argument("sweeps", metavar="[SWEEP]...", nargs=-1)
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@click.option("--tracking-uri", help="MLflow's store or server")
@DEBUG
def sync(
    *, sweeps: tuple[str, ...], results_dir: str, tracking_uri: str | None, debug: bool
) -> None:
    """Log to MLflow what it lacks of each SWEEP, a folder or a name (default: of all).

    As often as one likes: what is there already is not logged again.
    """
    del debug
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri == NO_TRACKING:
        msg = "there is nothing to sync to: pass --tracking-uri, or unset MLFLOW_TRACKING_URI."
        raise StoreError(msg)
    import_module("cnnbench.replay").replay(sweeps, Path(results_dir), uri, say=click.echo)
