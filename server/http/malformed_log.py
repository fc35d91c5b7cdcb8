"""The log of malformed requests, which any stranger can send by the thousand: a sample of lines, and a count."""

import structlog

from server.http.connections import RareReport
from server.limits.rates import RateLimiter

LINES_PER_MINUTE, BURST = 60, 100
"""For each client address."""
ALL_LINES_PER_MINUTE, ALL_BURST = 600, 1_000

log = structlog.get_logger(__name__)


class MalformedLog:
    """One line for each malformed request within the rates. The others are counted, and the count is logged."""

    def __init__(self) -> None:
        self._rate = RateLimiter("malformed", LINES_PER_MINUTE, burst=BURST)
        self._total_rate = RateLimiter("malformed", ALL_LINES_PER_MINUTE, burst=ALL_BURST)
        self._last_address = ""
        self._report = RareReport(
            lambda counts: log.warning("http_malformed_unlogged", **counts, last_from=self._last_address)
        )

    def write(self, address: str, *, status: int, reason: str, request_id: str) -> None:
        for limiter, key in ((self._rate, address), (self._total_rate, "")):
            result = limiter.check(key)
            if result is not None and not result.allowed:
                self._last_address = address
                self._report.count("count")
                return
        log.info("http_malformed", status=status, reason=reason, request_id=request_id, address=address)
