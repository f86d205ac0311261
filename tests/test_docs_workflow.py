"""The workflow in the docs is one that GitHub would take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cnnbench.commands.regress import regress

WORKFLOW = Path(__file__).parent.parent / "docs" / "regress.yml"
BASH = shutil.which("bash") or "bash"


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


def workflow() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(WORKFLOW))


def step(name: str) -> dict[str, Any]:
    (found,) = (s for s in workflow()["jobs"]["regress"]["steps"] if s.get("name") == name)
    return dict(found)


GATE, TELL = "Compare with the base, by turns", "Tell the pull request"

# Keeps its arguments, writes a report where it is told to and there is one, and ends as it is told.
GATE_OF_STRAW = """#!/bin/sh
printf '%s\\n' "$@" > arguments
[ -z "$SAYS" ] || printf '%s' "$SAYS" > "$REPORT"
exit "$ENDS"
"""


def run_gate(folder: Path, *, ends: int, says: str) -> tuple[int, dict[str, str], str]:
    """Run the gate's step as GitHub does; return its status, its outputs and the summary."""
    gate = folder / ".venv" / "bin" / "cnnbench"
    gate.parent.mkdir(parents=True)
    gate.write_text(GATE_OF_STRAW)
    gate.chmod(0o755)
    script = folder / "script.sh"
    script.write_text(step(GATE)["run"])
    outputs, summary = folder / "outputs", folder / "summary"
    outputs.touch()
    summary.touch()
    settings = {
        "BASE": "HEAD^1",
        "REPORT": str(folder / "regress.md"),
        "JUNIT": str(folder / "regress.xml"),
        "HOME": str(folder / "home of the runner"),
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(summary),
        "ENDS": str(ends),
        "SAYS": says,
    }
    done = subprocess.run(
        [BASH, "-e", script], cwd=folder, env={**os.environ, **settings}, check=False
    )
    pairs = (line.partition("=") for line in outputs.read_text().splitlines())
    return done.returncode, {name: value for name, _, value in pairs}, summary.read_text()


def test_the_workflow_calls_the_gate_with_options_that_it_has(tmp_path: Path) -> None:
    run_gate(tmp_path, ends=0, says="")
    first, *given = (tmp_path / "arguments").read_text().splitlines()
    known = {option for parameter in regress.params for option in parameter.opts}
    options = dict(zip(given[::2], given[1::2], strict=True))
    assert first == "regress"
    assert {"--base", "--markdown", "--junit", "--results-dir"} <= set(options) <= known
    assert options["--base"] == "HEAD^1"
    # A checkout cleans its own folder, and the history is to outlive it.
    assert options["--results-dir"] == str(tmp_path / "home of the runner" / "cnnbench-results")


@pytest.mark.parametrize(("ends", "passes"), [(0, True), (1, False), (2, False), (3, True)])
@pytest.mark.parametrize("says", ["", "## No regression\n"])
def test_the_gates_status_decides_and_a_missing_report_does_not(
    tmp_path: Path, ends: int, says: str, *, passes: bool
) -> None:
    status, outputs, summary = run_gate(tmp_path, ends=ends, says=says)
    assert (status == 0) is passes
    assert outputs["status"] == str(ends)
    assert summary == says
    # On this the step that comments depends.
    assert outputs.get("report") == (str(tmp_path / "regress.md") if says else None)
    assert "steps.gate.outputs.report != ''" in step(TELL)["if"]


def test_the_workflows_scripts_are_shell_and_a_failed_comment_is_no_regression() -> None:
    for own in workflow()["jobs"]["regress"]["steps"]:
        if "run" in own:
            subprocess.run([BASH, "-n"], input=own["run"], text=True, check=True)
    assert step(TELL)["continue-on-error"] is True


def test_a_pull_request_is_compared_with_what_it_was_merged_into_and_ends_its_own_check_only() -> (
    None
):
    assert "'pull_request' && 'HEAD^1' || inputs.base" in step(GATE)["env"]["BASE"]
    (checkout,) = (s for s in workflow()["jobs"]["regress"]["steps"] if "checkout" in str(s))
    assert checkout["with"]["fetch-depth"] == 0
    concurrency = workflow()["concurrency"]
    assert "github.event.pull_request.number" in concurrency["group"]
    assert concurrency["cancel-in-progress"] is True


# What GitHub gives such a script, with a pull request that has the comments in `given`.
AS_ON_GITHUB = """
const [script, given] = process.argv.slice(2);
const context = { repo: { owner: "o", repo: "r" }, issue: { number: 7 } };
const calls = [];
const note = (name) => async (values) => calls.push([name, values]);
const issues = { createComment: note("create"), updateComment: note("update"), listComments: {} };
const github = { rest: { issues }, paginate: async () => JSON.parse(given) };
const Script = (async () => {}).constructor;
new Script("github", "context", "require", script)(github, context, require)
  .then(() => console.log(JSON.stringify(calls)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to run the script")
def test_a_pull_request_gets_one_comment_which_is_rewritten(tmp_path: Path) -> None:
    report, caller = tmp_path / "regress.md", tmp_path / "call.cjs"
    report.write_text("## No regression\n")
    caller.write_text(AS_ON_GITHUB)

    def comment(existing: list[dict[str, Any]]) -> Any:
        script, environment = step(TELL)["with"]["script"], {**os.environ, "REPORT": str(report)}
        arguments = [shutil.which("node") or "", caller, script, json.dumps(existing)]
        done = subprocess.run(arguments, env=environment, capture_output=True, check=True)
        return json.loads(done.stdout)

    other = {"id": 1, "body": "Looks good."}
    ((called, values),) = comment([other, {"id": 2, "body": None}])
    assert (called, values["issue_number"]) == ("create", 7)
    assert values["body"].endswith("\n## No regression\n")
    ((called, values),) = comment([other, {"id": 3, "body": values["body"]}])
    assert (called, values["comment_id"]) == ("update", 3)
