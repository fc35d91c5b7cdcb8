"""What this instance can take: its slots, and whether older work is waiting for them."""

import asyncio
from collections.abc import Callable


class Slots:
    """A count of generations this instance may hold at once; a slot is held until the outcome is committed.

    Reserving never waits, so between the check and the reservation nothing can slip in: the in-process queue cannot
    overfill, and the outcomes held in memory through a database outage are bounded.
    """

    def __init__(self, capacity: int, *, limit: Callable[[], int | None] = lambda: None) -> None:
        self.capacity = capacity
        self._limit = limit
        self.used = 0
        self.is_closed = False
        """Set while a request must run alone: what runs may end, nothing new starts."""
        self._on_free: Callable[[], None] = lambda: None
        self._idle = asyncio.Event()

    @property
    def sensible(self) -> int:
        """How many generations make sense at once: the capacity, or less while upstream is away."""
        limit = self._limit()
        return self.capacity if limit is None else min(limit, self.capacity)

    @property
    def free(self) -> int:
        return 0 if self.is_closed else max(0, self.sensible - self.used)

    def watch(self, on_free: Callable[[], None]) -> None:
        """Call `on_free` whenever a slot comes back."""
        self._on_free = on_free

    def reserve(self, count: int = 1) -> int:
        """Reserve up to `count` slots; returns how many."""
        reserved = min(count, self.free)
        self.used += reserved
        return reserved

    def release(self, count: int = 1) -> None:
        if count:
            self.used -= count
            if self.used == 0:
                self._idle.set()
            self._on_free()

    def reserve_beyond(self) -> None:
        """Take a slot although the slots are closed: for the one request for which they were."""
        self.used += 1

    async def wait_idle(self) -> None:
        """Return once no slot is held: nothing runs, and nothing is on its way in."""
        while self.used:
            self._idle.clear()
            await self._idle.wait()


class Backlog:
    """Whether pending rows wait, as far as this instance knows.

    Empty means: the last claim returned nothing and no hint came since. Only then may a newcomer start at once; else it
    would overtake those who wait.
    """

    def __init__(self) -> None:
        self.is_empty = False
        self._hints = 0
        self._on_hint: Callable[[], None] = lambda: None

    def watch(self, on_hint: Callable[[], None]) -> None:
        """Call `on_hint` whenever a row was put there."""
        self._on_hint = on_hint

    def hint(self) -> None:
        """A row was put there."""
        self._hints += 1
        self.is_empty = False
        self._on_hint()

    def mark(self) -> int:
        """To be taken before a claim, and handed to `found_empty` after it."""
        return self._hints

    def found_empty(self, mark: int) -> None:
        """A claim found nothing more; that only counts if no hint came while it ran."""
        self.is_empty = self._hints == mark
