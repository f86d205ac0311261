"""The table of peers as the README shows it, made from `peers.csv` and never by hand.

    python -m bench.peers_table FILE                     prints it
    python -m bench.peers_table FILE --write README.md   puts it between the markers there

FILE is what `make bench-peers` writes. The markers are the two lines of `MARKERS`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.figures import read_figures
from bench.peers.opponents import is_ours
from bench.verdict_table import replace_between_markers
from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Figure

MARKERS = ("<!-- peers: begin -->", "<!-- peers: end -->")
# From here on a reader wants "3 times", not "by 200 %".
WORTH_TIMES = 2


def main() -> int:
    """Print the table or write it into a file; return 2 where there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    try:
        text = table([one for one in read_figures(arguments.file) if is_ours(one)])
        if arguments.write:
            replace_between_markers(arguments.write, text, MARKERS)
        else:
            click.echo(text)
    except (StoreError, OSError) as error:
        click.echo(f"peers_table: {error}", err=True)
        return 2
    return 0


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as Markdown, with the devices that they were measured on.

    Raises:
        StoreError: there are none.
    """
    if not figures:
        msg = "no row of a peer: run `make bench-peers` first."
        raise StoreError(msg)
    devices = ", ".join(dict.fromkeys(one.device for one in figures))
    lines = [
        f"On {devices}; above 1 cnnbench is ahead.",
        "",
        "| setting: our images/s over those of | ratio | 95 % interval | who is ahead | asked |",
        "|---|---|---|---|---|",
        *map(_row, figures),
    ]
    return "\n".join(lines) + "\n"


def _row(one: Figure) -> str:
    setting = one.workload.replace(": our images/s over ", ": ").replace("|", "\\|")
    asked = "" if one.target is None else f"≥ {one.target:g}, {'met' if one.met else 'missed'}"
    interval = f"{one.low:.3f} to {one.high:.3f}"
    return f"| {setting} | {one.value:.3f} | {interval} | {_ahead(one)} | {asked} |"


def _ahead(one: Figure) -> str:
    """Name who is ahead where the whole interval says so."""
    if one.low > 1:
        return f"cnnbench, {_times(one.value)}"
    if one.high < 1:
        return f"the other, {_times(1 / one.value)}"
    return "neither"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= WORTH_TIMES else f"by {ratio - 1:.1%}"


if __name__ == "__main__":
    sys.exit(main())
