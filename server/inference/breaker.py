"""The circuit breaker of the upstream: stops calls during an outage, except for single probes."""

import time
from collections.abc import Callable

import structlog

THRESHOLD = 10
"""Failed calls in a row that open the breaker. This is rare with a provider that answers every second call."""
PROBE_PAUSE_S = 1.0
PROBE_TIMEOUT_S = 10.0
"""After this, an unanswered probe no longer delays the next one."""

log = structlog.get_logger(__name__)


class Breaker:
    """Closed while the provider gives any answer; open after `THRESHOLD` outages in a row.

    It rejects no calls. Generators obey `limit`, so that waiting requests stay in the backlog.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outages = 0
        self._opened_at: float | None = None
        self._probe_at = 0.0
        self._on_close: Callable[[], None] = lambda: None
        self._reason = ""
        self.answered_at = 0.0
        """Monotonic time of the last answer; 0 if there was none."""

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    @property
    def outage(self) -> str | None:
        """The reason of the last failure while the breaker is open, else None."""
        return self._reason if self.is_open else None

    @property
    def limit(self) -> int | None:
        """The allowed number of concurrent calls: None means any, 1 a probe, 0 none."""
        if self._opened_at is None:
            return None
        return 1 if self._clock() >= self._probe_at else 0

    def watch(self, on_close: Callable[[], None]) -> None:
        """Call `on_close` when the breaker closes."""
        self._on_close = on_close

    def begin(self) -> None:
        """A call starts."""
        self._probe_at = self._clock() + PROBE_TIMEOUT_S

    def fail(self, reason: str) -> None:
        """A call got no answer, or a server error. The reason goes to the log and to `/health`."""
        self._outages += 1
        self._probe_at = self._clock() + PROBE_PAUSE_S
        self._reason = reason
        if self._opened_at is None and self._outages >= THRESHOLD:
            self._opened_at = self._clock()
            log.warning("upstream_away", reason=reason)

    def succeed(self) -> None:
        """A call was answered, perhaps with a client error."""
        self._outages = 0
        self.answered_at = self._clock()
        if self._opened_at is not None:
            log.info("upstream_back", seconds=round(self._clock() - self._opened_at, 1))
            self._opened_at = None
            self._on_close()
