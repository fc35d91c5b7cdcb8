"""Bounds the memory of bodies in transfer, so that many slow clients cannot exhaust it."""

import asyncio

from server.errors import Problem, RateLimited, Unavailable
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
        self._released = asyncio.Event()
        self.free = capacity

    def reserve(self, user_id: UserId | None, size: int) -> "Reservation":
        """Reserve `size` bytes until the end of a `with` block.

        Raises `RateLimited` beyond the user's share, else `Unavailable`.
        """
        if (refusal := self._refusal(user_id, size)) is not None:
            raise refusal
        self.free -= size
        self._taken[user_id] = self._taken.get(user_id, 0) + size
        return Reservation(self, user_id, size)

    async def wait_for_room(self, user_id: UserId | None, size: int, *, within_s: float) -> None:
        """Return as soon as `reserve` would succeed. Raises what it would raise after `within_s` seconds."""
        give_up_at = asyncio.get_running_loop().time() + within_s
        while (refusal := self._refusal(user_id, size)) is not None:
            self._released.clear()
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._released.wait()
            except TimeoutError:
                raise refusal from None

    def release(self, user_id: UserId | None, size: int) -> None:
        """Give back a part of what the user has reserved."""
        self.free += size
        if left := self._taken[user_id] - size:
            self._taken[user_id] = left
        else:
            del self._taken[user_id]
        self._released.set()

    def _refusal(self, user_id: UserId | None, size: int) -> Problem | None:
        if self._taken.get(user_id, 0) + size > self._share:
            words = f"Too many {self._things} at once; wait for one of yours to end."
            return RateLimited(words, retry_after_s=self._retry_after_s)
        if size > self.free:
            words = f"The server has too many {self._things} at once; try again."
            return Unavailable(words, retry_after_s=self._retry_after_s)
        return None


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
