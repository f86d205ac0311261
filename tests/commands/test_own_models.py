"""A user's own model that breaks in the middle, is mended and runs again."""

from __future__ import annotations

import pytest

from command import TINY_PROFILE, cnnbench, run_here
from finished_run import Run, records

OWN_MODELS = """
from pathlib import Path
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def flaky(num_classes):
    # The preflight builds it first; the cell is the second to do so.
    with Path("builds").open("a+") as file:
        file.write("x")
        if file.tell() == 2:
            raise RuntimeError("out of bricks")
    return net(num_classes)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("own")
    (folder / "tiny.toml").write_text(TINY_PROFILE)
    (folder / "my_own_models.py").write_text(OWN_MODELS)
    return Run(folder=folder, done=cnnbench(*OWN_RUN, cwd=folder))


OWN_RUN = (
    *("run", "--profile", "tiny.toml", "--architecture", "my_own_models:net,my_own_models:flaky"),
    *("--batch-size", "32", "--epochs", "0", "--tracking-uri", "none"),
)


def test_a_model_that_breaks_in_the_middle_is_one_failed_cell_and_status_1(own: Run) -> None:
    assert own.done.returncode == 1
    assert "Traceback" not in own.done.stderr + own.done.stdout
    net, flaky = records(own.sweep)
    assert (net.status, net.error) == ("completed", None)
    assert flaky.status == "failed"
    assert flaky.error == "cannot build 'my_own_models:flaky': RuntimeError: out of bricks"
    assert "out of bricks" in own.done.stdout


def test_tracking_uri_none_makes_no_store(own: Run) -> None:
    assert own.done.returncode == 1
    assert sorted(path.name for path in (own.folder / "results" / "local").iterdir()) == sorted(
        ["prepared", own.sweep.name]
    )
    assert "MLflow" not in own.done.stdout


@pytest.mark.usefixtures("one_thread")
def test_only_what_failed_runs_again_and_an_edited_model_is_measured_anew(own: Run) -> None:
    net, flaky = records(own.sweep)
    inline = (*OWN_RUN, "--isolation", "inline")
    assert run_here(*inline, folder=own.folder) == 1  # without being asked to, nothing runs again
    assert records(own.sweep) == [net, flaky]
    assert run_here(*inline, "--retry-failed", folder=own.folder) == 0
    assert [record.status for record in records(own.sweep)] == ["completed", "completed"]
    assert records(own.sweep)[0] == net
    sweep = own.sweep
    with (own.folder / "my_own_models.py").open("a") as file:
        file.write("# edited\n")
    assert run_here(*inline, folder=own.folder) == 0
    (new,) = {path.parent for path in own.folder.glob("results/local/*/journal.jsonl")} - {sweep}
    fresh = records(new)
    assert [record.cell_hash for record in fresh] == [net.cell_hash, flaky.cell_hash]
    assert {record.environment_hash for record in fresh}.isdisjoint({net.environment_hash})
