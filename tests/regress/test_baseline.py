"""A baseline is kept by machine, found before anything is measured, and taken only when it fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cnnbench.errors import CnnbenchError, StoreError
from cnnbench.regress.baseline import (
    accept,
    baseline_path,
    find_baseline,
    latest_path,
    load_baseline,
)
from cnnbench.regress.machine import this_machine
from cnnbench.regress.opponent import choose_opponent
from cnnbench.regress.results import write_results
from cnnbench.regress.revision import Revision, checkout
from command import environment, listing, refusal, run_here
from sample_regress import (
    STEP_SECONDS,
    TRAINING,
    sample_machine,
    sample_results,
    sample_test,
)

# Runs the command line and then says which heavy modules it has brought in.
WATCHED = """
import sys
from cnnbench.cli import main
try:
    main()
finally:
    print(sorted({"torch", "scipy", "pandas", "mlflow"} & set(sys.modules)))
"""


@pytest.fixture
def results_dir(tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_the_path_names_device_driver_torch_and_cuda(results_dir: Path) -> None:
    machine = sample_machine(
        device="NVIDIA H100 80GB HBM3",
        device_type="cuda",
        driver="570",
        cuda="13.0",
        num_threads=None,
    )
    path = baseline_path(results_dir, machine).relative_to(results_dir)
    expected = "baselines/nvidia-h100-80gb-hbm3/driver-570_torch-2.11.0+cu130_cuda-13.0.json"
    assert str(path) == expected


def test_on_a_cpu_each_number_of_threads_has_a_baseline_of_its_own(results_dir: Path) -> None:
    one, eight = (sample_results(machine=sample_machine(num_threads=n)) for n in (1, 8))
    for results in (one, eight):
        accept(results, results_dir)
    path = baseline_path(results_dir, one.machine)
    assert path.name == "driver-none_torch-2.11.0+cu130_cuda-none_threads-1.json"
    assert find_baseline(results_dir, one.machine) == one
    assert find_baseline(results_dir, eight.machine) == eight


def test_what_was_accepted_is_loaded_again(results_dir: Path) -> None:
    results = sample_results()
    path = accept(results, results_dir)
    assert load_baseline(path, results.machine) == results


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "AMD EPYC"),
        ("driver", "535"),
        ("torch", "2.12.0"),
        ("cuda", "12.8"),
        ("num_threads", 64),
    ],
)
def test_a_baseline_of_another_machine_is_refused_and_the_key_named(
    results_dir: Path, key: str, value: object
) -> None:
    path = accept(sample_results(), results_dir)
    name = key.replace("_", " ")
    with pytest.raises(StoreError, match=f"another machine's: {name} {value} here"):
        load_baseline(path, sample_machine(**{key: value}))


@pytest.mark.parametrize(
    "text",
    ["", "{torn", "[]", "{}", '{"machine_info": {"cnnbench": {"device": 3}}, "benchmarks": []}'],
)
def test_a_damaged_baseline_is_named_and_never_passed_over(results_dir: Path, text: str) -> None:
    path = baseline_path(results_dir, sample_machine())
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(CnnbenchError, match="is damaged"):
        choose_opponent(sample_machine(), results_dir, base=None, baseline=None)


def test_a_baseline_without_tests_is_none(results_dir: Path) -> None:
    path = accept(sample_results(tests={}), results_dir)
    with pytest.raises(StoreError, match="holds no tests"):
        load_baseline(path, sample_machine())


def test_a_baseline_of_this_machine_goes_before_the_history(results_dir: Path) -> None:
    accept(sample_results(), results_dir)
    chosen = choose_opponent(sample_machine(), results_dir, base=None, baseline=None)
    assert chosen.target == sample_results()
    assert "0123456789" in chosen.text


def test_without_a_baseline_the_history_is_compared_with_and_said_so(results_dir: Path) -> None:
    if checkout() is None:
        pytest.skip("these tests do not run from a git checkout")
    chosen = choose_opponent(sample_machine(), results_dir, base=None, baseline=None)
    assert "this machine has no baseline yet" in chosen.text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("torch", "2.9.0", "torch 2.11.0+cu130 here, 2.9.0 there"),
        ("driver", "535", "driver none here, 535 there"),
        ("cuda", "12.8", "cuda none here, 12.8 there"),
        ("num_threads", 8, "num threads 1 here, 8 there"),
    ],
)
def test_a_baseline_of_this_device_with_other_software_is_named_with_what_differs(
    key: str, value: object, said: str, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Revision(root=results_dir, commit="c" * 40, reason="the last commit")
    monkeypatch.setattr("cnnbench.regress.opponent.default_revision", lambda _: found)
    near = sample_results(machine=sample_machine(**{key: value}))
    path = accept(near, results_dir)
    further = replace(near.machine, torch="2.8.0", cuda="11.8", driver="1")
    accept(sample_results(machine=further, measured_at="2026-02-01"), results_dir)
    accept(sample_results(machine=sample_machine(device="Another")), results_dir)
    (path.parent / "torn.json").write_text("{")
    chosen = choose_opponent(sample_machine(), results_dir, base=None, baseline=None)
    assert chosen.text == (
        "revision cccccccccc of results (the last commit);"
        f" this device's baseline {path.relative_to(results_dir)} cannot be compared with: {said}"
    )


def test_without_baseline_and_history_the_remedy_is_named(
    results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.regress.opponent.checkout", lambda: None)
    accept(sample_results(machine=sample_machine(torch="2.9.0")), results_dir)
    with pytest.raises(StoreError, match=r"others': .*torch-2\.9\.0.*--no-compare"):
        choose_opponent(sample_machine(), results_dir, base=None, baseline=None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--baseline", "missing.json"), "there is no file missing.json"),
        (("--baseline", "torn.json"), "torn.json is damaged"),
        (("--baseline", "other.json"), "device "),
        (("--base", "no-such-revision"), "no-such-revision"),
        (("--results", "torn.json"), "torn.json is damaged"),
        (("--no-compare", "--suite", "missing.toml"), "cannot read the suite missing.toml"),
        (("--no-compare", "--only", "nothing"), "no test's name holds 'nothing'"),
        (("--markdown", "nowhere/a.md"), "there is no such folder"),
        (("--markdown", "torn.json/a.md"), "there is no such folder"),
        (("--markdown", "/proc/a.md"), "cannot write /proc/a.md: "),
        (("--junit", f"{'a' * 300}.xml"), "aaa.xml: File name too long"),
        (("--budget", "soon"), "write a time such as"),
        (("--results", "a", "--base", "b"), "cnnbench: --results and --base exclude each other"),
        (("--no-compare", "--base", "b"), "cnnbench: --no-compare and --base exclude each other"),
        (("--no-compare", "--baseline", "b"), "--no-compare and --baseline exclude each other"),
        (("--no-compare", "--results", "a"), "--results and --no-compare exclude each other"),
        (("--base", "a", "--baseline", "b"), "--base and --baseline exclude each other"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "torn.json").write_text("{")
    write_results(sample_results(), tmp_path / "other.json")
    before = listing(tmp_path)
    assert run_here("regress", *arguments, folder=tmp_path) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["kept.md", "locked/a.md"])
def test_a_file_or_folder_without_permission_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.md").touch(mode=0o444)
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.geteuid() == 0:
        pytest.skip("to root nothing is forbidden")
    said = refusal(capfd, tmp_path, "regress", "--no-compare", "--markdown", name)
    assert said == f"cnnbench: cannot write {name}: Permission denied."


def judge_stored(folder: Path, *arguments: str) -> int:
    """Let the gate judge results that are as the baseline of their machine."""
    accept(sample_results(), folder / "results" / "local")
    write_results(sample_results(), folder / "a.json")
    return run_here("regress", "--results", "a.json", *arguments, folder=folder)


def test_files_and_what_links_lead_to_are_written_and_nothing_is_left_by_the_check(
    tmp_path: Path,
) -> None:
    (tmp_path / "old.md").write_text("old " * 10_000)
    (tmp_path / "link.xml").symlink_to("new.xml")
    files = ("--markdown", "old.md", "--junit", "link.xml")
    before = listing(tmp_path)
    assert run_here("regress", "--results", "missing.json", *files, folder=tmp_path) == 2
    assert listing(tmp_path) == before
    assert judge_stored(tmp_path, *files) == 0
    assert (tmp_path / "old.md").read_text().startswith("## No regression")
    assert "old old" not in (tmp_path / "old.md").read_text()
    assert (tmp_path / "link.xml").is_symlink()
    assert "testsuite" in (tmp_path / "new.xml").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("option", ["--markdown", "--junit"])
def test_a_disk_that_fills_up_is_no_regression_and_what_was_found_is_told(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge_stored(tmp_path, option, "/dev/full") == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("same: ")
    assert err == "cnnbench: cannot write /dev/full: No space left on device.\n"


def test_a_refusal_comes_before_torch_and_statistics_are_imported(tmp_path: Path) -> None:
    write_results(sample_results(), tmp_path / "other.json")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "regress", "--baseline", "other.json"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is another machine's" in done.stderr
    assert done.stdout.strip() == "[]"


def test_accept_shows_what_it_takes_and_what_it_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results" / "local"
    machine = this_machine()
    gone = replace(sample_test(), name="training/gone")
    accept(sample_results(sample_test(), gone, machine=machine), folder)
    fast = sample_results(sample_test(STEP_SECONDS / 2), machine=machine)
    write_results(fast, latest_path(folder))
    assert run_here("accept", folder=tmp_path) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith(TRAINING))
    now, was = (float(text.strip("()").replace(",", "")) for text in (row[1], row[3]))
    assert row[2] == "(was"
    assert now == pytest.approx(2 * was, rel=0.1)
    assert "no longer in it: training/gone" in out
    assert load_baseline(baseline_path(folder, machine), machine) == fast


def test_a_damaged_baseline_is_replaced_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, found = tmp_path / "results" / "local", sample_results(machine=this_machine())
    path = accept(found, folder)
    path.write_text("{torn")
    write_results(found, latest_path(folder))
    assert run_here("accept", folder=tmp_path) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"replacing a damaged baseline: {path} is damaged")
    assert find_baseline(folder, found.machine) == found


def test_nothing_is_accepted_that_was_not_measured_here_or_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latest = latest_path(tmp_path / "results" / "local")
    assert run_here("accept", folder=tmp_path) == 2
    assert "nothing to accept" in capsys.readouterr().err
    write_results(sample_results(), latest)
    assert run_here("accept", folder=tmp_path) == 2
    assert "another machine's" in capsys.readouterr().err
    broken = sample_test(status="failed", error="it broke", windows=())
    write_results(sample_results(broken, machine=this_machine()), latest)
    assert run_here("accept", folder=tmp_path) == 2
    assert "what failed is no baseline" in capsys.readouterr().err
    assert not (latest.parent.parent / "baselines").exists()


@pytest.mark.parametrize(
    ("kept", "measured", "status"),
    [("cpu", "bench", 2), ("cpu", "cpu", 0), ("", "bench", 0), ("cpu", "", 0)],
)
def test_stored_results_of_another_suite_than_the_baselines_are_refused(
    kept: str, measured: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(sample_results(suite=kept), tmp_path / "results" / "local")
    write_results(sample_results(suite=measured), tmp_path / "a.json")
    assert run_here("regress", "--results", "a.json", folder=tmp_path) == status
    said = "cnnbench: the baseline is of the suite cpu, this is bench. Compare with a revision"
    assert capsys.readouterr().err.startswith(said) == (status == 2)


@pytest.mark.parametrize("status", ["failed", "timeout"])
def test_a_test_that_failed_but_for_its_last_process_is_refused_and_named_once(
    results_dir: Path, status: str
) -> None:
    *others, last = sample_test().runs
    lost = (replace(run, status=status, error="it broke") for run in others)
    flaky = replace(sample_test(), runs=(*lost, last))
    with pytest.raises(
        StoreError, match=rf": {TRAINING} \(7 of 8 processes, first {status}: it broke\)\. "
    ):
        accept(sample_results(flaky), results_dir)
    assert not results_dir.exists()


def test_a_test_that_could_not_begin_is_no_baseline(results_dir: Path) -> None:
    refused = replace(sample_test(), runs=(), refused="no such layer")
    with pytest.raises(StoreError, match=r"no baseline: .*\(no such layer\)"):
        accept(sample_results(refused), results_dir)


def test_stored_results_are_judged_without_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results" / "local"
    accept(sample_results(), folder)
    runs = sample_test(1.1 * STEP_SECONDS, offset=50).runs
    halves = []
    for number, part in enumerate((runs[:3], runs[3:])):
        path = tmp_path / f"{number}.json"
        write_results(sample_results(replace(sample_test(), runs=part)), path)
        halves += ["--results", str(path)]
    report, cases = tmp_path / "a.md", tmp_path / "a.xml"
    command = ("regress", *halves, "--json", "--markdown", str(report), "--junit", str(cases))
    assert run_here(*command, folder=tmp_path) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "regressed"
    assert [f["measure"] for f in said["findings"] if f["verdict"] == "regressed"] == ["throughput"]
    assert report.read_text().startswith("## Regression")
    assert 'failures="1"' in cases.read_text()
