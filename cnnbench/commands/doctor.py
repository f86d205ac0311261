"""`cnnbench doctor`: what this machine can measure."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from typing import Any

import click

from cnnbench.commands.options import DEBUG, RESULTS_DIR
from cnnbench.errors import EXIT_FAILED


@click.command()
@click.option("--noise", is_flag=True, help="Measure the machine's noise: some minutes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N")
@click.option("--data-dir", help="where data sets lie  [default: ~/.cache/cnnbench]")
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@click.option("--tracking-uri", help="MLflow's store or server")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@DEBUG
def doctor(*, noise: bool, as_json: bool, debug: bool, **settings: Any) -> int:
    """Say what this machine can measure, and what would spoil it."""
    del debug
    found = import_module("cnnbench.api").doctor(
        noise=noise, say=lambda text: click.echo(f"{text} ...", err=True), **settings
    )
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found.findings], indent=1))
    else:
        for line in import_module("cnnbench.display").finding_lines(found.findings):
            click.echo(line)
    return EXIT_FAILED if found.has_problem else 0
