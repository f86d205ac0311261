"""`cnnbench ui`: the MLflow UI on the results."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import click

from cnnbench.commands.options import DEBUG, RESULTS_DIR

PORT = 5000


@click.command()
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@click.option("--tracking-uri", help="MLflow's store or server")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option("--architecture", help="Open the comparison of its cells alone.")
@click.option("--open/--no-open", "open_browser", default=True, help="Open it in the browser.")
@DEBUG
def ui(
    *,
    results_dir: str,
    tracking_uri: str | None,
    port: int,
    architecture: str | None,
    open_browser: bool,
    debug: bool,
) -> int:
    """Open the MLflow UI on the results, at the prepared comparison, on 127.0.0.1; Ctrl-C ends it."""
    del debug
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    serve = import_module("cnnbench.ui").serve
    return int(
        serve(
            uri,
            Path(results_dir),
            port=port,
            architecture=architecture,
            open_browser=open_browser,
            say=click.echo,
        )
    )
