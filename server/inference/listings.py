"""Caches upstream's list of models, and the first model of a server, which is its default."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

import structlog

from server.inference.events import Listing
from server.inference.protocol import Unintelligible, UpstreamError, read_models
from server.inference.protocol.listing import read_live_models
from server.inference.resilience import Clock
from server.inference.short_calls import Reply

FRESH_S = 600.0
FAILED_S = 30.0
"""Pause after a failed listing."""
FIRST_WAIT_S = 2.0
"""The longest wait of a caller for the first listing."""
_HAS_NO_LISTING = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})

Ask = Callable[[], Awaitable[Reply]]

log = structlog.get_logger(__name__)


class NoModel(Exception):
    """The first model could not be determined; `error` is the reason."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


class FirstModel:
    """The first model that a server lists. Concurrent callers share one call."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._answer: asyncio.Task[str | UpstreamError | None] | None = None

    async def find(self, *, timeout_s: float) -> str | None:
        """None if the server has no list and needs no model name. Raises `NoModel` and `TimeoutError`."""
        if self._answer is None:
            self._answer = asyncio.create_task(self._find(), name="upstream-first-model")
        answer = self._answer
        async with asyncio.timeout(timeout_s):
            model = await asyncio.shield(answer)
        if isinstance(model, UpstreamError):
            if self._answer is answer:
                self._answer = None
            raise NoModel(model)
        return model

    def forget(self) -> None:
        """The model no longer exists: fetch the list again at the next call."""
        self._answer = None

    async def close(self) -> None:
        await _stop(self._answer)

    async def _find(self) -> str | UpstreamError | None:
        reply = await self._ask()
        if reply.error is not None:
            return None if reply.error.status in _HAS_NO_LISTING else reply.error
        try:
            models = read_models(reply.body)
        except Unintelligible:
            return None
        return models[0] if models else UpstreamError("The model provider has no model to offer.")


class LiveListing:
    """A listing that is fetched in the background, once for all callers. An old one stays while a fetch fails."""

    def __init__(self, ask: Ask, *, first_wait_s: float = FIRST_WAIT_S, clock: Clock = time.monotonic) -> None:
        self._ask = ask
        self._first_wait_s = first_wait_s
        self._clock = clock
        self._listing: Listing | None = None
        self._stale_at = self._due_at = 0.0
        self._asked_at = self._listed_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def get(self, *, max_age_s: float | None = None) -> Listing | None:
        """The newest listing. Only the first one is waited for, at most `first_wait_s`.

        With `max_age_s` an older one is fetched again and waited for in the same way; None if it does not come. A
        fetch starts at most once in `max_age_s`.
        """
        now = self._clock()
        is_too_old = self._listing is None or (max_age_s is not None and now >= self._listed_at + max_age_s)
        may_ask_again = max_age_s is not None and is_too_old and now >= self._asked_at + max_age_s
        if self._fetch is None and (now >= self._due_at or may_ask_again):
            self._begin(now)
        if is_too_old and self._fetch is not None:
            await asyncio.wait({self._fetch}, timeout=self._first_wait_s)
        if self._listing is None or (max_age_s is not None and self._clock() >= self._listed_at + max_age_s):
            return None
        return replace(self._listing, is_stale=self._clock() >= self._stale_at)

    def peek(self, *, refreshes: bool) -> Listing | None:
        """The newest listing without a wait, which may be stale. `refreshes`: a due one is fetched for later calls."""
        now = self._clock()
        if refreshes and self._fetch is None and now >= self._due_at:
            self._begin(now)
        return self._listing

    async def close(self) -> None:
        await _stop(self._fetch)

    def _begin(self, now: float) -> None:
        self._asked_at = now
        self._fetch = asyncio.create_task(self._refresh(), name="upstream-listing")

    async def _refresh(self) -> None:
        try:
            reply = await self._ask()
            self._due_at = self._clock() + FAILED_S
            if reply.error is not None:
                log.warning("upstream_listing_failed", status=reply.error.status)
                return
            models = read_live_models(reply.body)
            self._listing = Listing(datetime.now(UTC), is_stale=False, models=models)
            self._listed_at = self._clock()
            self._due_at = self._stale_at = self._listed_at + FRESH_S
        except Unintelligible:
            log.warning("upstream_listing_unintelligible")
        finally:
            self._fetch = None


async def _stop(task: "asyncio.Task[object] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
