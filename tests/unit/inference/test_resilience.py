"""When it is tried again, of which model, and after which pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.protocol import UpstreamError
from server.inference.resilience import BASE_PAUSE_S, MAX_PAUSE_S, Deadline, RetryBudget, RetryPlan, pause_before
from tests.fakes.clock import Clock

OUTAGE = UpstreamError("away", status=503, is_transient=True)
UNREACHABLE = UpstreamError("no way", is_transient=True)
REFUSED = UpstreamError("no", status=422)
GONE = UpstreamError("gone", status=404, is_model_missing=True)
STALE = UpstreamError("closed", is_transient=True, is_stale=True)


def most(_low: float, high: float) -> float:
    return high


def plan(*models: str, max_retries: int = 3, seconds: float = 100, budget: RetryBudget | None = None) -> RetryPlan:
    deadline = Deadline(seconds, clock=Clock())
    return RetryPlan(models, max_retries=max_retries, deadline=deadline, budget=budget or RetryBudget(), jitter=most)


def test_the_ceiling_of_the_pause_doubles_up_to_eight_seconds() -> None:
    assert [pause_before(retry, jitter=most) for retry in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]


@given(st.integers(1, 10_000))
def test_a_pause_is_anything_below_its_ceiling(retry: int) -> None:
    assert 0 <= pause_before(retry) <= MAX_PAUSE_S
    assert pause_before(retry, jitter=lambda low, _high: low) == 0


@given(st.floats(0, 600))
def test_who_says_when_to_come_back_is_not_asked_earlier_and_little_later(retry_after_s: float) -> None:
    assert retry_after_s <= pause_before(1, retry_after_s=retry_after_s) <= retry_after_s + BASE_PAUSE_S


def test_an_outage_is_tried_again_as_often_as_is_allowed() -> None:
    retries = plan("a/b", max_retries=2)
    assert [retries.pause_after(OUTAGE) for _ in range(3)] == [0.5, 1.0, None]
    assert plan("a/b", max_retries=0).pause_after(OUTAGE) is None


def test_a_refusal_is_not_tried_again() -> None:
    assert plan("a/b", "c/d").pause_after(REFUSED) is None


def test_an_error_may_allow_fewer_retries() -> None:
    once = UpstreamError("slow", status=504, is_transient=True, max_retries=1)
    retries = plan("a/b")
    assert [retries.pause_after(once) for _ in range(2)] == [0.5, None]


def test_a_missing_model_makes_way_at_once_and_costs_no_retry() -> None:
    retries = plan("a/b", "c/d", "e/f", max_retries=0)
    assert (retries.pause_after(GONE), retries.model) == (0.0, "c/d")
    assert (retries.pause_after(GONE), retries.model) == (0.0, "e/f")
    assert retries.pause_after(GONE) is None
    assert retries.retries == 0


def test_a_model_that_fails_twice_makes_way_for_the_next() -> None:
    retries = plan("a/b", "c/d")
    seen = []
    while retries.pause_after(OUTAGE) is not None:
        seen.append(retries.model)
    assert seen == ["a/b", "c/d", "c/d"]


def test_an_unreachable_upstream_is_not_the_models_fault() -> None:
    retries = plan("a/b", "c/d")
    while retries.pause_after(UNREACHABLE) is not None:
        assert retries.model == "a/b"


def test_a_long_retry_after_is_waited_for_by_the_next_model_or_in_the_backlog() -> None:
    busy = UpstreamError("busy", status=429, is_transient=True, retry_after_s=60)
    retries = plan("a/b", "c/d")
    assert (retries.pause_after(busy), retries.model) == (0.5, "c/d")
    assert retries.pause_after(busy) is None


def test_a_short_retry_after_is_waited_for() -> None:
    busy = UpstreamError("busy", status=429, is_transient=True, retry_after_s=2)
    assert plan("a/b", "c/d").pause_after(busy) == pytest.approx(2.2)


def test_a_closed_connection_is_tried_again_at_once_but_only_once() -> None:
    retries = plan("a/b", max_retries=1)
    assert [retries.pause_after(STALE) for _ in range(3)] == [0.0, 0.5, None]


def test_nothing_is_tried_that_could_not_begin_in_time() -> None:
    assert plan("a/b", seconds=0.4).pause_after(OUTAGE) is None
    assert plan("a/b", "c/d", seconds=0).pause_after(GONE) is None


def test_an_empty_chain_asks_for_no_model() -> None:
    retries = plan()
    assert retries.model is None
    assert retries.pause_after(GONE) is None


def test_in_a_long_outage_retries_are_a_tenth_of_the_calls() -> None:
    budget = RetryBudget(capacity=10, per_second=0, clock=Clock())
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += sum(budget.spend() for _ in range(3))
    assert spent <= 10 + 0.1 * 1000 + 1


def test_a_quiet_server_earns_its_retries_by_time() -> None:
    clock = Clock()
    budget = RetryBudget(capacity=2, clock=clock)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    clock.now += 1
    assert [budget.spend() for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_an_empty_budget_sends_the_work_back_to_the_backlog() -> None:
    budget = RetryBudget(capacity=0, clock=Clock())
    assert plan("a/b", budget=budget).pause_after(OUTAGE) is None


def test_a_deadline_never_has_less_than_nothing_left() -> None:
    clock = Clock()
    deadline = Deadline(5, clock=clock)
    clock.now += 2
    assert (deadline.left_s, deadline.bound(10), deadline.bound(1)) == (3, 3, 1)
    clock.now += 10
    assert (deadline.left_s, deadline.bound(1)) == (0, 0)
