"""cnnbench: what each documented way of training a CNN really buys on your own GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnbench.api import build, run
    from cnnbench.plots import (
        plot_accuracy_epoch,
        plot_all,
        plot_one_change,
        plot_throughput_batch,
        plot_throughput_memory,
    )
    from cnnbench.record import Record
    from cnnbench.results import Records, load

__version__ = "0.1.0"
__all__ = [
    "Record",
    "Records",
    "__version__",
    "build",
    "load",
    "plot_accuracy_epoch",
    "plot_all",
    "plot_one_change",
    "plot_throughput_batch",
    "plot_throughput_memory",
    "run",
]

_HOMES = {
    "Record": "cnnbench.record",
    "Records": "cnnbench.results",
    "build": "cnnbench.api",
    "load": "cnnbench.results",
    "plot_accuracy_epoch": "cnnbench.plots",
    "plot_all": "cnnbench.plots",
    "plot_one_change": "cnnbench.plots",
    "plot_throughput_batch": "cnnbench.plots",
    "plot_throughput_memory": "cnnbench.plots",
    "run": "cnnbench.api",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562): `import cnnbench` itself is instant."""
    if name not in _HOMES:
        msg = f"module 'cnnbench' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)
