"""Lives of storages, held against steps whose memory can be counted by hand."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from cnnbench.measure.lifetimes import Lifetime, LifetimeWatch, at_the_peak

MIB = 2**20


def watch() -> LifetimeWatch:
    return LifetimeWatch(is_recomputing=lambda: False)


def test_what_is_alive_at_once_counts_and_what_has_died_does_not() -> None:
    seen = watch()
    with FakeTensorMode(), seen:
        a = torch.empty(4 * MIB, dtype=torch.uint8)
        b = torch.empty(8 * MIB, dtype=torch.uint8)
        del a
        c = torch.empty(2 * MIB, dtype=torch.uint8)
        del b, c
        torch.empty(5 * MIB, dtype=torch.uint8)
    assert at_the_peak(seen.lifetimes) == {"activations": 12 * MIB}


def test_an_input_is_still_there_when_the_output_is_made() -> None:
    seen = watch()
    with FakeTensorMode(), seen:
        a = torch.empty(MIB, dtype=torch.uint8)
        a = a + 1
    assert at_the_peak(seen.lifetimes) == {"activations": 2 * MIB}


def test_a_view_is_no_memory_of_its_own() -> None:
    seen = watch()
    with FakeTensorMode(), seen:
        a = torch.empty(MIB, dtype=torch.uint8)
        b = a.view(2, -1)[0]
        del a
        b.add_(1)
    assert [life.num_bytes for life in seen.lifetimes] == [MIB]


def test_what_the_backward_pass_makes_is_workspace_and_what_is_held_keeps_its_name() -> None:
    seen = watch()
    with FakeTensorMode():
        weight = torch.empty(100, 50, requires_grad=True)
        seen.hold("parameters", [weight])
        with seen:
            images = torch.empty(10, 50)
            functional.linear(images, weight).relu().sum().backward()
        assert weight.grad is not None
        seen.hold("gradients", [weight.grad])
    kinds = {life.kind for life in seen.lifetimes}
    assert kinds == {"parameters", "gradients", "activations", "workspace"}
    of_kind = {kind: [x for x in seen.lifetimes if x.kind == kind] for kind in kinds}
    assert [life.num_bytes for life in of_kind["parameters"]] == [4 * 100 * 50]
    assert [life.num_bytes for life in of_kind["gradients"]] == [4 * 100 * 50]


def test_of_equal_moments_the_first_counts() -> None:
    one = Lifetime(num_bytes=3, kind="a", birth=1, death=1)
    other = Lifetime(num_bytes=3, kind="b", birth=2)
    assert at_the_peak([one, other]) == {"a": 3}
    assert at_the_peak([]) == {}
