"""`cnnbench compare`: two sweeps, cell by cell."""

from __future__ import annotations

import json
from importlib import import_module

import click

from cnnbench.commands.options import DEBUG


@click.command()
@click.argument("base")
@click.argument("candidate")
@click.option(
    "--delta",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    help="difference that does not matter, such as 0.05  [default: 2 % or the noise floor]",
)
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@DEBUG
def compare(
    base: str, candidate: str, *, delta: float | None, markdown: bool, as_json: bool, debug: bool
) -> int:
    """Compare two sweeps: effect, interval and verdict of each cell that both measured.

    BASE and CANDIDATE are each a sweep's folder, a results folder, or an MLflow store's address (of its
    latest sweep, or with #SWEEP_ID). Ends with 1 after a regression, 3 where the whole is inconclusive or
    nothing could be compared, else 0.
    """
    del debug
    sides = import_module("cnnbench.comparing").compare_sources(base, candidate, delta=delta)
    shown = import_module("cnnbench.report.compared")
    ours, theirs = (sides.base, sides.base_span), (sides.candidate, sides.candidate_span)
    if as_json:
        named = {"base": base, "candidate": candidate, "delta_from": sides.delta_from}
        click.echo(json.dumps(shown.comparison_json(sides.found, **named), indent=1))
    elif markdown:
        text = shown.comparison_markdown(
            sides.found, base=ours, candidate=theirs, delta=sides.delta_from
        )
        click.echo(text, nl=False)
    else:
        lines = shown.comparison_lines(
            sides.found, base=ours, candidate=theirs, delta=sides.delta_from
        )
        click.echo("\n".join(lines))
    return int(sides.found.exit_code)
