"""`cnnbench forecast`: what cells will need, without running them."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import click

from cnnbench.commands.options import AXES, DEBUG, ISOLATION, MEMORY_BUDGET, RECIPE


@click.command()
@click.option("--profile", default="auto", help="quick, gpu, full or a .toml file  [default: auto]")
@AXES
@RECIPE
@click.option("--dataset", help="digits, fashion_mnist, cifar10, cifar100, folder:PATH, ...")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N")
@ISOLATION
@MEMORY_BUDGET
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@DEBUG
def forecast(profile: str, *, as_json: bool, debug: bool, **settings: Any) -> None:
    """Predict the peak memory of cells from the models alone, and the largest batch that fits.

    Without --memory-budget the largest batch is for the memory of the device.
    """
    del debug
    for name, value in settings.items():
        if isinstance(value, tuple):
            settings[name] = [item for group in value for item in group] if value else None
    found = import_module("cnnbench.api").forecast(profile, **settings)
    if as_json:
        click.echo(json.dumps(found.rows(), indent=1))
        return
    for line in import_module("cnnbench.commands.lines").forecast_lines(found):
        click.echo(line)
