"""Limits concurrent creates by their measured latency; further ones get 503 before any work is done."""

import time
from collections.abc import Callable

from server.errors import Unavailable

TARGET_S = 0.25
"""A create takes some milliseconds from its body to its commit. Above this it counts as slow."""
MAX_LIMIT = 512
MIN_LIMIT = 128
"""So many creates wait for each other for a fraction of a second, even on a slow machine."""
RECOVERY_S = 2.0
"""The limit returns to `MAX_LIMIT` after this long without a slow create."""
_DECREASE = 0.9
_RETRY_AFTER_S = 2.0


class ConcurrencyLimiter:
    """Limits the creates between body and commit.

    Without it, creates beyond the capacity would queue up, and all would be slow. Each slow create reduces the limit by
    a tenth, and each quick one raises it by one (additive increase, multiplicative decrease, as in TCP).
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._limit = float(MAX_LIMIT)
        self._slow_at = 0.0

    @property
    def limit(self) -> int:
        """The number of concurrent creates allowed now."""
        if self._limit < MAX_LIMIT and self._clock() - self._slow_at > RECOVERY_S:
            self._limit = MAX_LIMIT
        return int(self._limit)

    def require_room(self) -> None:
        """Raises `Unavailable` at the limit."""
        if self._count >= self.limit:
            raise Unavailable("The server is overloaded; nothing was accepted.", retry_after_s=_RETRY_AFTER_S)

    def acquire(self) -> "Place":
        """A place for one create, to be entered. Raises `Unavailable` at the limit."""
        self.require_room()
        self._count += 1
        return Place(self, self._clock())

    def release(self, arrived: float) -> None:
        self._count -= 1
        self._adjust(self._clock() - arrived)

    def _adjust(self, seconds: float) -> None:
        if seconds > TARGET_S:
            self._limit = max(MIN_LIMIT, self._limit * _DECREASE)
            self._slow_at = self._clock()
        else:
            self._limit = min(MAX_LIMIT, self._limit + 1)


class Place:
    """A class, because a generator function as context manager would take three times as long."""

    __slots__ = ("_arrived", "_limiter")

    def __init__(self, limiter: ConcurrencyLimiter, arrived: float) -> None:
        self._limiter = limiter
        self._arrived = arrived

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._limiter.release(self._arrived)
