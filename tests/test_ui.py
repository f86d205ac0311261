"""`cnnbench ui`: the real server, started, answered by and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cnnbench.tracking import open_store
from command import listing, run_here, start
from mlflow_server import free_port
from processes import descendants, is_running, wait_for
from sample_records import sample_dataset, sample_environment, sample_record

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A UI that runs: where it stands, and which address it gave."""

    process: subprocess.Popen[str]
    folder: Path
    port: int
    address: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("ui")
    store = open_store(None, folder / "results" / "local")
    log = store.sweep(
        "quick-1", profile="quick", environment=sample_environment(), dataset=sample_dataset()
    )
    log.log(sample_record())
    log.finish([sample_record()])
    store.close()
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {folder}/opened\n')
    browser.chmod(0o755)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROWSER", str(browser))
        process = start("ui", "--port", str(port), cwd=folder)
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield Shown(
                process=process,
                folder=folder,
                port=port,
                address=line.removeprefix("MLflow UI: ").removesuffix("  (Ctrl-C ends it)\n"),
            )
        finally:
            process.terminate()  # in case that a test failed


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310  # 127.0.0.1, by http
        body: bytes = answer.read()
    return body


def test_the_address_given_answers_and_is_that_of_the_experiment(shown: Shown) -> None:
    base = f"http://127.0.0.1:{shown.port}"
    assert shown.address.startswith(f"{base}/#/experiments/")
    assert fetch(f"{base}/health") == b"OK"
    assert b"<html" in fetch(shown.address)
    number = urllib.parse.urlsplit(shown.address).fragment.split("/")[2]
    experiment = json.loads(
        fetch(f"{base}/ajax-api/2.0/mlflow/experiments/get?experiment_id={number}")
    )
    assert experiment["experiment"]["name"] == "cnnbench/quick"


def test_the_browser_is_sent_to_that_address(shown: Shown) -> None:
    opened = shown.folder / "opened"
    wait_for(lambda: opened.exists() and opened.read_text(), said="the browser")
    assert opened.read_text() == f"{shown.address}\n"


def test_a_port_in_use_is_refused(shown: Shown, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("ui", "--port", str(shown.port), "--no-open", folder=shown.folder) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"cnnbench: port {shown.port} is in use: choose another with --port.\n"


def test_a_server_that_runs_already_is_only_shown(
    shown: Shown, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://127.0.0.1:{shown.port}"
    assert run_here("ui", "--tracking-uri", uri, "--no-open", folder=shown.folder) == 0
    assert shown.address in capfd.readouterr().out


def test_ctrl_c_ends_the_server_and_its_workers(shown: Shown) -> None:
    # The last with this server.
    started = descendants(shown.process.pid)
    assert started
    os.kill(shown.process.pid, signal.SIGINT)
    _, err = shown.process.communicate(timeout=60)
    assert shown.process.returncode == 130
    assert not any(map(is_running, started))
    assert "Traceback" not in err
    assert "cnnbench run" not in err
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", shown.port)) != 0


def test_without_a_store_there_is_nothing_to_show(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here("ui", "--no-open", folder=tmp_path) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("cnnbench: there is no MLflow store ")
    assert "run `cnnbench run` first" in err
    assert listing(tmp_path) == {}
