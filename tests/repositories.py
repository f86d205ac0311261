"""Git repositories for tests, whatever the user's own settings are."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")


def git(repository: Path, *arguments: str) -> str:
    """Run git in `repository` and return what it says."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        [*GIT, "-C", str(repository), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**variables, "GIT_CONFIG_GLOBAL": os.devnull},
    )
    return done.stdout.strip()
