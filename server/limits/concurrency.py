"""Lets in as many newcomers at once as get in quickly; the rest is told to come back before anything is done for it."""

import contextlib
import time
from collections.abc import Callable, Iterator

from server.errors import Unavailable

TARGET_S = 0.25
"""A create is committed some milliseconds after its body; so long it takes only behind many others."""
MANY = 512
"""A burst of so many is let in."""
FEW = 128
"""So many are always let in: they wait for each other for a fraction of a second, even on a slow machine."""
CALM_S = 2.0
"""After so long without a slow one, a burst may come again."""
_SHRINK = 0.9
_RETRY_AFTER_S = 2.0


class ConcurrencyLimiter:
    """Bounds the creates between their body and their commit by how long that takes them.

    More of them than the process can serve would pile up where nobody sees them, and all would be slow. The limit
    shrinks by a tenth with each slow one and grows by one with each quick one (additive increase, multiplicative
    decrease, as TCP finds the share of a line).
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._limit = float(MANY)
        self._slow_at = 0.0

    @property
    def limit(self) -> int:
        """How many may be on their way in now."""
        if self._limit < MANY and self._clock() - self._slow_at > CALM_S:
            self._limit = MANY
        return int(self._limit)

    def require_room(self) -> None:
        """Raise `Unavailable` while more come than get in quickly."""
        if self._count >= self.limit:
            raise Unavailable("The server is overloaded; nothing was accepted.", retry_after_s=_RETRY_AFTER_S)

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """One that is on its way in. Raises `Unavailable` as `require_room` does."""
        self.require_room()
        arrived = self._clock()
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._judge(self._clock() - arrived)

    def _judge(self, seconds: float) -> None:
        if seconds > TARGET_S:
            self._limit = max(FEW, self._limit * _SHRINK)
            self._slow_at = self._clock()
        else:
            self._limit = min(MANY, self._limit + 1)
