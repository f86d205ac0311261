"""`cnnbench report`: figures, tables and one page of a sweep."""

from __future__ import annotations

from importlib import import_module

import click

from cnnbench.commands.options import DEBUG


@click.command()
@click.argument("sweep", required=False)
@DEBUG
def report(sweep: str | None, *, debug: bool) -> None:
    """Write the report of SWEEP, a folder of the results (default: the latest), anew."""
    del debug
    click.echo(import_module("cnnbench.results").write_report(sweep))
