"""Who waits for which model request: synchronous creates and long-polls, woken by this process or by the database."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from server.errors import Unavailable
from server.model_request import RequestId, Status
from server.storage.database import DatabaseAway, Line

MAX_WATCHES = 20_000
SWEEP_INTERVAL_S = 1.0
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Of the objects that waiters keep while they wait; beyond that they read them again."""
_SWEEP_CHUNK = 1000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """A request as it stood at one moment. `body` is its public object, where the teller had it at hand."""

    status: Status
    epoch: int
    body: bytes | None = None


class Watch:
    """One waiter's interest in one request. Enter it, then read the row, then wait: the other order loses wake-ups."""

    __slots__ = ("_changed", "_seen", "_switchboard", "any_change", "request_id")

    def __init__(self, switchboard: "Switchboard", request_id: RequestId) -> None:
        self._switchboard = switchboard
        self._changed: asyncio.Future[View | None] | None = None
        self.request_id = request_id
        self._seen: View | None = None
        self.any_change = False

    @property
    def seen(self) -> View | None:
        """What the waiter knows of the request; without the object where that takes too much memory."""
        return self._seen

    @seen.setter
    def seen(self, view: View | None) -> None:
        self._seen = self._switchboard.keep(view, instead_of=self._seen)

    @property
    def is_waiting(self) -> bool:
        """Between `wait` and its end. Before, the row may not be there yet: a create watches its id, then inserts."""
        return self._changed is not None and not self._changed.done()

    def __enter__(self) -> Self:
        self._switchboard.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._switchboard.remove(self)

    async def wait(self, timeout_s: float) -> View | None:
        """Wait until the request is final; with `any_change`, until it stands otherwise than `seen`.

        Returns the view that was published, or None when the row has to be read: time is up, the server stops, or the
        change was seen in the database only.
        """
        self._changed = self._changed or asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._changed
        except TimeoutError:
            return None
        finally:
            self._changed = None

    def tell(self, view: View | None) -> None:
        """Wake the waiter, if this is what it waits for. A view told before `wait` is kept for it."""
        if view is not None and not view.status.is_final:
            is_news = self.seen is None or (view.status, view.epoch) != (self.seen.status, self.seen.epoch)
            if not (self.any_change and is_news):
                return
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        if not self._changed.done():
            self._changed.set_result(view)


class Switchboard:
    """Local news wakes waiters at once; one batched query a second over all waited-for ids is the truth behind it."""

    def __init__(
        self, line: Line, queries: Mapping[str, str], *, on_news: Callable[[RequestId], None] = lambda _: None
    ) -> None:
        self._line = line
        self._queries = queries
        self._on_news = on_news
        self._watches: dict[RequestId, set[Watch]] = {}
        self._count = 0
        self._kept_bytes = 0
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    def watch(self, request_id: RequestId) -> Watch:
        return Watch(self, request_id)

    def add(self, watch: Watch) -> None:
        if self._count >= MAX_WATCHES:
            raise Unavailable("Too many clients are waiting; poll instead, or try again.", retry_after_s=5)
        self._watches.setdefault(watch.request_id, set()).add(watch)
        self._count += 1
        if self._is_closed:
            watch.tell(None)

    def remove(self, watch: Watch) -> None:
        watches = self._watches[watch.request_id]
        watches.discard(watch)
        watch.seen = None
        self._count -= 1
        if not watches:
            del self._watches[watch.request_id]

    def keep(self, view: View | None, *, instead_of: View | None) -> View | None:
        """What a waiter may hold on to: the view as it is, or without its object when all of them are too much."""
        self._kept_bytes -= _size(instead_of)
        if self._kept_bytes + _size(view) > MAX_KEPT_BYTES and view is not None:
            view = View(view.status, view.epoch)
        self._kept_bytes += _size(view)
        return view

    def publish(self, request_id: RequestId, view: View) -> None:
        """Tell everyone who waits for this request; never blocks."""
        self._on_news(request_id)
        for watch in tuple(self._watches.get(request_id, ())):
            watch.tell(view)

    def close(self) -> None:
        """Send everyone home with what they have: the drain is over."""
        self._is_closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.tell(None)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S * random.uniform(0.9, 1.1))  # noqa: S311
            try:
                await self.sweep()
            except DatabaseAway as error:
                log.debug("sweep_skipped", reason=str(error))

    async def sweep(self) -> None:
        """Wake those whose request changed where this process could not see it."""
        watches = [watch for group in self._watches.values() for watch in group if watch.is_waiting]
        for start in range(0, len(watches), _SWEEP_CHUNK):
            chunk = watches[start : start + _SWEEP_CHUNK]
            changed = await self._line.fetch(
                self._queries["changed_requests"],
                [watch.request_id for watch in chunk],
                [str(watch.seen.status) if watch.any_change and watch.seen else None for watch in chunk],
                [watch.seen.epoch if watch.any_change and watch.seen else None for watch in chunk],
            )
            found = {record["id"] for record in changed}
            for watch in chunk:
                if watch.request_id in found:
                    watch.tell(None)


def _size(view: View | None) -> int:
    return 0 if view is None or view.body is None else len(view.body)
