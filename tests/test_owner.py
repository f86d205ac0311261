"""Owners: which process writes a run, and whether it still can."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from cnnbench.owner import this_process

ASK = (
    "from cnnbench.owner import this_process as p; o = p(); print(o.host, o.pid, o.start); input()"
)


def test_a_process_is_alive_to_others_until_it_has_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        host, pid, start = process.stdout.readline().split()
        other = replace(this_process(), pid=int(pid), start=start)
        assert (host, int(pid)) == (this_process().host, process.pid)
        assert not other.is_dead()
        assert replace(other, start="0.0").is_dead(), "its number is another's by now"
        assert not replace(other, host="elsewhere", start="0.0").is_dead(), "nobody can tell"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert other.is_dead(), "a zombie writes nothing any more"
    assert other.is_dead()


def test_this_process_is_alive_and_a_fork_of_it_is_another() -> None:
    here = this_process()
    assert here.pid == os.getpid()
    assert not here.is_dead()
    pid = os.fork()
    if pid == 0:
        os._exit(int(this_process() == here))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
