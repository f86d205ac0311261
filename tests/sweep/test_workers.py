"""Workers: what they see, how they end, and that none is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from cnnbench.errors import ArchitectureError, UnknownNameError, WorkerError
from cnnbench.job import Request
from cnnbench.sweep.run import check, look
from cnnbench.sweep.workers import (
    ISOLATIONS,
    Forkserver,
    launcher,
    proxy_variables,
    worker_variables,
)
from processes import descendants, is_running, wait_for, wait_until_ended
from shop import Shop, preflight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.job import Progress

MODULE = "models_for_workers"
MODELS = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def tells(num_classes):
    told = {"env": dict(os.environ), "pid": os.getpid(), "ppid": os.getppid(),
            "group": os.getpgid(0), "session": os.getsid(0), "cwd": os.getcwd(),
            "sigterm": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
            "stdin": os.readlink("/proc/self/fd/0")}
    Path("told.json").write_text(json.dumps(told))
    print("x" * 20000 + "said on stderr", file=sys.stderr)
    print("said on stdout")
    return net(num_classes)

def dies(num_classes, number):
    os.kill(os.getpid(), number)
    time.sleep(60)

def leaves(num_classes):
    os._exit(3)

def has_child(num_classes, hangs=False, deaf=False, tells=False, number=0):
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    Path("pids.json").write_text(json.dumps([os.getpid(), child.pid]))
    if hangs:
        time.sleep(1000)
    if number:
        dies(num_classes, number)
    return globals()["tells" if tells else "net"](num_classes)

def raises(num_classes):
    raise KeyError("no such layer")
"""


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a folder with `models_for_workers.py`, with a secret in the environment."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "models_for_workers.py").write_text(MODELS)
    # A user's file called like a module of Python's: no worker may take it for that one.
    (folder / "selectors.py").write_text("raise RuntimeError('the wrong selectors')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))  # inline cells add the folder that they run in
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "a secret")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def shop(models: Path) -> Iterator[Shop]:
    before = descendants(os.getpid())
    with launcher("forkserver") as workers:
        ready = check(workers, preflight(models))
        yield Shop(workers=workers, ready=ready, folder=models, module=MODULE)
        started = descendants(os.getpid()) - before
        assert started
    wait_until_ended(started)


def test_a_cell_is_measured_in_a_forked_worker(shop: Shop) -> None:
    record = shop.run("net")
    assert (record.status, record.error) == ("completed", None)
    assert record.profile is not None
    assert record.start_seconds is not None
    assert 0 <= record.start_seconds < record.finished_at - record.started_at + 60


def test_a_worker_sees_no_secret_and_is_a_group_of_its_own(shop: Shop) -> None:
    assert shop.run("tells").status == "completed"
    told = shop.told()
    assert "a secret" not in told["env"].values()
    assert told["env"]["OMP_NUM_THREADS"] == "1"
    assert told["env"]["HOME"] == os.environ["HOME"]
    assert told["group"] == told["pid"]
    assert told["session"] == told["ppid"] != os.getsid(0)
    assert told["ppid"] in descendants(os.getpid())
    assert (told["cwd"], told["stdin"]) == (str(shop.folder), "/dev/null")
    assert told["sigterm"]
    assert not is_running(told["pid"])


def test_what_a_worker_prints_is_kept_and_does_not_reach_our_streams(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    record = shop.run("tells")
    assert "said on stderr\nsaid on stdout\n" in record.stderr_tail
    assert len(record.stderr_tail) <= 8192
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_is_killed_is_a_failed_cell_that_names_the_signal(
    shop: Shop, number: signal.Signals
) -> None:
    record = shop.run(f"dies(number={number.value})")
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith(f"the worker was killed by {number.name}")
    assert ("memory may have run out" in record.error) == (number == signal.SIGKILL)
    assert shop.run("net").status == "completed"


def test_a_worker_that_leaves_without_an_answer_is_a_failed_cell(shop: Shop) -> None:
    record = shop.run("leaves")
    assert (record.status, record.error) == (
        "failed",
        "the worker ended with status 3 and no answer",
    )


def test_what_a_worker_had_started_ends_with_it(shop: Shop) -> None:
    assert shop.run("has_child").status == "completed"
    wait_until_ended(shop.told("pids.json"))


@pytest.mark.parametrize("model", ["has_child(hangs=True)", "has_child(hangs=True,deaf=True)"])
def test_a_hanging_worker_is_ended_with_its_children_at_the_time_limit(
    shop: Shop, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnbench.sweep.isolated.TERM_GRACE_SECONDS", 0.5)
    record = shop.run(model, timeout_seconds=2)
    assert (record.status, record.error) == ("timeout", "took longer than 2 s")
    wait_until_ended(shop.told("pids.json"))
    assert shop.run("net", timeout_seconds=60).status == "completed"


def test_a_factory_that_raises_in_a_cell_is_a_failed_cell(shop: Shop) -> None:
    record = shop.run("raises")
    assert record.status == "failed"
    assert record.error == ("cannot build 'models_for_workers:raises': KeyError: 'no such layer'")


def test_what_the_preflight_finds_wrong_in_a_worker_is_raised_here(shop: Shop) -> None:
    with pytest.raises(ArchitectureError, match="no such layer"):
        check(shop.workers, preflight(shop.folder, "models_for_workers:raises"))
    with pytest.raises(WorkerError, match="the worker ended with status 3 and no answer") as error:
        check(shop.workers, preflight(shop.folder, "models_for_workers:leaves"))
    assert "\n" not in str(error.value)


def test_progress_is_heard_while_a_cell_runs(shop: Shop) -> None:
    heard: list[Progress] = []
    request = Request(cell=shop.job("models_for_workers:net"))
    outcome = shop.workers.run(request, on_progress=heard.append, timeout_seconds=None)
    assert outcome.answer is not None
    phases = [progress.phase for progress in heard]
    assert phases[0] == "setting up"
    assert "timing" in phases


def test_a_server_that_dies_costs_the_running_cell_alone(shop: Shop) -> None:
    for model in ("net", "has_child(hangs=True)"):
        (shop.folder / "pids.json").unlink(missing_ok=True)
        (server,) = {pid for pid in descendants(os.getpid()) if is_server(pid)}

        def kill(server: int = server) -> None:
            wait_for((shop.folder / "pids.json").exists, said="the cell")
            os.kill(server, signal.SIGKILL)

        if model == "net":  # between two cells: none is lost
            os.kill(server, signal.SIGKILL)
            wait_until_ended([server])
            assert shop.run(model).status == "completed"
            continue
        thread = threading.Thread(target=kill)
        thread.start()
        record = shop.run(model)
        thread.join()
        assert record.status == "failed"
        assert record.error is not None
        assert record.error.startswith("the fork server was killed by SIGKILL")
        wait_until_ended(shop.told("pids.json"))
    assert shop.run("net").status == "completed"


def is_server(pid: int) -> bool:
    with suppress(OSError):
        return b"cnnbench.sweep.server" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def test_a_server_that_cannot_start_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        Forkserver() as workers,
        pytest.raises(WorkerError, match="the fork server ended with status 7"),
    ):
        check(workers, preflight(models))


def test_a_server_that_is_not_ready_yet_can_be_closed_at_once() -> None:
    before = descendants(os.getpid())
    with Forkserver():
        started = descendants(os.getpid()) - before
        assert started
    assert not any(map(is_running, started))


def test_what_the_server_prints_while_it_imports_does_not_reach_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = tmp_path / "said"
    (tmp_path / "sitecustomize.py").write_text(
        f"print('loud', flush=True)\nopen({str(said)!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Forkserver():
        wait_for(said.exists, said="the server's first line")
    assert capfd.readouterr() == ("", "loud\n")


def test_spawned_workers_behave_as_forked_ones_do(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    num_files = num_open_files()
    with launcher("spawn") as workers:
        spawning = replace(shop, workers=workers)
        record = spawning.run("has_child(tells=True)")
        assert record.status == "completed"
        told = spawning.told()
        assert "a secret" not in told["env"].values()
        assert told["group"] == told["session"] == told["pid"]
        assert told["ppid"] == os.getpid()
        assert "said on stdout" in record.stderr_tail
        wait_until_ended(spawning.told("pids.json"))
        record = spawning.run(f"has_child(number={signal.SIGKILL.value})")
        assert record.status == "failed"
        assert record.error is not None
        assert record.error.startswith("the worker was killed by SIGKILL")
        wait_until_ended(spawning.told("pids.json"))
        assert num_open_files() == num_files
        before = descendants(os.getpid())
        assert spawning.run("net", timeout_seconds=0.5).status == "timeout"
        assert descendants(os.getpid()) == before
    assert capfd.readouterr() == ("", "")


def test_inline_runs_in_this_very_process(shop: Shop) -> None:
    with launcher("inline") as workers:
        assert look(workers, "cpu").device == shop.ready.environment.device
        inline = replace(shop, workers=workers)
        assert inline.run("tells").status == "completed"
        assert inline.told()["pid"] == os.getpid()


def test_an_unknown_isolation_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'forkserver'"):
        launcher("forkservre")
    assert ISOLATIONS == ("forkserver", "spawn", "inline")


def test_only_variables_on_the_list_reach_a_worker() -> None:
    given = {
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/home/me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "MLFLOW_TRACKING_TOKEN": "secret",
        "MLFLOW_TRACKING_URI": "http://me:secret@host",
        "GITHUB_TOKEN": "secret",
        "HF_TOKEN": "secret",
        "LD_PRELOAD": "libsecret.so",
        "PYTHONPATH": "elsewhere",
        "https_proxy": "http://me:secret@proxy",
        "HTTP_PROXY": "http://me:secret@proxy",
    }
    kept = worker_variables(given)
    assert "secret" not in "".join(kept.values())
    assert kept["CUDA_VISIBLE_DEVICES"] == "0"
    assert kept["HOME"] == "/home/me"
    # A worker finds the modules that this process finds.
    assert kept["PYTHONPATH"].split(os.pathsep) == [path or str(Path.cwd()) for path in sys.path]


def test_proxies_are_there_while_data_and_weights_are_fetched_and_at_no_other_time(
    shop: Shop,
) -> None:
    proxies = {"https_proxy": "http://me:secret@proxy"}
    assert proxy_variables({**proxies, "HOME": "/", "TOKEN": "secret"}) == proxies
    check(shop.workers, preflight(shop.folder, f"{MODULE}:tells", proxies=proxies))
    assert shop.told()["env"]["https_proxy"] == "http://me:secret@proxy"
    assert shop.run("tells").status == "completed"
    assert "https_proxy" not in shop.told()["env"]


def test_a_server_with_a_second_thread_refuses_to_fork(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        dedent(
            """
            import threading, time
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            serve = None
            """
        )
    )
    start = "import cnnbench.sweep.server as s; s.WORKER = 'threaded'; s.PRELOADED = (); s.main()"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", start, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            cwd=tmp_path,
        )
        theirs.close()
        assert json.loads(ours.recv(4096)) == {"ready": True}
        socket.send_fds(ours, [b'{"start": 1}'], [0, 0])
        assert json.loads(ours.recv(4096)) == {
            "refused": 1,
            "reason": "the fork server has 2 threads",
        }
    assert process.wait(60) == 0


def test_a_server_with_a_cuda_context_refuses_to_fork() -> None:
    # No GPU here: a module stands in for torch, whose one answer is what matters.
    script = """
import sys, types
from cnnbench.sweep import server
torch = sys.modules["torch"] = types.ModuleType("torch")
for answer in (False, True):
    torch.cuda = types.SimpleNamespace(is_initialized=lambda: answer)
    print(repr(server._unfit_to_fork()))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["''", "'the fork server has a CUDA context'"]
