"""The command line: `cnnbench run`, `report`, `doctor`, `list` and `ui`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cnnbench
from cnnbench.errors import CnnbenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cnnbench.cell import Cell
    from cnnbench.record import Record
    from cnnbench.results import Records
    from cnnbench.sweep.run import Observer

EXIT_CELL_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_SIGNAL = 128
UI_PORT = 5000
RESULTS_DIR = "results/local"
KINDS = ("architectures", "precisions", "profiles", "datasets")


class Terminated(BaseException):
    """SIGTERM arrived; raised like a KeyboardInterrupt, so that everything is put in order."""


def main() -> None:
    """Run the command line and end with the exit codes that scripts rely on."""
    debug = "--debug" in sys.argv
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = EXIT_BAD_INPUT
    except CnnbenchError as error:
        if debug:
            raise
        click.echo(f"cnnbench: {error}", err=True)
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        status = _interrupted(signal.SIGINT)
    except Terminated:
        status = _interrupted(signal.SIGTERM)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_SIGNAL + signal.SIGPIPE
    sys.exit(status if isinstance(status, int) else 0)


def _terminate(*_: object) -> None:
    raise Terminated


def _interrupted(number: signal.Signals) -> int:
    click.echo("\nInterrupted. Everything finished is kept; to go on:", err=True)
    click.echo(f"  {shlex.join(['cnnbench', *sys.argv[1:]])}", err=True)
    return EXIT_SIGNAL + number


class CommaSeparated(click.ParamType[list[Any]]):
    """Values separated by commas; those inside brackets separate nothing."""

    name = "values"

    def __init__(self, kind: Callable[[str], Any] = str) -> None:
        """Take what turns each value's text into it."""
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        """Return the values in `value`."""
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in _split(value)]
        try:
            return [self._kind(part) for part in parts if part]
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers, separated by commas.", param, ctx)


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _axis(name: str, text: str, kind: Callable[[str], Any] = str) -> Callable[[Any], Any]:
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, name, type=CommaSeparated(kind), multiple=True, help=text)


_AXES = _options(
    _axis("architecture", "simple_cnn, resnet(width=16), torchvision:NAME, module.path:factory"),
    _axis("precision", "fp32, tf32, bf16, fp16"),
    _axis("batch_size", "images per step", int),
    _axis("checkpointing", "none, stage, block"),
    _axis("memory_format", "nchw, channels_last"),
    _axis("compile", "off, graph, default, reduce-overhead, max-autotune"),
    _axis("loader", "device"),
    _axis("seed", "seeds of weights and data order", int),
)

_RECIPE = _options(
    click.option("--epochs", type=int, help="0: profile only"),
    click.option("--image-size", type=int, help="side in pixels that images are brought to"),
    click.option("--num-classes", type=int, help="checked against the data set"),
    click.option("--optimizer", help="adam, adamw, sgd"),
    click.option("--learning-rate", type=float),
    click.option("--schedule", help="constant, plateau, cosine, one_cycle"),
    click.option("--augmentation", help="default, none, crop, flip+crop, flip+crop+cutout"),
    click.option("--weight-decay", type=float),
    click.option("--dropout", type=float, help="before the last linear layer"),
    click.option("--label-smoothing", type=float),
    click.option("--patience", type=int, help="stop after so many epochs without a lower loss"),
    click.option("--train-subset", type=int, help="so many training images"),
    click.option("--weights", help="default, imagenet, none, or a file"),
    click.option("--target-accuracy", type=float, help="0 to 1, for the time to reach it"),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(cnnbench.__version__, prog_name="cnnbench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(*, debug: bool) -> None:
    """Measure what each documented way of training a CNN really buys on your own GPU."""
    del debug  # main has read it, before click did


_PLACE = _options(
    click.option("--dataset", help="digits, fashion_mnist, cifar10, cifar100, folder:PATH, ..."),
    click.option("--data-dir", help="where data sets lie or are put  [default: ~/.cache/cnnbench]"),
    click.option(
        "--download/--no-download",
        default=None,
        help="Fetch missing data and weights.  [default: as the profile says]",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N"),
    click.option("--tracking-uri", help="MLflow's store or server; none: keep the journal only"),
    click.option("--results-dir", default=RESULTS_DIR, show_default=True),
    click.option("--launcher", type=click.Choice(["local"]), default="local"),
    click.option(
        "--isolation",
        type=click.Choice(["forkserver", "spawn", "inline"]),
        default="forkserver",
        show_default=True,
        help="How workers start.",
    ),
    click.option("--cell-timeout", type=click.FloatRange(min=0, min_open=True), help="seconds"),
)
_DEBUG = click.option("--debug", is_flag=True, help="Show tracebacks.")


@cli.command()
@click.option("--profile", default="auto", help="quick, gpu, full or a .toml file  [default: auto]")
@_AXES
@_RECIPE
@_PLACE
@click.option("--fresh", is_flag=True, help="Measure every cell anew.")
@click.option("--retry-failed", is_flag=True, help="Run failed and timed-out cells again.")
@click.option("--trace", is_flag=True, help="Leave a profiler trace of each timed cell.")
@click.option("--layers", is_flag=True, help="Leave a table of each timed cell's layers.")
@click.option("--dry-run", is_flag=True, help="Print the grid and its cost; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@_DEBUG
def run(
    profile: str, *, dry_run: bool, as_json: bool, debug: bool, launcher: str, **settings: Any
) -> int:
    """Run a sweep: train and profile every cell of a grid that has no result yet."""
    del debug, launcher  # main reads the one; the other has a single choice so far
    api = import_module("cnnbench.api")
    for name, value in settings.items():
        if isinstance(value, tuple):
            settings[name] = [item for group in value for item in group] if value else None
    if dry_run:
        _dry_run(api.plan(profile, **settings), settings["results_dir"], as_json=as_json)
        return 0
    with _display(quiet=as_json) as observer:
        records = api.run(profile, observer=observer, **settings)
    if as_json:
        click.echo(json.dumps([record.row() for record in records], indent=1))
    else:
        _show(records, settings)
    return EXIT_CELL_FAILED if any(r.status in {"failed", "timeout"} for r in records) else 0


@cli.command()
@click.argument("sweep", required=False)
@_DEBUG
def report(sweep: str | None, *, debug: bool) -> None:
    """Write the report of SWEEP, a folder of the results (default: the latest), anew."""
    del debug
    click.echo(import_module("cnnbench.results").write_report(sweep))


@cli.command()
@click.option("--noise", is_flag=True, help="Measure the machine's noise: some minutes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N")
@click.option("--data-dir", help="where data sets lie  [default: ~/.cache/cnnbench]")
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@click.option("--tracking-uri", help="MLflow's store or server")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_DEBUG
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
    return EXIT_CELL_FAILED if found.has_problem else 0


@cli.command("list")
@click.argument("what", required=False, type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(what: str | None, *, as_json: bool) -> None:
    """List the architectures, precisions, profiles and data sets there are."""
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


@cli.command()
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@click.option("--tracking-uri", help="MLflow's store or server")
@click.option("--port", type=click.IntRange(1, 65535), default=UI_PORT, show_default=True)
@click.option("--open/--no-open", "open_browser", default=True, help="Open it in the browser.")
@_DEBUG
def ui(
    *, results_dir: str, tracking_uri: str | None, port: int, open_browser: bool, debug: bool
) -> int:
    """Open the MLflow UI on the results, on 127.0.0.1; Ctrl-C ends it."""
    del debug
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    serve = import_module("cnnbench.ui").serve
    return int(serve(uri, Path(results_dir), port=port, open_browser=open_browser, say=click.echo))


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
        words += ["--tracking-uri", store] if store else []
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
