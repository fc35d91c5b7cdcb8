"""Who waits for which model request: creates, long-polls and streams, woken by this process or by the database."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from server.actors.subscription import StreamSubscription, Subscription, View, Waiter
from server.errors import Unavailable
from server.model_request import RequestId
from server.storage.database import DatabaseAway, DedicatedConnection

MAX_WATCHES = 20_000
SWEEP_INTERVAL_S = 1.0
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Of the objects that waiters keep while they wait; beyond that they read them again."""
_SWEEP_CHUNK = 1000

log = structlog.get_logger(__name__)


class Subscriptions:
    """Local news wakes waiters at once; one batched query a second over all waited-for ids is the truth behind it."""

    def __init__(
        self,
        connection: DedicatedConnection,
        *,
        on_change: Callable[[RequestId], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._on_change = on_change
        self._watches: dict[RequestId, set[Subscription]] = {}
        self._count = 0
        self._kept_bytes = 0
        self._holders: Counter[int] = Counter()
        self._hinted: set[RequestId] = set()
        self._news = asyncio.Event()
        self.is_closed = False

    def __len__(self) -> int:
        return self._count

    def watch(self, request_id: RequestId) -> Waiter:
        return Waiter(self, request_id)

    def follow(self, request_id: RequestId) -> StreamSubscription:
        return StreamSubscription(self, request_id)

    def add(self, watch: Subscription) -> None:
        if self._count >= MAX_WATCHES:
            raise Unavailable("Too many clients are waiting; poll instead, or try again.", retry_after_s=5)
        self._watches.setdefault(watch.request_id, set()).add(watch)
        self._count += 1
        if self.is_closed:
            watch.tell(None)

    def remove(self, watch: Subscription) -> None:
        watches = self._watches[watch.request_id]
        watches.discard(watch)
        watch.seen = None
        self._count -= 1
        if not watches:
            del self._watches[watch.request_id]

    def keep(self, view: View | None, *, instead_of: View | None) -> View | None:
        """What a waiter may hold on to: the view as it is, or without its object when all of them are too much.

        An object that was told to many is counted once: they share its bytes.
        """
        if instead_of is not None and instead_of.body is not None:
            self._holders[id(instead_of.body)] -= 1
            if not self._holders[id(instead_of.body)]:
                del self._holders[id(instead_of.body)]
                self._kept_bytes -= instead_of.size
        if view is not None and view.body is not None:
            if id(view.body) not in self._holders:
                if self._kept_bytes + view.size > MAX_KEPT_BYTES:
                    return View(view.status, view.epoch)
                self._kept_bytes += view.size
            self._holders[id(view.body)] += 1
        return view

    def publish(self, request_id: RequestId, view: View) -> None:
        """Tell everyone who waits for this request; never blocks."""
        self._on_change(request_id)
        for watch in tuple(self._watches.get(request_id, ())):
            watch.tell(view)

    def look(self, request_ids: Iterable[RequestId]) -> None:
        """These changed elsewhere, it is said: the sweep of those who wait for them comes at once."""
        self._hinted |= self._watches.keys() & set(request_ids)
        if self._hinted:
            self._news.set()

    def close(self) -> None:
        """Send everyone home with what they have: the drain is over."""
        self.is_closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.tell(None)

    async def run(self) -> None:
        next_sweep = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_sweep):
                    await self._news.wait()
            self._news.clear()
            hinted, self._hinted = self._hinted, set()
            now = asyncio.get_running_loop().time()
            if now >= next_sweep:
                hinted = set(self._watches)
                next_sweep = now + SWEEP_INTERVAL_S * random.uniform(0.9, 1.1)  # noqa: S311
            try:
                await self.sweep(hinted)
            except DatabaseAway as error:
                log.debug("sweep_skipped", reason=str(error))
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self, request_ids: Iterable[RequestId] | None = None) -> None:
        """Wake those whose request changed where this process could not see it; by default, whoever waits."""
        groups = self._watches.values() if request_ids is None else map(self._watches.get, request_ids)
        watches = [watch for group in groups for watch in group or () if watch.is_waiting]
        for start in range(0, len(watches), _SWEEP_CHUNK):
            chunk = watches[start : start + _SWEEP_CHUNK]
            changed = await self._connection.fetch(
                "changed_requests",
                [watch.request_id for watch in chunk],
                [str(watch.seen.status) if watch.any_change and watch.seen else None for watch in chunk],
                [watch.seen.epoch if watch.any_change and watch.seen else None for watch in chunk],
            )
            found = {record["id"] for record in changed}
            for watch in chunk:
                if watch.request_id in found:
                    watch.tell(None)
