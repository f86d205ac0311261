"""`cnnbench list`: what there is."""

from __future__ import annotations

import json
from importlib import import_module

import click

KINDS = ("architectures", "precisions", "profiles", "datasets", "studies")


@click.command("list")
@click.argument("what", required=False, type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(what: str | None, *, as_json: bool) -> None:
    """List the architectures, precisions, profiles, data sets and studies there are."""
    catalogue = import_module("cnnbench.catalogue").catalogue()
    shown = {what: catalogue[what]} if what else catalogue
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    for kind, entries in shown.items():
        click.secho(kind, bold=True)
        width = max(len(name) for name in entries)
        for name, text in entries.items():
            click.echo(f"  {name:<{width}}  {text}")
