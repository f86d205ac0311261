"""`cnnbench run`: a sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnbench.commands.options import AXES, DEBUG, MEMORY_BUDGET, PLACE, RECIPE, RESULTS_DIR
from cnnbench.environment import masked
from cnnbench.errors import EXIT_FAILED, CnnbenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cnnbench.cell import Cell
    from cnnbench.record import Record
    from cnnbench.results import Records
    from cnnbench.sweep.run import Observer

BROKEN = ("failed", "timeout")


@click.command()
@click.option("--profile", default="auto", help="quick, gpu, full or a .toml file  [default: auto]")
@AXES
@RECIPE
@PLACE
@click.option("--find-max-batch", is_flag=True, help="Find the largest batch that fits, by trying.")
@MEMORY_BUDGET
@click.option("--fresh", is_flag=True, help="Measure every cell anew.")
@click.option("--retry-failed", is_flag=True, help="Run failed and timed-out cells again.")
@click.option("--strict", is_flag=True, help="End with status 1 if MLflow lacks anything.")
@click.option("--trace", is_flag=True, help="Leave a profiler trace of each timed cell.")
@click.option("--layers", is_flag=True, help="Leave a table of each timed cell's layers.")
@click.option("--dry-run", is_flag=True, help="Print the grid and its cost; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@DEBUG
def run(
    profile: str,
    *,
    find_max_batch: bool,
    dry_run: bool,
    as_json: bool,
    strict: bool,
    debug: bool,
    launcher: str,
    **settings: Any,
) -> int:
    """Run a sweep: train and profile every cell of a grid that has no result yet."""
    del debug, launcher  # main reads the one; the other has a single choice so far
    api = import_module("cnnbench.api")
    for name, value in settings.items():
        if isinstance(value, tuple):
            settings[name] = [item for group in value for item in group] if value else None
    if find_max_batch:
        return _find_max_batch(profile, settings, dry_run=dry_run, as_json=as_json)
    if dry_run:
        _dry_run(api.plan(profile, **settings), settings["results_dir"], as_json=as_json)
        return 0
    with _display(quiet=as_json) as observer:
        records = api.run(profile, observer=observer, **settings)
    if as_json:
        click.echo(json.dumps([record.row() for record in records], indent=1))
        if records.num_unlogged:  # nobody has heard of it yet
            click.echo("cnnbench: MLflow lacks some of this; later: cnnbench sync", err=True)
    else:
        _show(records, settings)
    behind = strict and records.num_unlogged > 0
    return EXIT_FAILED if behind or any(r.status in BROKEN for r in records) else 0


def _find_max_batch(profile: str, settings: dict[str, Any], *, dry_run: bool, as_json: bool) -> int:
    """Search for the largest batches and print them."""
    if dry_run:
        msg = "--find-max-batch has no --dry-run: which batches it tries depends on what comes of them."
        raise click.UsageError(msg)
    with _display(quiet=as_json) as observer:
        found, folder = import_module("cnnbench.api").find_max_batch(
            profile, observer=observer, **settings
        )
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
    else:
        for line in import_module("cnnbench.commands.lines").largest_batch_lines(found):
            click.echo(line)
        click.echo(f"\nlargest  {_shown(folder) / 'largest_batches.csv'}")
        click.echo(f"tries    {_shown(folder) / 'journal.jsonl'}, cells.csv, cells.parquet")
    return EXIT_FAILED if any(one.status in BROKEN for one in found) else 0


@contextlib.contextmanager
def _display(*, quiet: bool) -> Iterator[Observer]:
    """Show progress on stderr: live in a terminal, else in plain lines; results go to stdout."""
    display = import_module("cnnbench.display")
    console = import_module("rich.console").Console(stderr=True)
    if quiet:
        yield import_module("cnnbench.sweep.run").Observer()
    elif console.is_terminal:
        with display.LiveDisplay(console) as live:
            yield live
    else:
        yield display.PlainDisplay(console)


def _show(records: Records, settings: dict[str, Any]) -> None:
    """Print the comparison and where everything is."""
    tables = import_module("cnnbench.report.tables")
    tables.print_comparison(records, import_module("rich.console").Console())
    for line in tables.summary_lines(records):
        click.echo(line)
    folder = _shown(records.folder)
    click.echo(f"\nreport   {folder / 'report' / 'index.html'}")
    click.echo(f"records  {folder / 'journal.jsonl'}, cells.csv, cells.parquet")
    store, where = settings["tracking_uri"], settings["results_dir"]
    if (store or os.environ.get("MLFLOW_TRACKING_URI")) != "none":
        words = ["--results-dir", where] if where != RESULTS_DIR else []
        words += ["--tracking-uri", masked(store)] if store else []
        click.echo(f"MLflow   {shlex.join(['cnnbench', 'ui', *words]) if words else 'make ui'}")


def _dry_run(cells: Sequence[Cell], results_dir: str, *, as_json: bool) -> None:
    """Print the grid and what it costs."""
    if as_json:
        click.echo(json.dumps([cell.params() for cell in cells], indent=1))
        return
    for cell in cells:
        click.echo(cell.name)
    try:
        past: Sequence[Record] = import_module("cnnbench.results").load(results_dir)
    except CnnbenchError:
        past = ()
    click.echo(import_module("cnnbench.sweep.cost").describe(cells, past))


def _shown(path: Path | None) -> Path:
    """Return `path` as short as it can be written from here."""
    folder = path or Path()
    with contextlib.suppress(ValueError):
        return folder.relative_to(Path.cwd())
    return folder
