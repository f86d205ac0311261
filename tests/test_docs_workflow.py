"""The workflow in the docs is one that GitHub would take."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cnnbench.commands.regress import regress

WORKFLOW = Path(__file__).parent.parent / "docs" / "regress.yml"


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.github-workflows",
            path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_workflow_fits_the_schema_and_a_broken_one_does_not(tmp_path: Path) -> None:
    done = check(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "runs_on:"))
    assert check(broken).returncode == 1


def test_the_workflow_calls_the_gate_with_options_that_it_has() -> None:
    (call,) = re.findall(r"cnnbench regress (.*?)\n\s+status=", WORKFLOW.read_text(), re.DOTALL)
    known = {option for parameter in regress.params for option in parameter.opts}
    used = set(re.findall(r"--[a-z-]+", call))
    assert {"--base", "--markdown", "--junit"} <= used <= known
