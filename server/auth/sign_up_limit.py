"""How many sign-ups an address may make in a day, over all instances."""

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import structlog

from server.errors import RateLimited
from server.limits.rates import network_of
from server.storage.reader import PooledQueries

_DAY_S = 86_400

log = structlog.get_logger(__name__)


class SignUpLimit:
    """At most `per_day` sign-ups from each public address (IPv6: /64) in a UTC day; 0 means no limit.

    Private addresses are not limited: they are those of development, or of a proxy that is not in TRUSTED_PROXIES,
    which all clients share.
    """

    def __init__(self, reader: PooledQueries, per_day: int, *, clock: Callable[[], float] = time.time) -> None:
        self._reader = reader
        self._per_day = per_day
        self._clock = clock

    async def count(self, address: IPv4Address | IPv6Address | None) -> None:
        """Count one sign-up, whether it succeeds or not. Raises `RateLimited` beyond the limit."""
        if not self._per_day or address is None or not address.is_global:
            return
        if not await self._reader.fetch("count_sign_up", network_of(address), self._per_day):
            log.warning("sign_ups_limited", address=str(address), limit=self._per_day)
            raise RateLimited(
                f"{self._per_day} sign-ups came from your address today (SIGN_UPS_PER_DAY): try again tomorrow.",
                retry_after_s=_DAY_S - self._clock() % _DAY_S,
            )
