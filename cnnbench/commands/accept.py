"""`cnnbench accept`: what the gate measured last becomes this machine's baseline."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnnbench.commands.options import DEBUG, RESULTS_DIR
from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from cnnbench.regress.results import Results


@click.command()
@click.argument("results", required=False, nargs=-1, type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N")
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@DEBUG
def accept(results: tuple[Path, ...], *, device: str, results_dir: str, debug: bool) -> int:
    """Show what `cnnbench regress` measured last, and make it this machine's baseline.

    RESULTS are files to take instead, such as those of `pytest bench/ --benchmark-json`, several of
    them as several processes.
    """
    del debug
    folder = Path(results_dir).expanduser().absolute()
    baseline = import_module("cnnbench.regress.baseline")
    files = import_module("cnnbench.regress.results")
    latest = baseline.latest_path(folder)
    if not results and not latest.exists():
        msg = f"there is nothing to accept in {latest}: run `cnnbench regress` first."
        raise StoreError(msg)
    found = files.merge_results([files.read_results(path) for path in results or (latest,)])
    machine = import_module("cnnbench.regress.machine").this_machine(device)
    difference = machine.difference(found.machine)
    if difference:
        msg = f"these results are another machine's: {difference}."
        raise StoreError(msg)
    path = baseline.baseline_path(folder, machine)
    before = _before(path)
    click.echo(f"{found.code}, measured {found.measured_at}, on {found.machine.text}")
    for line in import_module("cnnbench.regress.show").accepted_lines(found, before):
        click.echo(line)
    baseline.accept(found, folder)
    click.echo(f"baseline  {path}")
    return 0


def _before(path: Path) -> Results | None:
    """Return the baseline that is to be replaced; of a damaged one only say so, as this mends it."""
    if not path.exists():
        return None
    try:
        found: Results = import_module("cnnbench.regress.results").read_results(path)
    except StoreError as error:
        click.echo(f"replacing a damaged baseline: {error}")
        return None
    return found
