"""The capacity of this instance: its slots, and whether older requests wait for them."""

import asyncio
from collections.abc import Callable

SPARE_SHARE = 8
"""One slot of so many is for users who run nothing here, so that they do not wait for another user's runs."""


class Slots:
    """Counts the generations that this instance holds. A slot is held until the outcome is committed.

    Reserving never waits, so the check and the reservation are one step. The in-process queue cannot overfill, and the
    outcomes in memory during a database outage are bounded.
    """

    def __init__(self, capacity: int, *, limit: Callable[[], int | None] = lambda: None) -> None:
        self.capacity = capacity
        self._limit = limit
        self.used = 0
        self.is_closed = False
        """Set while a quarantined group waits or runs: nothing else starts."""
        self._on_free: Callable[[], None] = lambda: None
        self._idle = asyncio.Event()

    @property
    def sensible(self) -> int:
        """The capacity, or less while upstream is away."""
        limit = self._limit()
        return self.capacity if limit is None else min(limit, self.capacity)

    @property
    def free(self) -> int:
        return 0 if self.is_closed else max(0, self.sensible - self.used)

    def watch(self, on_free: Callable[[], None]) -> None:
        """Call `on_free` whenever a slot comes back."""
        self._on_free = on_free

    def reserve(self, count: int = 1, *, also_spare: bool = False) -> int:
        """Reserve up to `count` slots; returns how many. The spare ones are for users who run nothing here."""
        spare = 0 if also_spare else self.sensible // SPARE_SHARE
        reserved = max(0, min(count, self.free - spare))
        self.used += reserved
        return reserved

    def release(self, count: int = 1) -> None:
        if count:
            self.used -= count
            if self.used == 0:
                self._idle.set()
            self._on_free()

    def reserve_beyond(self) -> None:
        """Take a slot while the slots are closed, for a request of the group that closed them."""
        self.used += 1

    async def wait_idle(self) -> None:
        """Return once no slot is held: no request runs, and none is being accepted."""
        while self.used:
            self._idle.clear()
            await self._idle.wait()


class Backlog:
    """Whether pending rows wait, as far as this instance knows.

    It is empty when the last claim returned nothing and no hint came since. Only then may a new request start at once;
    otherwise it would overtake the waiting ones.
    """

    def __init__(self) -> None:
        self.is_empty = False
        self._hints = 0
        self._on_hint: Callable[[], None] = lambda: None

    def watch(self, on_hint: Callable[[], None]) -> None:
        """Call `on_hint` after each hint."""
        self._on_hint = on_hint

    def hint(self) -> None:
        """Note that a row went to the backlog."""
        self._hints += 1
        self.is_empty = False
        self._on_hint()

    def mark(self) -> int:
        """A mark to take before a claim and to pass to `found_empty` after it."""
        return self._hints

    def found_empty(self, mark: int) -> None:
        """Note that a claim found nothing. It counts only if no hint came since `mark`."""
        self.is_empty = self._hints == mark
