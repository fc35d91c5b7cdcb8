"""One client's subscription to one request: to its end, or to everything that happens to it."""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self

from server.model_request import RequestId, Status


@dataclass(slots=True)
class View:
    """The state of a request at one moment. `body` is its public object, if the publisher had it."""

    status: Status
    epoch: int
    body: bytes | None = None

    @property
    def size(self) -> int:
        return 0 if self.body is None else len(self.body)


class Registry(Protocol):
    """The part of `Subscriptions` that a subscription uses."""

    @property
    def is_closed(self) -> bool: ...

    def add(self, watch: "Subscription") -> None: ...

    def remove(self, watch: "Subscription") -> None: ...

    def keep(self, view: View | None, *, instead_of: View | None) -> View | None: ...


class Subscription(ABC):
    """Enter it, then read the row, then wait: the other order loses wake-ups."""

    __slots__ = ("_registry", "_seen", "any_change", "request_id")

    def __init__(self, registry: Registry, request_id: RequestId, *, any_change: bool) -> None:
        self._registry = registry
        self._seen: View | None = None
        self.request_id = request_id
        self.any_change = any_change

    @property
    def seen(self) -> View | None:
        """The last known state; without its object where all of them take too much memory."""
        return self._seen

    @seen.setter
    def seen(self, view: View | None) -> None:
        self._seen = self._registry.keep(view, instead_of=self._seen)

    @property
    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether the sweep has to query the database for it."""

    @abstractmethod
    def notify(self, view: View | None) -> None:
        """Publish the new state of the request. None: the state has to be read, or the server stops."""

    def __enter__(self) -> Self:
        self._registry.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._registry.remove(self)

    def _is_change(self, view: View) -> bool:
        return self.seen is None or (view.status, view.epoch) != (self.seen.status, self.seen.epoch)


class Waiter(Subscription):
    """Waits for one answer: the end, or any change."""

    __slots__ = ("_changed",)

    def __init__(self, registry: Registry, request_id: RequestId) -> None:
        super().__init__(registry, request_id, any_change=False)
        self._changed: asyncio.Future[View | None] | None = None

    @property
    def is_waiting(self) -> bool:
        """True during `wait`. Before it the row may not exist yet: a create subscribes, then inserts."""
        return self._changed is not None and not self._changed.done()

    async def wait(self, timeout_s: float) -> View | None:
        """Wait until the request is final; with `any_change`, until its state differs from `seen`.

        Returns the view that was published, or None when the row has to be read: time is up, the server stops, or the
        change was found in the database only.
        """
        loop = asyncio.get_running_loop()
        self._changed = self._changed or loop.create_future()
        timer = loop.call_later(timeout_s, self.notify, None)
        try:
            return await self._changed
        finally:
            timer.cancel()
            self._changed = None

    async def is_notified(self, *, within_s: float) -> bool:
        """Whether the awaited change was published in that time, with a view or without."""
        self._changed = self._changed or asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait({self._changed}, timeout=within_s)
        self._changed = None
        return bool(done)

    def notify(self, view: View | None) -> None:
        """Wake the waiter, if it waits for this. A view that comes before `wait` is kept for it."""
        if view is not None and not view.status.is_final and not (self.any_change and self._is_change(view)):
            return
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        if not self._changed.done():
            self._changed.set_result(view)


class StreamSubscription(Subscription):
    """Follows a request to its end: every state it is in, and the growth of its text."""

    __slots__ = ("_must_read", "_update", "_wake_up", "has_ended")

    def __init__(self, registry: Registry, request_id: RequestId) -> None:
        super().__init__(registry, request_id, any_change=True)
        self.has_ended = False
        """Whether the credential of the reader ended."""
        self._wake_up = asyncio.Event()
        self._update: View | None = None
        self._must_read = False

    @property
    def is_waiting(self) -> bool:
        """True from the first read of the row to the end of the request."""
        return self.seen is not None and not self.seen.status.is_final

    @property
    def is_closed(self) -> bool:
        """Whether the server stops, or the credential of the reader ended: no more updates come."""
        return self.has_ended or self._registry.is_closed

    def end(self) -> None:
        """End this stream, because the credential of its reader ended."""
        self.has_ended = True
        self.wake()

    def notify(self, view: View | None) -> None:
        if view is None:
            self._must_read = True
        elif self._update is None or not self._update.status.is_final:
            self._update = view
        self.wake()

    def wake(self) -> None:
        """Wake the reader: there is more text, or a new state."""
        self._wake_up.set()

    async def wait(self, timeout_s: float) -> None:
        """Return once the reader was woken since the last call, or after `timeout_s`.

        It uses a plain timer, because asyncio.timeout() costs as much as all other work for a delta.
        """
        if not self._wake_up.is_set():
            timer = asyncio.get_running_loop().call_later(timeout_s, self._wake_up.set)
            try:
                await self._wake_up.wait()
            finally:
                timer.cancel()
        self._wake_up.clear()

    def take_update(self) -> View | None:
        """The state that was published since the last call."""
        update, self._update = self._update, None
        return update

    def take_read_request(self) -> bool:
        """Whether a read of the row was requested since the last call."""
        must_read, self._must_read = self._must_read, False
        return must_read
