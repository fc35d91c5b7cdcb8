"""The memory that what is on its way in or out may take: many slow clients at once must not take all there is."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from server.errors import RateLimited, Unavailable
from server.model_request import UserId


class MemoryBudget:
    """Gives each what it needs, or refuses it. One user gets `share` at most, which never keeps out all others.

    Strangers count as one user. `things` is what it is for, in the plural.
    """

    def __init__(self, things: str, capacity: int, *, share: int | None = None, retry_after_s: float = 1.0) -> None:
        self._things = things
        self._share = share or capacity // 2
        self._retry_after_s = retry_after_s
        self._taken: Counter[UserId | None] = Counter()
        self.free = capacity

    @contextlib.contextmanager
    def reserve(self, user_id: UserId | None, size: int) -> Iterator[None]:
        """For the time of the block. Raises `RateLimited` for a user with too many at once, `Unavailable` for all."""
        if self._taken[user_id] + size > self._share:
            raise RateLimited(
                f"Too many {self._things} at once; wait for one of yours to end.", retry_after_s=self._retry_after_s
            )
        if size > self.free:
            raise Unavailable(
                f"The server has too many {self._things} at once; try again.", retry_after_s=self._retry_after_s
            )
        self.free -= size
        self._taken[user_id] += size
        try:
            yield
        finally:
            self.free += size
            self._taken[user_id] -= size
            if not self._taken[user_id]:
                del self._taken[user_id]
