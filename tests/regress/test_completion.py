"""Whether processes complete is judged by their numbers, and what completed is compared all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cnnbench.regress.completion import ENOUGH_FOR_CHANCE, judge_completion
from cnnbench.regress.judge import is_decided, judge
from sample_regress import STEP_SECONDS, sample_results, sample_test

if TYPE_CHECKING:
    from cnnbench.regress.results import Measured

FAR = 100


def losing(num_lost: int, number: int, status: str = "failed") -> Measured:
    """Return a test of so many processes, of which the first `num_lost` did not complete."""
    test = sample_test(number=number)
    lost = [
        replace(run, status=status, windows=(), error="it broke") for run in test.runs[:num_lost]
    ]
    return replace(test, runs=(*lost, *test.runs[num_lost:]))


@pytest.mark.parametrize(
    ("lost_before", "lost_after", "number", "verdict"),
    [
        (0, 0, 6, None),
        (0, 1, 1, "inconclusive"),
        (0, 2, 2, "regressed"),
        (0, 1, 6, "inconclusive"),
        (0, 1, ENOUGH_FOR_CHANCE, "same"),
        (0, 2, ENOUGH_FOR_CHANCE, "inconclusive"),
        (0, 5, ENOUGH_FOR_CHANCE, "regressed"),
        (1, 1, 6, "same"),
        (5, 1, 6, "same"),
        (5, 6, 6, "inconclusive"),
        (6, 1, 6, "improved"),
        (6, 6, 6, "invalid"),
    ],
)
def test_losses_are_judged_by_their_number(
    lost_before: int, lost_after: int, number: int, verdict: str | None
) -> None:
    found = judge_completion(losing(lost_before, number), losing(lost_after, number))
    assert (found and found[0]) == verdict


def test_what_both_sides_cannot_do_alike_is_the_same_and_what_breaks_is_not() -> None:
    for status, verdict in (("out_of_memory", "same"), ("timeout", "invalid")):
        lost = losing(6, 6, status)
        assert judge(sample_results(lost), sample_results(lost)).verdict == verdict


def test_what_no_process_has_measured_cannot_be_compared() -> None:
    assert judge_completion(sample_test(number=0), sample_test(number=0)) == (
        "invalid",
        "neither side completes: not measured",
    )


def test_a_loss_on_the_bases_side_hides_nothing_of_the_candidate() -> None:
    base, candidate = losing(1, 10), sample_test(2 * STEP_SECONDS, number=10, offset=FAR)
    judgement = judge(sample_results(base), sample_results(candidate))
    found = {finding.measure: finding for finding in judgement.findings}
    assert found["throughput"].verdict == "regressed"
    assert found["throughput"].num_pairs == 9
    assert found["status"].verdict == "same"
    assert judgement.exit_code == 1


def test_measuring_goes_on_after_a_loss_and_ends_with_a_second_one() -> None:
    good = sample_test(number=2)
    assert not is_decided(losing(1, 1), sample_test(number=1), delta=0.02)
    assert not is_decided(good, losing(1, 2), delta=0.02)
    assert is_decided(good, losing(2, 2), delta=0.02)
    assert is_decided(losing(2, 2), losing(2, 2), delta=0.02)
    enough = ENOUGH_FOR_CHANCE
    assert is_decided(sample_test(number=enough), losing(1, enough), delta=0.02)


def test_a_test_that_cannot_begin_is_a_regression_and_where_the_base_cannot_it_is_new() -> None:
    good, cannot = sample_test(), replace(sample_test(), runs=(), refused="no such layer")
    broken = judge(sample_results(good), sample_results(cannot))
    assert [(f.measure, f.verdict, f.reason) for f in broken.findings] == [
        ("status", "regressed", "no such layer")
    ]
    new = judge(sample_results(cannot), sample_results(good))
    assert (new.findings, new.new_tests) == ((), (good.name,))
    assert judge(sample_results(cannot), sample_results(cannot)).verdict == "invalid"
