"""Who else is on the GPU, and which of them is this process."""

from __future__ import annotations

import os

import pytest

from cnnbench.measure.gpu import (
    PROCESSES,
    Gpu,
    list_gpus,
)
from fake_nvml import (
    FOREIGN_PID,
    GEFORCE_UUID,
    GIB,
    H200_UUID,
    HOST_PID,
    arrive,
    container,
    container_of_old_driver,
    h200,
    installed,
    old_geforce,
)


def test_who_was_there_before_and_who_comes_later_is_foreign() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, num_bytes=3 * GIB)
        assert gpu.num_foreign_processes() == 1
        assert gpu.process_bytes() == 3 * GIB
        arrive(card, FOREIGN_PID + 1)
        assert gpu.reading(gpu.counters()).num_foreign_processes == 2
        card.processes.pop(FOREIGN_PID)
        card.processes.pop(FOREIGN_PID + 1)
        assert gpu.num_foreign_processes() == 0


def test_the_other_one_of_a_pair_is_no_foreigner_and_anyone_else_is() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID, num_companions=1) as gpu:
        arrive(card, num_bytes=3 * GIB)
        assert gpu.num_foreign_processes() == 0
        arrive(card, FOREIGN_PID + 1)
        assert gpu.num_foreign_processes() == 1
        card.processes.pop(FOREIGN_PID)
        card.processes.pop(FOREIGN_PID + 1)
        assert gpu.num_foreign_processes() == 0


def test_a_desktop_is_not_foreign_but_listed() -> None:
    nvml = old_geforce()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(GEFORCE_UUID) as gpu:
        arrive(card)
        assert gpu.num_foreign_processes() == 0
        (listed,) = list_gpus().gpus
    assert listed.processes is not None
    assert {(p.pid, p.is_graphics) for p in listed.processes} == {
        (900, True),
        (os.getpid(), False),
    }


def test_a_session_that_is_opened_late_still_knows_this_process() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    arrive(card)
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.num_foreign_processes() == 1
        assert gpu.process_bytes() == 2 * GIB


def test_in_a_container_with_the_hosts_numbers_the_only_newcomer_is_this_process() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, HOST_PID, num_bytes=3 * GIB)
        assert gpu.process_bytes() == 3 * GIB
        assert gpu.num_foreign_processes() == 1
        card.processes.pop(FOREIGN_PID)
        assert gpu.num_foreign_processes() == 0
        # Later ones are foreign, now that this process is known.
        arrive(card, HOST_PID + 1)
        assert gpu.num_foreign_processes() == 1
        assert gpu.unknowns == {}


def test_a_process_that_is_known_is_not_taken_for_a_later_one() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, HOST_PID)
        assert gpu.num_foreign_processes() == 0
        card.processes = {HOST_PID + 1: GIB}
        assert gpu.num_foreign_processes() == 1
        assert gpu.process_bytes() is None


def test_two_newcomers_cannot_be_told_apart_until_one_has_left() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, HOST_PID)
        arrive(card, HOST_PID + 1)
        assert gpu.num_foreign_processes() is gpu.process_bytes() is None
        assert gpu.unknowns == {PROCESSES: "cannot tell this process among 2 that have come"}
        card.processes.pop(HOST_PID + 1)
        assert gpu.num_foreign_processes() == 0


def test_someone_who_was_there_with_our_number_is_not_us() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    arrive(card, os.getpid())  # the host's process of that number
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.num_foreign_processes() is None
        assert gpu.unknowns == {PROCESSES: "the driver does not list this process"}
        arrive(card, HOST_PID)
        assert gpu.num_foreign_processes() == 1


def test_a_container_that_sees_only_itself_cannot_say_that_it_is_alone() -> None:
    nvml = container()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card)
        assert gpu.process_bytes() == 2 * GIB
        assert gpu.num_foreign_processes() is None
        assert gpu.unknowns == {PROCESSES: "a container is shown its own processes only"}
        arrive(card, 99)  # a neighbour within the container
        assert gpu.num_foreign_processes() == 1


def test_a_process_that_is_not_listed_is_unknown_and_not_without_memory() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.process_bytes() is gpu.num_foreign_processes() is None
        assert gpu.unknowns == {PROCESSES: "the driver does not list this process"}


@pytest.mark.parametrize("told", [None, 0])
def test_memory_that_the_driver_does_not_tell_is_unknown(told: int | None) -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(nvml.gpus[0], num_bytes=told)
        assert gpu.process_bytes() is None
        assert gpu.num_foreign_processes() == 0
        assert gpu.unknowns == {
            "process memory": "the driver does not tell the memory of this process"
        }
