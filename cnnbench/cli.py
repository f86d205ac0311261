"""The command line: `cnnbench` and its commands, and the exit codes that scripts rely on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from importlib import import_module

import click

import cnnbench
from cnnbench.environment import masked
from cnnbench.errors import EXIT_BAD_INPUT, CnnbenchError

EXIT_SIGNAL = 128
# Name to the module and the function in it: only what is called is imported.
COMMANDS = {
    "compare": "cnnbench.commands.compare:compare",
    "accept": "cnnbench.commands.accept:accept",
    "doctor": "cnnbench.commands.doctor:doctor",
    "forecast": "cnnbench.commands.forecast:forecast",
    "list": "cnnbench.commands.list_:list_",
    "recommend": "cnnbench.commands.recommend:recommend",
    "regress": "cnnbench.commands.regress:regress",
    "report": "cnnbench.commands.report:report",
    "run": "cnnbench.commands.run:run",
    "sync": "cnnbench.commands.sync:sync",
    "study": "cnnbench.commands.study:study",
    "ui": "cnnbench.commands.ui:ui",
}
# Those that a second call goes on with.
RESUMING = ("run", "study", "sync")


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
    command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
    kept = "Everything finished is kept; to go on:" if command in RESUMING else "To begin again:"
    click.echo(f"\nInterrupted. {kept}", err=True)
    # Without what an address may hold of a password: this ends up in logs.
    click.echo(f"  {masked(shlex.join(['cnnbench', *sys.argv[1:]]))}", err=True)
    return EXIT_SIGNAL + number


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's own)
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(cnnbench.__version__, prog_name="cnnbench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(*, debug: bool) -> None:
    """Measure what each documented way of training a CNN really buys on your own GPU."""
    del debug  # main has read it, before click did
