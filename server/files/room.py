"""The memory that uploads may take on their way through: many slow ones at once must not take all there is."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from server.errors import RateLimited, Unavailable
from server.model_request import UserId

SHARE_BYTES = 16 * 1024 * 1024
"""What one of any size takes at most: a part on its way to the store, the next one, and what is copied in between."""
ROOM_BYTES = 160 * 1024 * 1024
USER_BYTES = ROOM_BYTES // 2
"""So that one user never keeps out all others."""
_RETRY_S = 5.0


class UploadRoom:
    """Gives each upload what it needs, or refuses it before a byte was read."""

    def __init__(self, capacity: int = ROOM_BYTES, *, per_user: int = USER_BYTES) -> None:
        self._free = capacity
        self._per_user = per_user
        self._taken: Counter[UserId] = Counter()

    @contextlib.contextmanager
    def reserve(self, user_id: UserId, size: int) -> Iterator[None]:
        """For the time of the block. Raises `RateLimited` for a user with too many at once, `Unavailable` for all."""
        share = min(size, SHARE_BYTES)
        if self._taken[user_id] + share > self._per_user:
            raise RateLimited("Too many uploads at once; wait for one of yours to end.", retry_after_s=_RETRY_S)
        if share > self._free:
            raise Unavailable("The server is receiving too much at once; try again.", retry_after_s=_RETRY_S)
        self._free -= share
        self._taken[user_id] += share
        try:
            yield
        finally:
            self._free += share
            self._taken[user_id] -= share
            if not self._taken[user_id]:
                del self._taken[user_id]
