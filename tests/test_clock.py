"""The clock of records: shared by a sweep's processes, and deaf to whoever sets the machine's."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cnnbench import clock


def test_it_tells_the_time_of_day() -> None:
    assert abs(clock.now() - time.time()) < 60


def test_it_goes_on_when_the_machines_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = clock.now(), time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    assert before <= clock.now() < before + 60


@pytest.mark.parametrize("given", [None, "no number", ""])
def test_another_process_shares_it_when_it_is_told_and_has_its_own_otherwise(
    given: str | None,
) -> None:
    earlier = {clock.VARIABLE: str(float(clock.shared()[clock.VARIABLE]) - 1e6)}
    variables = earlier if given is None else {clock.VARIABLE: given}
    program = "from cnnbench.clock import now; print(now())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    behind = clock.now() - float(done.stdout)
    assert behind == pytest.approx(1e6 if given is None else 0, abs=60)
