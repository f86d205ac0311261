"""A recommendation's snippet, timed by itself: what it promised is held against this.

`python -m bench.snippet_loop FILE` runs the program in FILE as printed, then times one window of its `step`
for each line that it reads, and prints the seconds of a window.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

WINDOW_SECONDS = 0.2
NUM_WARMUP_STEPS = 10


def main() -> None:
    """Run the program, warm up, say how long a window is, and time one for each line that comes."""
    path = Path(sys.argv[1])
    names: dict[str, Any] = {"__name__": "__main__"}
    stdout = os.dup(1)
    os.dup2(2, 1)  # what the program prints is no answer
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)  # noqa: S102 - ours
    sys.stdout.flush()
    os.dup2(stdout, 1)
    step, batch = names["step"], names["batch"]

    def run(num_steps: int) -> float:
        _wait()
        begin = time.perf_counter()
        for _ in range(num_steps):
            step(*batch())
        _wait()
        return time.perf_counter() - begin

    num_steps = math.ceil(WINDOW_SECONDS / (run(NUM_WARMUP_STEPS) / NUM_WARMUP_STEPS))
    run(num_steps)
    click.echo(num_steps)
    for _ in sys.stdin:
        click.echo(run(num_steps))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
