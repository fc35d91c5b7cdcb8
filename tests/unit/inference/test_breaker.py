"""The breaker: when calls make sense, and when one at a time finds out whether they do again."""

import pytest

from server.inference.breaker import PROBE_PAUSE_S, PROBE_TIMEOUT_S, THRESHOLD, Breaker
from tests.fakes.clock import Clock


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def _open(breaker: Breaker) -> None:
    for _ in range(THRESHOLD):
        breaker.begin()
        breaker.fail("nobody there")


def test_a_few_failures_limit_nothing(breaker: Breaker) -> None:
    for _ in range(THRESHOLD - 1):
        breaker.fail("nobody there")
    assert not breaker.is_open
    assert breaker.limit is None


def test_an_answer_in_between_begins_the_count_anew(breaker: Breaker) -> None:
    for _ in range(THRESHOLD - 1):
        breaker.fail("nobody there")
    breaker.succeed()
    breaker.fail("nobody there")
    assert not breaker.is_open


def test_an_outage_lets_one_call_through_at_a_time(breaker: Breaker, clock: Clock) -> None:
    _open(breaker)
    assert (breaker.is_open, breaker.outage, breaker.limit) == (True, "nobody there", 0)
    clock.now += PROBE_PAUSE_S
    assert breaker.limit == 1
    breaker.begin()
    assert breaker.limit == 0


def test_a_probe_that_hangs_does_not_keep_the_next_one_waiting_for_long(breaker: Breaker, clock: Clock) -> None:
    _open(breaker)
    clock.now += PROBE_PAUSE_S
    breaker.begin()
    clock.now += PROBE_TIMEOUT_S
    assert breaker.limit == 1


def test_one_answer_ends_the_outage_and_is_told(breaker: Breaker, clock: Clock) -> None:
    told = []
    breaker.watch(lambda: told.append(breaker.limit))
    breaker.succeed()
    assert not told
    _open(breaker)
    clock.now += 5
    breaker.succeed()
    assert told == [None]
    assert breaker.answered_at == clock.now
