"""`cnnbench study`: documented advice, put to the test here."""

from __future__ import annotations

import contextlib
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from cnnbench.commands.options import DEBUG, PLACE
from cnnbench.commands.run import _display
from cnnbench.errors import EXIT_FAILED

EXIT_UNDECIDED = 3
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[float]):
    """A time such as `90s`, `10m` or `1.5h`; a bare number counts seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds in `value`."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no time: write 90s, 10m or 1.5h.", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.command()
@click.argument("names", nargs=-1, metavar="NAME|FILE.toml...")
@click.option("--all", "all_", is_flag=True, help="All documented advice: `cnnbench list studies`.")
@click.option("--budget", type=Duration(), help="Start no cell after this time: 90s, 10m, 1.5h.")
@PLACE
@click.option("--fresh", is_flag=True, help="Measure every cell anew.")
@click.option("--retry-failed", is_flag=True, help="Run failed and timed-out cells again.")
@DEBUG
def study(
    names: tuple[str, ...],
    *,
    all_: bool,
    budget: float | None,
    launcher: str,
    debug: bool,
    **settings: Any,
) -> int:
    """Measure what advice is worth here: confirmed, refuted or inconclusive, and by how much.

    Runs the cells that each study needs, adds seeds until its claims are decided or the budget ends, and
    writes a page on each. The same call goes on where it ended. Ends with status 3 where a verdict is open.
    """
    del debug, launcher
    if bool(names) == all_:
        msg = "name studies (cnnbench list studies) or TOML files, or pass --all."
        raise click.UsageError(msg)
    with _display(quiet=False) as observer:
        found = import_module("cnnbench.api").study(
            *names, budget_seconds=budget, observer=observer, **settings
        )
    for line in import_module("cnnbench.report.study_tables").verdict_lines(found.verdicts):
        click.echo(line)
    folder = _shown(found.folder)
    click.echo(f"\npages     {folder / 'README.md'}, index.html")
    click.echo(f"verdicts  {folder / 'verdicts.csv'}")
    if found.has_failed_cell:
        return EXIT_FAILED
    return EXIT_UNDECIDED if found.is_undecided else 0


def _shown(folder: Path) -> Path:
    """Return `folder` as short as it can be written from here."""
    with contextlib.suppress(ValueError):
        return folder.relative_to(Path.cwd())
    return folder
