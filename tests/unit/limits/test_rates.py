"""Limits: the rate that is kept, what a client is told of it, whose address counts, and that tables stay bounded."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.limits.rates import RateLimiter, RateLimitResult, client_address, rate_limit_headers
from tests.fakes.clock import Clock

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clock]:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", clock)
        yield clock


def check(limiter: RateLimiter, key: str = "alice") -> RateLimitResult:
    verdict = limiter.check(key)
    assert verdict is not None
    return verdict


def spend(limiter: RateLimiter, count: int, key: str = "alice") -> None:
    for _ in range(count):
        assert check(limiter, key).allowed


async def test_a_burst_up_to_the_limit_is_allowed_and_one_more_is_not(clock: Clock) -> None:
    limiter = RateLimiter("create", 60)
    assert check(limiter) == RateLimitResult("create", allowed=True, limit=60, remaining=59, reset_s=1)
    spend(limiter, 58)
    assert check(limiter) == RateLimitResult("create", allowed=True, limit=60, remaining=0, reset_s=60)
    assert check(limiter) == RateLimitResult(
        "create", allowed=False, limit=60, remaining=0, reset_s=1, retry_after_s=1.0
    )


async def test_whoever_comes_back_when_told_is_let_in(clock: Clock) -> None:
    limiter = RateLimiter("create", 7)
    spend(limiter, 7)
    for _ in range(20):
        refused = check(limiter)
        assert not refused.allowed
        clock.now += refused.retry_after_s + 1e-6
        assert check(limiter).allowed


async def test_a_refusal_counts_nothing(clock: Clock) -> None:
    limiter = RateLimiter("auth", 10)
    spend(limiter, 10)
    assert not any(check(limiter).allowed for _ in range(1000))
    clock.now += 6.1
    assert check(limiter).allowed


async def test_a_burst_may_be_smaller_than_what_a_minute_holds(clock: Clock) -> None:
    limiter = RateLimiter("model", 60, burst=6)
    spend(limiter, 6)
    assert check(limiter) == RateLimitResult(
        "model", allowed=False, limit=60, remaining=0, reset_s=1, retry_after_s=1.0
    )
    assert [limiter.reserve("alice") for _ in range(3)] == [1.0, 2.0, 3.0]
    clock.now += 9
    spend(limiter, 6)


async def test_a_minute_of_rest_gives_everything_back(clock: Clock) -> None:
    limiter = RateLimiter("create", 60)
    spend(limiter, 60)
    clock.now += 60
    assert check(limiter).remaining == 59


async def test_keys_do_not_share(clock: Clock) -> None:
    limiter = RateLimiter("create", 2)
    spend(limiter, 2, "alice")
    assert not check(limiter, "alice").allowed
    assert check(limiter, "bob").remaining == 1


async def test_zero_switches_it_off(clock: Clock) -> None:
    limiter = RateLimiter("create", 0)
    assert limiter.check("alice") is None
    assert len(limiter) == 0


async def test_the_table_is_bounded_and_the_least_recently_used_key_goes_first(clock: Clock) -> None:
    limiter = RateLimiter("auth", 5, max_keys=3)
    spend(limiter, 5, "busy")
    for number in range(100):
        check(limiter, f"visitor-{number}")
        assert not check(limiter, "busy").allowed
        assert len(limiter) <= 3
    for number in range(3):
        check(limiter, f"other-{number}")
    assert check(limiter, "busy").remaining == 4


async def test_starts_beyond_the_rate_follow_one_another_at_the_rate(clock: Clock) -> None:
    limiter = RateLimiter("create", 60)
    spend(limiter, 60)
    assert [limiter.reserve("alice") for _ in range(4)] == pytest.approx([1, 2, 3, 4])
    clock.now += 2.5
    assert limiter.reserve("alice") == pytest.approx(2.5)


async def test_nobody_jumps_the_queue_of_starts_that_were_put_off(clock: Clock) -> None:
    limiter = RateLimiter("create", 60)
    spend(limiter, 60)
    last_start_s = max(limiter.reserve("alice") for _ in range(10))
    refused = check(limiter)
    assert not refused.allowed
    assert refused.retry_after_s == pytest.approx(last_start_s + 1)
    clock.now += last_start_s
    assert not check(limiter).allowed
    clock.now += 1 + 1e-6
    assert check(limiter).allowed
    assert check(limiter, "bob").allowed


async def test_starts_that_were_put_off_do_not_come_on_top_of_the_rate(clock: Clock) -> None:
    """In ten minutes no more than ten minutes' worth, and the first burst, may start, however it is asked for."""
    limiter = RateLimiter("create", 60)
    starts = []
    for _ in range(600):
        for _ in range(5):
            if check(limiter).allowed:
                starts.append(clock.now)
            else:
                starts.append(clock.now + limiter.reserve("alice"))
        clock.now += 1
    assert len([start for start in starts if start <= 1000 + 600]) in range(655, 662)


async def test_what_is_given_back_was_never_taken(clock: Clock) -> None:
    limiter = RateLimiter("create", 60)
    spend(limiter, 60)
    assert limiter.reserve("alice") == pytest.approx(1)
    limiter.refund("alice")
    assert limiter.reserve("alice") == pytest.approx(1)


async def test_giving_back_never_makes_more_than_the_limit(clock: Clock) -> None:
    limiter = RateLimiter("create", 3)
    for _ in range(10):
        limiter.refund("alice")
    spend(limiter, 3)
    assert not check(limiter).allowed


async def test_headers_are_those_of_the_draft(clock: Clock) -> None:
    limiter = RateLimiter("create", 60)
    spend(limiter, 47)
    assert rate_limit_headers(check(limiter)) == {
        "RateLimit-Policy": '"create";q=60;w=60',
        "RateLimit": '"create";r=12;t=48',
    }


@pytest.mark.parametrize("per_minute", [1, 7, 60, 1000])
async def test_a_refusal_names_no_reset_after_its_retry_after(clock: Clock, per_minute: int) -> None:
    limiter = RateLimiter("auth", per_minute)
    spend(limiter, per_minute)
    refused = check(limiter)
    assert refused.reset_s == max(1, -(-refused.retry_after_s // 1))
    assert rate_limit_headers(refused)["RateLimit"] == f'"auth";r=0;t={refused.reset_s}'


@pytest.mark.parametrize(
    ("forwarded_for", "peer", "expected"),
    [
        # a peer that is no proxy of ours speaks for itself only
        ([], "203.0.113.7", "203.0.113.7"),
        (["198.51.100.1"], "203.0.113.7", "203.0.113.7"),
        (["10.0.0.1"], "203.0.113.7", "203.0.113.7"),
        ([", ".join(f"192.0.2.{number}" for number in range(100))], "203.0.113.7", "203.0.113.7"),
        # a trusted proxy: what it appended counts, not what the client sent before it
        (["203.0.113.7"], "10.0.0.1", "203.0.113.7"),
        (["1.1.1.1, 203.0.113.7"], "10.0.0.1", "203.0.113.7"),
        (["1.1.1.1, 203.0.113.7, 10.9.9.9"], "10.0.0.1", "203.0.113.7"),
        (["1.1.1.1", "203.0.113.7"], "10.0.0.1", "203.0.113.7"),
        (["1.1.1.1,203.0.113.7 , 10.9.9.9"], "10.0.0.1", "203.0.113.7"),
        (["127.0.0.1, 203.0.113.7"], "fd00::1", "203.0.113.7"),
        # with a port, as some proxies write it
        (["203.0.113.7:4711"], "10.0.0.1", "203.0.113.7"),
        (["[2001:db8:1:2::7]:443"], "10.0.0.1", "2001:db8:1:2::/64"),
        (["[2001:db8:1:2::7]"], "10.0.0.1", "2001:db8:1:2::/64"),
        # nobody behind the proxies: the farthest of them
        ([], "10.0.0.1", "10.0.0.1"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.1", "10.0.0.3"),
        # garbage shares one key
        (["unknown"], "10.0.0.1", "unknown"),
        ([""], "10.0.0.1", "unknown"),
        ([", ,"], "10.0.0.1", "unknown"),
        (["203.0.113.7, _hidden"], "10.0.0.1", "unknown"),
        (["203.0.113.7.5"], "10.0.0.1", "unknown"),
        (["\udcff"], "10.0.0.1", "unknown"),
        (["[2001:db8::"], "10.0.0.1", "2001:db8::/64"),
        ([], None, "unknown"),
        (["203.0.113.7"], None, "unknown"),
        # IPv6: one network, one key; IPv4 in IPv6 is IPv4
        ([], "2001:db8:1:2:a:b:c:d", "2001:db8:1:2::/64"),
        ([], "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ([], "2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ([], "fe80::1%eth0", "fe80::/64"),
        ([], "::ffff:203.0.113.7", "203.0.113.7"),
        (["203.0.113.7"], "::ffff:10.0.0.1", "203.0.113.7"),
        (["::ffff:203.0.113.7"], "10.0.0.1", "203.0.113.7"),
    ],
)
def test_the_address_is_the_last_one_that_no_trusted_proxy_has(
    forwarded_for: list[str], peer: str | None, expected: str
) -> None:
    assert client_address(forwarded_for, peer, PROXIES) == expected


@given(st.lists(st.text()), st.none() | st.text())
def test_without_trusted_proxies_the_header_changes_nothing(forwarded_for: list[str], peer: str | None) -> None:
    assert client_address(forwarded_for, peer, ()) == client_address([], peer, ())


@given(st.lists(st.text()))
def test_what_a_client_sends_never_changes_its_key_behind_a_trusted_proxy(sent: list[str]) -> None:
    assert client_address([*sent, "203.0.113.7"], "10.0.0.1", PROXIES) == "203.0.113.7"
