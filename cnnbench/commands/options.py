"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS_DIR = "results/local"


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


def options(*several: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that gives a command all of `several`."""

    def add(function: Any) -> Any:
        for option in reversed(several):
            function = option(function)
        return function

    return add


def _axis(name: str, text: str, kind: Callable[[str], Any] = str) -> Callable[[Any], Any]:
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, name, type=CommaSeparated(kind), multiple=True, help=text)


AXES = options(
    _axis("architecture", "simple_cnn, resnet(width=16), torchvision:NAME, module.path:factory"),
    _axis("precision", "fp32, tf32, bf16, fp16"),
    _axis("batch_size", "images per step", int),
    _axis("checkpointing", "none, stage, block, activations"),
    _axis("memory_format", "nchw, channels_last"),
    _axis("compile", "off, graph, default, reduce-overhead, max-autotune"),
    _axis("loader", "device, workers"),
    _axis("parallelism", "none, data-N, sharded-N, pipelined-N: on N devices, profiled only"),
    _axis("seed", "seeds of weights and data order", int),
)

RECIPE = options(
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
    click.option("--features", help="every_step, once: how often a frozen trunk's are computed"),
)


ISOLATION = click.option(
    "--isolation",
    type=click.Choice(["forkserver", "spawn", "inline"]),
    default="forkserver",
    show_default=True,
    help="How workers start.",
)
PLACE = options(
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
    ISOLATION,
    click.option("--cell-timeout", type=click.FloatRange(min=0, min_open=True), help="seconds"),
)
MEMORY_BUDGET = click.option(
    "--memory-budget", help="such as 2GiB; a step that needs more does not fit"
)
DEBUG = click.option("--debug", is_flag=True, help="Show tracebacks.")
