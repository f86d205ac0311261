"""The overview of verdicts as the README shows it, made from `verdicts.csv` and never by hand.

    python -m bench.verdict_table FOLDER                     prints it
    python -m bench.verdict_table FOLDER --write README.md   puts it between the markers there

FOLDER holds a `verdicts.csv`, as `cnnbench study` writes it and `results/reference/<device>/studies/` keeps
it. The markers are the two lines of `MARKERS`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import click

from cnnbench.errors import StoreError
from cnnbench.report.study_tables import compact_table, read_verdicts, summary

MARKERS = ("<!-- verdicts: begin -->", "<!-- verdicts: end -->")


def main() -> int:
    """Print the table or write it into a file; return 2 where there is none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    try:
        text = table(arguments.folder, linked_from=arguments.write)
        if arguments.write:
            replace_between_markers(arguments.write, text)
        else:
            click.echo(text)
    except (StoreError, OSError) as error:
        click.echo(f"verdict_table: {error}", err=True)
        return 2
    return 0


def table(folder: Path, *, linked_from: Path | None = None) -> str:
    """Return the overview as Markdown, its links from the file `linked_from` (default: from here).

    Raises:
        StoreError: there are no verdicts in `folder`.
    """
    rows = read_verdicts(folder / "verdicts.csv")
    if not rows:
        msg = f"there is no verdicts.csv in {folder}: run `cnnbench study --all` first."
        raise StoreError(msg)
    start = linked_from.parent if linked_from else Path()
    prefix = Path(os.path.relpath(folder, start)).as_posix()
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    return f"On {devices}: {summary(rows)}\n\n{compact_table(rows, prefix=prefix)}"


def replace_between_markers(path: Path, text: str, markers: tuple[str, str] = MARKERS) -> None:
    """Put `text` between the two `markers` in `path`.

    Raises:
        StoreError: it does not have each marker once, in their order.
    """
    old = path.read_text(encoding="utf-8")
    begin, end = markers
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        msg = f"{path} needs the lines {begin} and {end}, once each and in this order."
        raise StoreError(msg)
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
