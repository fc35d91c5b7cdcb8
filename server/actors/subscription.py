"""One client's interest in one request: in its end, or in everything that happens to it."""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from server.model_request import RequestId, Status


@dataclass(frozen=True, slots=True)
class View:
    """A request as it stood at one moment. `body` is its public object, where the teller had it at hand."""

    status: Status
    epoch: int
    body: bytes | None = None

    @property
    def size(self) -> int:
        return 0 if self.body is None else len(self.body)


class Registry(Protocol):
    """Where those who are interested are known: the subscriptions."""

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
        """What is known of the request; without the object where that takes too much memory."""
        return self._seen

    @seen.setter
    def seen(self, view: View | None) -> None:
        self._seen = self._registry.keep(view, instead_of=self._seen)

    @property
    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether the database is to be asked on its behalf."""

    @abstractmethod
    def tell(self, view: View | None) -> None:
        """What has become of the request; None: look for yourself, or go home."""

    def __enter__(self) -> Self:
        self._registry.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.remove(self)

    def _is_news(self, view: View) -> bool:
        return self.seen is None or (view.status, view.epoch) != (self.seen.status, self.seen.epoch)


class Waiter(Subscription):
    """Waits for one answer: the end, or any change."""

    __slots__ = ("_changed",)

    def __init__(self, registry: Registry, request_id: RequestId) -> None:
        super().__init__(registry, request_id, any_change=False)
        self._changed: asyncio.Future[View | None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Between `wait` and its end. Before, the row may not be there yet: a create watches its id, then inserts."""
        return self._changed is not None and not self._changed.done()

    async def wait(self, timeout_s: float) -> View | None:
        """Wait until the request is final; with `any_change`, until it stands otherwise than `seen`.

        Returns the view that was published, or None when the row has to be read: time is up, the server stops, or the
        change was seen in the database only.
        """
        loop = asyncio.get_running_loop()
        self._changed = self._changed or loop.create_future()
        timer = loop.call_later(timeout_s, self.tell, None)
        try:
            return await self._changed
        finally:
            timer.cancel()
            self._changed = None

    async def is_told(self, *, within_s: float) -> bool:
        """Whether what it waits for came in that time, be it with a view or with nothing but the hint to look."""
        self._changed = self._changed or asyncio.get_running_loop().create_future()
        told, _ = await asyncio.wait({self._changed}, timeout=within_s)
        self._changed = None
        return bool(told)

    def tell(self, view: View | None) -> None:
        """Wake the waiter, if this is what it waits for. A view told before `wait` is kept for it."""
        if view is not None and not view.status.is_final and not (self.any_change and self._is_news(view)):
            return
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        if not self._changed.done():
            self._changed.set_result(view)


class StreamSubscription(Subscription):
    """Follows a request to its end: every state it is in, and the growth of its text."""

    __slots__ = ("_has_look_at", "_news", "_wake_up")

    def __init__(self, registry: Registry, request_id: RequestId) -> None:
        super().__init__(registry, request_id, any_change=True)
        self._wake_up = asyncio.Event()
        self._news: View | None = None
        self._has_look_at = False

    @property
    def is_waiting(self) -> bool:
        """From its first look at the row to its end."""
        return self.seen is not None and not self.seen.status.is_final

    @property
    def is_closed(self) -> bool:
        """The server stops: what is not there yet does not come any more."""
        return self._registry.is_closed

    def tell(self, view: View | None) -> None:
        if view is None:
            self._has_look_at = True
        elif self._news is None or not self._news.status.is_final:
            self._news = view
        self.wake()

    def wake(self) -> None:
        """There is more text, or something to look at."""
        self._wake_up.set()

    async def wait(self, timeout_s: float) -> None:
        """Until something happened since the last call, or nothing did for so long.

        With a plain timer, since it is called for every delta: asyncio.timeout() costs as much as the rest of a delta.
        """
        if not self._wake_up.is_set():
            timer = asyncio.get_running_loop().call_later(timeout_s, self._wake_up.set)
            try:
                await self._wake_up.wait()
            finally:
                timer.cancel()
        self._wake_up.clear()

    def take_news(self) -> View | None:
        """What was told since the last call."""
        news, self._news = self._news, None
        return news

    def take_look(self) -> bool:
        """Whether to look at the row, asked for since the last call."""
        has_look, self._has_look_at = self._has_look_at, False
        return has_look
