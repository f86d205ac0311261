"""`cnnbench regress`: the regression gate."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnbench.commands.options import DEBUG, RESULTS_DIR
from cnnbench.errors import InvalidValueError, StoreError

if TYPE_CHECKING:
    from cnnbench.regress.opponent import Opponent
    from cnnbench.regress.run import Outcome

# Each says by itself what is compared, so that of two one would go unheard.
EXCLUSIVE = ("results", "no_compare", "base", "baseline")
# But stored results may be held against a stored baseline.
TOGETHER = {"results", "baseline"}
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[float]):
    """A length of time such as `90s`, `10m` or `1h`; a bare number is seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds in `value`."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r}: write a time such as 90s, 10m or 1h.", param, ctx)
        return float(found[1]) * UNITS[found[2]]


@click.command()
@click.option("--base", metavar="REV", help="Measure this revision beside, by turns.")
@click.option(
    "--base-python",
    metavar="PYTHON",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Run the revision on this interpreter, of an environment with another torch, say.",
)
@click.option("--baseline", type=click.Path(path_type=Path), help="Compare with this file.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Measure nothing: judge this file (pytest-benchmark's JSON; repeat it for more processes).",
)
@click.option("--no-compare", is_flag=True, help="Only measure, for `cnnbench accept` to take.")
@click.option(
    "--budget",
    type=Duration(),
    help="10m, 90s, 1h  [default: two minutes a test, at least 20m; most need less]",
)
@click.option(
    "--cell-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="seconds that a process may take",
)
@click.option("--suite", type=click.Path(path_type=Path), help="a TOML file  [default: cnnbench's]")
@click.option("--only", default="", metavar="TEXT", help="the tests with TEXT in their names")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N")
@click.option("--data-dir", default="~/.cache/cnnbench", help="where data sets lie")
@click.option("--results-dir", default=RESULTS_DIR, show_default=True)
@click.option("--markdown", type=click.Path(path_type=Path), help="Write a comment for a review.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--all", "everything", is_flag=True, help="Show what has not changed as well.")
@DEBUG
def regress(
    *,
    markdown: Path | None,
    junit: Path | None,
    as_json: bool,
    everything: bool,
    debug: bool,
    **options: Any,
) -> int:
    """Say whether this code trains slower, in more memory or less accurately than before.

    Compares with the baseline that `cnnbench accept` has kept for this machine; where there is none,
    with the revision where this branch left the main one, measured beside this code by turns.

    Ends with 0 (no regression), 1 (a regression), 2 (bad arguments or no baseline, found before
    anything was measured) or 3 (inconclusive, or not comparable).
    """
    del debug
    results_dir = Path(options["results_dir"]).expanduser().absolute()
    _check_together(options)
    for path in filter(None, (markdown, junit)):
        _check_file(path)
    outcome = (
        _judge_files(options, results_dir) if options["results"] else _measure(options, results_dir)
    )
    history = import_module("cnnbench.regress.history")
    points = history.read_history(results_dir, outcome.candidate.machine)
    steps = history.find_steps(points)
    show = import_module("cnnbench.regress.show")
    try:
        if not options["results"]:
            import_module("cnnbench.regress.page").write_page(outcome, points, steps, results_dir)
        if markdown is not None:
            _write(markdown, show.markdown(outcome, steps))
        if junit is not None:
            _write(junit, show.junit(outcome))
    finally:  # what was measured is told, though a disk be full
        if as_json:
            click.echo(json.dumps(show.as_json(outcome, steps), indent=1))
        else:
            for line in show.lines(outcome, steps, everything=everything):
                click.echo(line)
    return outcome.judgement.exit_code if outcome.judgement else 0


def _check_file(path: Path) -> None:
    """Refuse a file that cannot be written, by opening it: permissions alone do not tell.

    Afterwards everything is as it was. A pipe or a terminal is left alone, as opening it may wait.

    Raises:
        StoreError: naming the file and the reason.
    """
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            what = "it is a" if path.is_dir() else "there is no such"
            msg = f"cannot write {path}: {what} folder."
            raise StoreError(msg)
        exists = path.exists()
        if exists and not path.is_file():
            return
        path.open("ab").close()
        if not exists:
            path.resolve().unlink()  # of a link, what it leads to
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(path: Path, text: str) -> None:
    """Write into the file itself, which may be a link, a pipe or one that others have opened.

    Raises:
        StoreError: naming the file and the reason.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error.strerror or error}.")


def _check_together(options: dict[str, Any]) -> None:
    """Refuse two options of which one would be passed over."""
    given = [name for name in EXCLUSIVE if options[name] not in {None, (), False}]
    if len(given) > 1 and set(given) != TOGETHER:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        msg = f"{named} exclude each other: leave one out."
        raise InvalidValueError(msg)
    if options["base_python"] and not options["base"]:
        msg = "--base-python needs a revision to run: --base REV (HEAD for the present code)."
        raise InvalidValueError(msg)


def _measure(options: dict[str, Any], results_dir: Path) -> Outcome:
    # What to compare with is looked for before torch, or even statistics, is imported.
    machine = import_module("cnnbench.regress.machine").this_machine(options["device"])
    opponent = None if options["no_compare"] else _opponent(options, machine, results_dir)
    if opponent is not None:
        click.echo(f"comparing with {opponent.text}", err=True)
    run = import_module("cnnbench.regress.run")
    settings = run.Settings(
        results_dir=results_dir,
        data_dir=Path(options["data_dir"]).expanduser().absolute(),
        device=options["device"],
        suite=options["suite"],
        only=options["only"],
        budget_seconds=options["budget"],
        process_seconds=options["cell_timeout"],
        base_python=options["base_python"] and options["base_python"].absolute(),
    )
    outcome: Outcome = run.regress(
        settings, machine, opponent, say=lambda text: click.echo(f"{text} ...", err=True)
    )
    import_module("cnnbench.regress.history").append_history(results_dir, outcome.candidate)
    return outcome


def _opponent(options: dict[str, Any], machine: Any, results_dir: Path) -> Opponent:
    found: Opponent = import_module("cnnbench.regress.opponent").choose_opponent(
        machine, results_dir, base=options["base"], baseline=options["baseline"]
    )
    return found


def _judge_files(options: dict[str, Any], results_dir: Path) -> Outcome:
    """Judge results that were measured elsewhen, such as by `pytest bench/ --benchmark-json`."""
    results = import_module("cnnbench.regress.results")
    candidate = results.merge_results([results.read_results(path) for path in options["results"]])
    baselines = import_module("cnnbench.regress.baseline")
    path = options["baseline"] or baselines.baseline_path(results_dir, candidate.machine)
    base = baselines.load_baseline(path, candidate.machine)
    baselines.check_same_suite(base, candidate.suite)
    run = import_module("cnnbench.regress.run")
    outcome: Outcome = run.judged(
        base,
        candidate,
        opponent=f"the baseline {path}",
        delta=run.stored_delta(candidate, results_dir),
        only=options["only"],
    )
    return outcome
