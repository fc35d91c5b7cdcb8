"""A circuit breaker: stops calls to a provider that is down, except for a probe now and then."""

import time
from collections.abc import Callable

import structlog

THRESHOLD = 10
"""Outages in a row that open the breaker. They are rare while a provider answers every second call."""
PROBE_PAUSE_S = 1.0
PROBE_PATIENCE_S = 10.0
"""A probe without an answer for this time does not delay the next one."""

log = structlog.get_logger(__name__)


class Breaker:
    """Closed while the provider answers, also with errors; open after `THRESHOLD` outages in a row.

    It refuses no call: `limit` is the number of calls to run, so that waiting requests stay in the backlog.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outages = 0
        self._opened_at: float | None = None
        self._probe_at = 0.0
        self._on_close: Callable[[], None] = lambda: None
        self._reason = ""
        self.answered_at = 0.0
        """When a call was last answered, by the monotonic clock; 0 for never."""

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    @property
    def outage(self) -> str | None:
        """Why the last call failed, while the provider is away."""
        return self._reason if self.is_open else None

    @property
    def limit(self) -> int | None:
        """How many calls may run at once: None for any number, 1 when it is time for a probe, else 0."""
        if self._opened_at is None:
            return None
        return 1 if self._clock() >= self._probe_at else 0

    def watch(self, on_close: Callable[[], None]) -> None:
        """Call `on_close` when the provider is back."""
        self._on_close = on_close

    def begin(self) -> None:
        """A call starts."""
        self._probe_at = self._clock() + PROBE_PATIENCE_S

    def fail(self, reason: str) -> None:
        """A call failed because the provider is down. The reason goes to the log and to `/health`."""
        self._outages += 1
        self._probe_at = self._clock() + PROBE_PAUSE_S
        self._reason = reason
        if self._opened_at is None and self._outages >= THRESHOLD:
            self._opened_at = self._clock()
            log.warning("upstream_away", reason=reason)

    def succeed(self) -> None:
        """A call was answered, with a success or a refusal."""
        self._outages = 0
        self.answered_at = self._clock()
        if self._opened_at is not None:
            log.info("upstream_back", seconds=round(self._clock() - self._opened_at, 1))
            self._opened_at = None
            self._on_close()
