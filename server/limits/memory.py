"""Bounds the memory of bodies in transfer, so that many slow clients cannot exhaust it."""

from server.errors import RateLimited, Unavailable
from server.model_request import UserId


class MemoryBudget:
    """Grants reservations up to `capacity` bytes, and up to `share` bytes for one user.

    All callers without a user count as one. `things` names the purpose in error texts, in the plural.
    """

    def __init__(self, things: str, capacity: int, *, share: int | None = None, retry_after_s: float = 1.0) -> None:
        self._things = things
        self._share = share or capacity // 2
        self._retry_after_s = retry_after_s
        self._taken: dict[UserId | None, int] = {}
        self.free = capacity

    def reserve(self, user_id: UserId | None, size: int) -> "Reservation":
        """Reserve `size` bytes until the end of a `with` block.

        Raises `RateLimited` beyond the user's share, else `Unavailable`.
        """
        taken = self._taken.get(user_id, 0) + size
        if taken > self._share:
            raise RateLimited(
                f"Too many {self._things} at once; wait for one of yours to end.", retry_after_s=self._retry_after_s
            )
        if size > self.free:
            raise Unavailable(
                f"The server has too many {self._things} at once; try again.", retry_after_s=self._retry_after_s
            )
        self.free -= size
        self._taken[user_id] = taken
        return Reservation(self, user_id, size)

    def release(self, user_id: UserId | None, size: int) -> None:
        """Give back a part of what the user has reserved."""
        self.free += size
        if left := self._taken[user_id] - size:
            self._taken[user_id] = left
        else:
            del self._taken[user_id]


class Reservation:
    """A class, because a generator function as context manager would take three times as long."""

    __slots__ = ("_budget", "_size", "_user_id")

    def __init__(self, budget: MemoryBudget, user_id: UserId | None, size: int) -> None:
        self._budget = budget
        self._user_id = user_id
        self._size = size

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._budget.release(self._user_id, self._size)
