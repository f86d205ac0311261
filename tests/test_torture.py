"""One kill of each chosen moment; `make torture` kills fifty times, also at random moments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "torture.py"
MOMENTS = (
    "parent in a timed window",
    "parent while a worker starts",
    "parent mid-journal",
    "parent between journal and MLflow",
    "parent MLflow: a run begun",
    "parent MLflow: in a transaction",
    "parent MLflow: a run all but ended",
    "parent while the report is logged",
    "worker in a timed window",
    "worker as it starts",
    "worker before it answers",
    "worker mid-answer",
)


def test_nothing_is_lost_and_nothing_left_behind_at_any_chosen_moment() -> None:
    # In a process of its own: the one that forks may have no second thread.
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--points"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for moment in MOMENTS:
        assert f" {moment} " in done.stdout
    assert f"{len(MOMENTS)} kills, 0 failed" in done.stdout
