"""The subscriptions to model requests (creates, long-polls, streams), and the ways to wake them."""

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
"""Memory for the objects that waiters keep. Beyond it they read the object again."""
_SWEEP_CHUNK = 1000

log = structlog.get_logger(__name__)


class Subscriptions:
    """Changes made here wake subscribers at once; one query a second over all their ids finds every other change."""

    def __init__(
        self,
        connection: DedicatedConnection,
        *,
        on_change: Callable[[RequestId], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._on_change = on_change
        self._subscriptions: dict[RequestId, set[Subscription]] = {}
        self._count = 0
        self._kept_bytes = 0
        self._holders: Counter[int] = Counter()
        self._hinted: set[RequestId] = set()
        self._wake_up = asyncio.Event()
        self.is_closed = False

    def __len__(self) -> int:
        return self._count

    def watch(self, request_id: RequestId) -> Waiter:
        return Waiter(self, request_id)

    def follow(self, request_id: RequestId) -> StreamSubscription:
        return StreamSubscription(self, request_id)

    def add(self, subscription: Subscription) -> None:
        if self._count >= MAX_WATCHES:
            raise Unavailable("Too many clients are waiting; poll instead, or try again.", retry_after_s=5)
        self._subscriptions.setdefault(subscription.request_id, set()).add(subscription)
        self._count += 1
        if self.is_closed:
            subscription.notify(None)

    def remove(self, subscription: Subscription) -> None:
        subscriptions = self._subscriptions[subscription.request_id]
        subscriptions.discard(subscription)
        subscription.seen = None
        self._count -= 1
        if not subscriptions:
            del self._subscriptions[subscription.request_id]

    def keep(self, view: View | None, *, instead_of: View | None) -> View | None:
        """The view that a subscription may keep: without its object once all objects take too much memory.

        An object that many subscriptions keep is counted once, because they share its bytes.
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
        """Wake all subscribers of this request; never blocks."""
        self._on_change(request_id)
        for subscription in tuple(self._subscriptions.get(request_id, ())):
            subscription.notify(view)

    def refresh(self, request_ids: Iterable[RequestId]) -> None:
        """Query these at once, because a hint says that they changed."""
        self._hinted |= self._subscriptions.keys() & set(request_ids)
        if self._hinted:
            self._wake_up.set()

    def close(self) -> None:
        """Wake all subscribers for the last time: the drain is over."""
        self.is_closed = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.notify(None)

    async def run(self) -> None:
        next_sweep = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_sweep):
                    await self._wake_up.wait()
            self._wake_up.clear()
            hinted, self._hinted = self._hinted, set()
            now = asyncio.get_running_loop().time()
            if now >= next_sweep:
                hinted = set(self._subscriptions)
                next_sweep = now + SWEEP_INTERVAL_S * random.uniform(0.9, 1.1)  # noqa: S311
            try:
                await self.sweep(hinted)
            except DatabaseAway as error:
                log.debug("sweep_skipped", reason=str(error))
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self, request_ids: Iterable[RequestId] | None = None) -> None:
        """Wake subscribers whose request was changed by another process; by default, check all of them."""
        groups = self._subscriptions.values() if request_ids is None else map(self._subscriptions.get, request_ids)
        subscriptions = [subscription for group in groups for subscription in group or () if subscription.is_waiting]
        for start in range(0, len(subscriptions), _SWEEP_CHUNK):
            chunk = subscriptions[start : start + _SWEEP_CHUNK]
            seen = [subscription.seen if subscription.any_change else None for subscription in chunk]
            changed = await self._connection.fetch(
                "changed_requests",
                [subscription.request_id for subscription in chunk],
                [None if view is None else str(view.status) for view in seen],
                [None if view is None else view.epoch for view in seen],
            )
            found = {record["id"] for record in changed}
            for subscription in chunk:
                if subscription.request_id in found:
                    subscription.notify(None)
