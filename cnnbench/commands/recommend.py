"""`cnnbench recommend`: the best measured setting, and what is known of it."""

from __future__ import annotations

import json
from importlib import import_module

import click

from cnnbench.commands.options import DEBUG, RESULTS_DIR

OBJECTIVES = ("throughput", "time-to-accuracy", "energy")


@click.command()
@click.argument("sweep", required=False)
@click.option("--architecture", required=True, help="as it was measured, such as resnet(width=16)")
@click.option("--memory-budget", help="what the setting may take at most, such as 16GiB")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="throughput", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--snippet", "code_only", is_flag=True, help="Print the PyTorch program alone.")
@DEBUG
def recommend(
    *,
    sweep: str | None,
    architecture: str,
    memory_budget: str | None,
    objective: str,
    as_json: bool,
    code_only: bool,
    debug: bool,
) -> None:
    """Say which setting to train with, of those measured in SWEEP (default: the latest).

    SWEEP is a sweep's folder, a results folder, or an MLflow store's address.
    """
    del debug
    settings = import_module("cnnbench.analysis.settings")
    budget = None if memory_budget is None else settings.parse_budget(memory_budget)
    sources = import_module("cnnbench.sources")
    records = sources.read_source(sweep or str(sources.latest(RESULTS_DIR))).records
    found = import_module("cnnbench.analysis.recommend").recommend(
        records, architecture, settings.objective_named(objective), budget_mib=budget
    )
    code = import_module("cnnbench.analysis.snippet").snippet(found.best.cell)
    shown = import_module("cnnbench.report.recommended")
    if as_json:
        click.echo(json.dumps(shown.recommendation_json(found, code), indent=1))
    elif code_only:
        click.echo(code, nl=False)
    else:
        click.echo("\n".join(shown.recommendation_lines(found)))
        click.echo(f"\nAs plain PyTorch (--snippet prints this alone):\n\n{code}", nl=False)
