"""How often someone may do something: leaky buckets per key, asked and never waited for."""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiolimiter import AsyncLimiter

PERIOD_S = 60.0
MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """Whether one more is within the rate, and what to tell the client of it. Times in seconds.

    `reset_s` is the time until the whole limit is there again; of a refusal, until there is room for one.
    """

    name: str
    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: float = 0.0


class _Bucket(AsyncLimiter):
    """aiolimiter's leaky bucket, with its level in sight and without the queue: who has no capacity is told so.

    It leaks by the clock of the running event loop. Its level may stand above what it holds: that much is put off.
    """

    __slots__ = ()

    @property
    def level(self) -> float:
        self._leak()
        return self._level

    def pour(self, amount: float) -> None:
        """Add without waiting. Callers await nothing since they looked at the level, so it is still the same."""
        self._level = self.level + amount


class RateLimiter:
    """At most `per_minute` of something for each key, in bursts of up to `burst` (that many); 0 switches it off.

    The table holds `max_keys` buckets, the least recently used is dropped. A dropped bucket would be a fresh start for
    its owner, so the table is far larger than the number of keys one client can afford to use in a minute: users have
    one each, addresses are taken by the network.
    """

    def __init__(self, name: str, per_minute: int, *, burst: int | None = None, max_keys: int = MAX_KEYS) -> None:
        self.name = name
        self._limit = per_minute
        self._burst = burst or per_minute
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def is_off(self) -> bool:
        return not self._limit

    @property
    def _interval_s(self) -> float:
        return PERIOD_S / self._limit

    def check(self, key: str) -> RateLimitResult | None:
        """Count one for `key` if there is room; None when there is no limit. A refusal counts nothing."""
        if not self._limit:
            return None
        bucket = self._bucket(key)
        if not bucket.has_capacity():
            return self._refusal(self._until_room_s(bucket))
        bucket.pour(1)
        return self._permission(bucket.level)

    def look(self, key: str) -> RateLimitResult | None:
        """What is left for `key`, without counting anything; None when there is no limit."""
        if not self._limit:
            return None
        bucket = self._bucket(key)
        return self._permission(bucket.level) if bucket.has_capacity() else self._refusal(self._until_room_s(bucket))

    def put_off(self, key: str) -> float:
        """Count one beyond the rate: seconds until it may start, each one interval after the one before.

        It is paid for now, so until its start has come `check` refuses: nobody jumps that queue, and starts that were
        put off do not come on top of the rate.
        """
        bucket = self._bucket(key)
        delay_s = self._until_room_s(bucket)
        bucket.pour(1)
        return delay_s

    def give_back(self, key: str) -> None:
        """Return the last start that was put off, because nothing came of it."""
        self._bucket(key).pour(-1)

    def _bucket(self, key: str) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, self._burst * self._interval_s)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket

    def _until_room_s(self, bucket: _Bucket) -> float:
        return max(0.0, bucket.level + 1 - self._burst) * self._interval_s

    def _permission(self, level: float) -> RateLimitResult:
        return RateLimitResult(
            name=self.name,
            allowed=True,
            limit=self._limit,
            remaining=math.floor(self._burst - level),
            reset_s=math.ceil(level * self._interval_s),
        )

    def _refusal(self, retry_after_s: float) -> RateLimitResult:
        return RateLimitResult(
            name=self.name,
            allowed=False,
            limit=self._limit,
            remaining=0,
            reset_s=max(1, math.ceil(retry_after_s)),  # the draft: Retry-After must not come before it
            retry_after_s=retry_after_s,
        )


def rate_limit_headers(verdict: RateLimitResult) -> dict[str, str]:
    """The fields of draft-ietf-httpapi-ratelimit-headers: the policy, and what is left of it."""
    return {
        "RateLimit-Policy": f'"{verdict.name}";q={verdict.limit};w={PERIOD_S:.0f}',
        "RateLimit": f'"{verdict.name}";r={verdict.remaining};t={verdict.reset_s}',
    }


def client_address(forwarded_for: Iterable[str], peer: str | None, trusted: Iterable[IPv4Network | IPv6Network]) -> str:
    """The address to hold a client to.

    IPv6 clients own whole networks and are held to their /64. What is no address shares one key, so that garbage is no
    way around a limit.
    """
    address = true_address(forwarded_for, peer, trusted)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address or "unknown")


def true_address(
    forwarded_for: Iterable[str], peer: str | None, trusted: Iterable[IPv4Network | IPv6Network]
) -> IPv4Address | IPv6Address | None:
    """A client's own address, the right-most one that is not a trusted proxy's; None where what stands there is none.

    Only proxies we trust may speak for others, and each appends to `X-Forwarded-For`, so the header is read from its
    end.
    """
    networks = tuple(trusted)
    hops = [hop for header in forwarded_for for hop in header.split(",")]
    address = _read_address(peer or "")
    while hops and address is not None and any(address in network for network in networks):
        address = _read_address(hops.pop())
    return address


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it, with a port or without (`[2001:db8::7]:4711`); IPv4 out of its IPv6 form."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
