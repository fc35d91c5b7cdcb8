"""The limiter admits bursts, and refuses more creates than the process can serve."""

import contextlib

import pytest

from server.errors import Unavailable
from server.limits.concurrency import MAX_LIMIT, MIN_LIMIT, RECOVERY_S, TARGET_S, ConcurrencyLimiter
from tests.fakes.clock import Clock


@pytest.fixture
def limiter(clock: Clock) -> ConcurrencyLimiter:
    return ConcurrencyLimiter(clock=clock)


def _let_through(limiter: ConcurrencyLimiter, clock: Clock, count: int, *, seconds: float) -> None:
    for _ in range(count):
        with limiter.acquire():
            clock.now += seconds


def test_a_burst_is_let_in_and_not_one_more(limiter: ConcurrencyLimiter) -> None:
    with contextlib.ExitStack() as burst:
        for _ in range(MAX_LIMIT):
            burst.enter_context(limiter.acquire())
        with pytest.raises(Unavailable) as refused:
            limiter.require_room()
        assert refused.value.headers["Retry-After"] == "2"
        with pytest.raises(Unavailable), limiter.acquire():
            pass
    limiter.require_room()


def test_slow_ones_shrink_the_limit_but_never_to_nothing(limiter: ConcurrencyLimiter, clock: Clock) -> None:
    _let_through(limiter, clock, 1, seconds=TARGET_S + 0.01)
    assert MIN_LIMIT < limiter.limit < MAX_LIMIT
    _let_through(limiter, clock, 100, seconds=TARGET_S + 0.01)
    assert limiter.limit == MIN_LIMIT


def test_quick_ones_let_it_grow_again(limiter: ConcurrencyLimiter, clock: Clock) -> None:
    _let_through(limiter, clock, 100, seconds=TARGET_S + 0.01)
    _let_through(limiter, clock, 10, seconds=0.001)
    assert limiter.limit == MIN_LIMIT + 10
    _let_through(limiter, clock, MAX_LIMIT, seconds=0.001)
    assert limiter.limit == MAX_LIMIT


def test_a_while_without_a_slow_one_makes_room_for_a_burst(limiter: ConcurrencyLimiter, clock: Clock) -> None:
    _let_through(limiter, clock, 100, seconds=TARGET_S + 0.01)
    clock.now += RECOVERY_S + 0.1
    assert limiter.limit == MAX_LIMIT


def test_who_failed_has_left_too(limiter: ConcurrencyLimiter) -> None:
    for _ in range(MAX_LIMIT + 1):
        with contextlib.suppress(KeyError), limiter.acquire():
            raise KeyError
