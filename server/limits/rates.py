"""Rate limits: a leaky bucket for each key. No call waits."""

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiolimiter import AsyncLimiter

PERIOD_S = 60.0
MAX_KEYS = 10_000


@dataclass(slots=True)
class RateLimitResult:
    """Whether one more call is within the rate, and the values for the response headers.

    `reset_s` is the time until the whole limit is available; of a rejection, until one call is.
    """

    name: str
    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: float = 0.0


class _Bucket(AsyncLimiter):
    """aiolimiter's leaky bucket with a readable level, and without waiting.

    It uses the clock of the running event loop. A level above the capacity represents delayed starts.
    """

    __slots__ = ()

    @property
    def level(self) -> float:
        self._leak()
        return self._level

    def add(self, amount: float) -> None:
        """Add without waiting, even above the capacity."""
        self._level = self.level + amount


class RateLimiter:
    """At most `per_minute` calls for each key, in bursts of up to `burst` (default: `per_minute`). 0 means no limit.

    The table holds `max_keys` buckets and evicts the least recently used one, which resets the limit of its key. So
    it is far larger than the number of keys that one client can use in a minute.
    """

    def __init__(self, name: str, per_minute: int, *, burst: int | None = None, max_keys: int = MAX_KEYS) -> None:
        self.name = name
        self._limit = per_minute
        self._burst = burst or per_minute
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def is_off(self) -> bool:
        return not self._limit

    @property
    def interval_s(self) -> float:
        """Seconds in which a bucket regains one call."""
        return PERIOD_S / self._limit

    def check(self, key: Hashable) -> RateLimitResult | None:
        """Count one call of `key` if it is within the rate. None without a limit. A rejected call is not counted."""
        if not self._limit:
            return None
        bucket = self._bucket(key)
        if not bucket.has_capacity():
            return self.rejected(self._delay_s(bucket))
        bucket.add(1)
        return self.allowed(bucket.level)

    def peek(self, key: Hashable) -> RateLimitResult | None:
        """As `check`, but counts nothing."""
        if not self._limit:
            return None
        bucket = self._bucket(key)
        return self.allowed(bucket.level) if bucket.has_capacity() else self.rejected(self._delay_s(bucket))

    def reserve(self, key: Hashable) -> float:
        """Count one call beyond the rate. Returns the seconds until it may start, one interval after the last one.

        It counts now, so `check` rejects others until that start, and the total stays within the rate.
        """
        bucket = self._bucket(key)
        delay_s = self._delay_s(bucket)
        bucket.add(1)
        return delay_s

    def refund(self, key: Hashable) -> None:
        """Undo the last `reserve`."""
        self._bucket(key).add(-1)

    def _bucket(self, key: Hashable) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, self._burst * self.interval_s)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket

    def _delay_s(self, bucket: _Bucket) -> float:
        return max(0.0, bucket.level + 1 - self._burst) * self.interval_s

    def allowed(self, level: float) -> RateLimitResult:
        """The result of an allowed call, after which this many calls are missing in the bucket."""
        return RateLimitResult(
            name=self.name,
            allowed=True,
            limit=self._limit,
            remaining=max(0, math.floor(self._burst - level)),
            reset_s=math.ceil(level * self.interval_s),
        )

    def rejected(self, retry_after_s: float) -> RateLimitResult:
        """The result of a call that may be repeated after that time."""
        return RateLimitResult(
            name=self.name,
            allowed=False,
            limit=self._limit,
            remaining=0,
            reset_s=max(1, math.ceil(retry_after_s)),  # the draft: Retry-After must not be earlier
            retry_after_s=retry_after_s,
        )


def rate_limit_headers(result: RateLimitResult) -> dict[str, str]:
    """The headers of draft-ietf-httpapi-ratelimit-headers."""
    return {
        "RateLimit-Policy": f'"{result.name}";q={result.limit};w={PERIOD_S:.0f}',
        "RateLimit": f'"{result.name}";r={result.remaining};t={result.reset_s}',
    }


def client_address(forwarded_for: Iterable[str], peer: str | None, trusted: Iterable[IPv4Network | IPv6Network]) -> str:
    """The rate limit key of a client's address. All invalid addresses share one key."""
    address = find_client_ip(forwarded_for, peer, trusted)
    return "unknown" if address is None else network_of(address)


def network_of(address: IPv4Address | IPv6Address) -> str:
    """The network that a client owns: the address, or the /64 of an IPv6 address."""
    return str(address if isinstance(address, IPv4Address) else IPv6Network((int(address) >> 64 << 64, 64)))


def find_client_ip(
    forwarded_for: Iterable[str], peer: str | None, trusted: Iterable[IPv4Network | IPv6Network]
) -> IPv4Address | IPv6Address | None:
    """The client's address: the right-most one that is not a trusted proxy's. None if it is invalid.

    Each proxy appends to `X-Forwarded-For`, and only trusted proxies are believed, so the header is read from its end.
    """
    networks = tuple(trusted)
    hops = [hop for header in forwarded_for for hop in header.split(",")]
    while hops and is_trusted(peer, networks):
        peer = hops.pop()
    return _read_address(peer or "")


def is_trusted(peer: str | None, trusted: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether this is the address of a trusted proxy."""
    address = _read_address(peer or "")
    return address is not None and any(address in network for network in trusted)


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address as proxies write it, perhaps with a port (`[2001:db8::7]:4711`). Mapped IPv6 becomes IPv4."""
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
