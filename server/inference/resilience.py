"""When to try again, and how long to wait first. Pure: the caller sleeps."""

import random
import time
from collections.abc import Callable

from server.inference.protocol import UpstreamError

BASE_PAUSE_S = 0.5
MAX_PAUSE_S = 8.0

Jitter = Callable[[float, float], float]
Clock = Callable[[], float]


def pause_before(retry: int, *, retry_after_s: float | None = None, jitter: Jitter = random.uniform) -> float:
    """Seconds to wait before the `retry`-th retry (1, 2, …): full jitter below 0.5 s doubled each time, at most 8 s.

    Where upstream said when to come back it is that, and a little more, so that not all come back together.
    """
    if retry_after_s is not None:
        return retry_after_s + jitter(0, min(BASE_PAUSE_S, retry_after_s / 10))
    return jitter(0, min(MAX_PAUSE_S, BASE_PAUSE_S * 2 ** min(retry - 1, 10)))


class RetryBudget:
    """Bounds the retries of all calls together, so that retries do not make an outage worse.

    Every call earns a tenth of a retry and every second one more, up to `capacity` saved (the shape of Finagle's
    RetryBudget). Calls that find it empty go back to the backlog instead.
    """

    def __init__(
        self,
        *,
        per_call: float = 0.1,
        per_second: float = 1.0,
        capacity: float = 20.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._per_call = per_call
        self._per_second = per_second
        self._capacity = capacity
        self._clock = clock
        self._saved = capacity
        self._counted_at = clock()

    def earn(self) -> None:
        """Count one call that is not a retry."""
        self._saved = min(self._capacity, self._saved + self._per_call)

    def spend(self) -> bool:
        """Take one retry; False where none is left."""
        now = self._clock()
        self._saved = min(self._capacity, self._saved + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Deadline:
    """A point in time by the monotonic clock, and the time until then."""

    def __init__(self, seconds: float, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    def bound(self, seconds: float) -> float:
        """`seconds`, or the time left if that is less."""
        return min(seconds, self.left_s)


class RetryPlan:
    """The tries of one generation: the next model, the pause before it, and the end.

    `models` are tried in order (empty: upstream has its own). `deadline` bounds the time, `max_retries` the number.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        *,
        max_retries: int,
        deadline: Deadline,
        budget: RetryBudget,
        jitter: Jitter = random.uniform,
    ) -> None:
        self._models = models
        self._max_retries = max_retries
        self._deadline = deadline
        self._budget = budget
        self._jitter = jitter
        self._position = 0
        self._failures_of_model = 0
        self._may_be_stale = True
        self.retries = 0

    @property
    def model(self) -> str | None:
        return self._models[self._position] if self._models else None

    def excuses(self, error: UpstreamError) -> bool:
        """Whether the cause may be a stale connection: once per generation."""
        return error.is_stale and self._may_be_stale

    def pause_after(self, error: UpstreamError) -> float | None:
        """Seconds to wait before the next try, which may use the next model; None to give up."""
        if self._deadline.left_s <= 0:
            return None
        if error.is_model_missing and self._move_on():
            return 0.0
        if self.excuses(error):
            self._may_be_stale = False
            return 0.0
        if not error.is_transient or self.retries >= self._limit(error):
            return None
        return self._pause(error)

    def _pause(self, error: UpstreamError) -> float | None:
        self.retries += 1
        self._failures_of_model += 1
        wait_s = error.retry_after_s
        is_long = wait_s is not None and wait_s > MAX_PAUSE_S
        # After two failures, or a long Retry-After, the next model is tried: often only one provider has a problem.
        if error.status is not None and (is_long or self._failures_of_model > 1) and self._move_on():
            wait_s, is_long = None, False
        pause_s = pause_before(self.retries, retry_after_s=wait_s, jitter=self._jitter)
        if is_long or pause_s >= self._deadline.left_s or not self._budget.spend():
            return None  # the request waits in the backlog instead
        return pause_s

    def _limit(self, error: UpstreamError) -> int:
        return self._max_retries if error.max_retries is None else min(self._max_retries, error.max_retries)

    def _move_on(self) -> bool:
        if self._position + 1 >= len(self._models):
            return False
        self._position += 1
        self._failures_of_model = 0
        return True
