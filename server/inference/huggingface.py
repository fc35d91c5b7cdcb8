"""Runs generations on Hugging Face, or on any server that speaks its protocol: the shell around `protocol`."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus

import aiohttp
import structlog
from aiohttp import hdrs

from server.inference.breaker import Breaker
from server.inference.events import Call, Check, Completed, Event, Fault, Started
from server.inference.protocol import (
    BROKEN_OFF,
    BadModel,
    Decipherer,
    Failure,
    FollowUp,
    Judge,
    Progress,
    Unintelligible,
    UpstreamError,
    WireRequest,
    build,
    build_listing,
    build_probe,
    is_router,
    is_success,
    read_models,
    read_refusal,
    to_words,
)
from server.inference.resilience import Deadline, Jitter, RetryBudget, RetryPlan
from server.inference.transport import TRANSPORT_ERRORS, create_session, create_timeout, explain

GAP_S = 60.0
"""Between two chunks of an answer that has begun; the first may take the whole time of a try."""
CHECK_S = 10.0
MAX_LISTING_BYTES = 4 * 1024 * 1024
_LINGER_S = 0.1
"""After the end of a stream, for the end of its body, without which the connection could not be used again."""
_HAS_NO_LISTING = frozenset({404, 405, 501})
_FAULTS = {401: Fault.TOKEN_REFUSED, 402: Fault.NO_CREDITS, 403: Fault.NO_PERMISSION}

Sleep = Callable[[float], Awaitable[None]]

log = structlog.get_logger(__name__)


class _NoCall(Exception):
    """There is nothing to call, and `error` is why."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class _Reply:
    """A short answer, read whole; `error` where there is none, or an error."""

    body: bytes = b""
    error: UpstreamError | None = None


class HuggingFace:
    """Implements `Upstream`. It connects when it is first used; `timeout_s` is for one try."""

    def __init__(
        self,
        *,
        base_url: str,
        token: str | None,
        timeout_s: float,
        max_retries: int,
        connections: int,
        gap_s: float = GAP_S,
        sleep: Sleep = asyncio.sleep,
        jitter: Jitter = random.uniform,
        budget: RetryBudget | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self._base_url = base_url
        self._token = token
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._connections = connections
        self._gap_s = gap_s
        self._sleep = sleep
        self._jitter = jitter
        self._budget = budget or RetryBudget()
        self.breaker = breaker or Breaker()
        self._session: aiohttp.ClientSession | None = None
        self._listing: asyncio.Task[str | UpstreamError | None] | None = None

    async def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        """See `Upstream.generate`. Nothing is tried again once a delta was yielded."""
        self._budget.earn()
        deadline = Deadline(timeout_s)
        plan = RetryPlan(
            self._chain(call),
            max_retries=self._max_retries,
            deadline=deadline,
            budget=self._budget,
            jitter=self._jitter,
        )
        while True:
            tried = plan.model
            failure = None
            async with contextlib.aclosing(self._try(call, tried, deadline.bound(self._timeout_s))) as events:
                async for event in events:
                    if isinstance(event, Failure):
                        failure = event
                    elif not isinstance(event, FollowUp):
                        self._follow(event)
                        yield event
            if failure is None:
                return
            if not plan.excuses(failure.error):
                self._note(failure.error)
            pause_s = None if self.breaker.is_open else plan.pause_after(failure.error)
            if pause_s is not None:
                _log_retry(failure.error, plan, tried=tried, pause_s=pause_s)
                await self._sleep(pause_s)
            if pause_s is None or self.breaker.is_open:
                yield self._redacted(failure).as_event()
                return

    async def check(self) -> Check:
        """See `Upstream.check`. The router is asked for a model that cannot exist, a server for the models it has."""
        if is_router(self._base_url):
            return self._judge_probe(await self._fetch(build_probe(self._base_url)))
        return self._judge_listing(await self._fetch(build_listing(self._base_url)))

    async def close(self) -> None:
        """Close all connections, those in use included."""
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.wait([self._listing])
        if self._session is not None:
            await self._session.close()

    async def _try(
        self, call: Call, model: str | None, timeout_s: float
    ) -> AsyncGenerator[Progress | Completed | Failure | FollowUp, None]:
        """One request and its answer, ending with `Completed` or `Failure`, within `timeout_s`."""
        deadline = Deadline(timeout_s)
        decipherer = cut = gap_s = None
        self.breaker.begin()
        try:
            model, wire = await self._prepare(call, model, timeout_s)
            async with self._request(wire, deadline.left_s) as response:
                decipherer = self._decipher(response, model)
                while chunk := await _read(response, gap_s):
                    gap_s = self._gap_s
                    for event in decipherer.feed(chunk):
                        yield event
                    if decipherer.is_over:
                        await _linger(response)
                        break
        except _NoCall as error:
            cut = error.error
        except TRANSPORT_ERRORS as error:
            cut = self._explain(error, timeout_s, deadline, has_begun=gap_s is not None)
        if decipherer is not None:
            for last in decipherer.finish(cut=cut):
                self._forget_model(last, call)
                yield last
        elif cut is not None:
            yield Failure(cut, model=model)

    def _credentials(self) -> dict[str, str]:
        return {} if self._token is None else {hdrs.AUTHORIZATION: f"Bearer {self._token}"}

    def _chain(self, call: Call) -> tuple[str, ...]:
        """The models to try here, one after the other; empty where upstream chooses."""
        return call.models

    def _decipher(self, response: aiohttp.ClientResponse, model: str | None) -> Decipherer:
        return Decipherer(response.status, response.headers, model=model)

    async def _prepare(self, call: Call, model: str | None, timeout_s: float) -> tuple[str | None, WireRequest]:
        if model is None:
            model = await self._find_model(timeout_s)
        try:
            return model, build(call, model, base_url=self._base_url)
        except BadModel as error:
            raise _NoCall(UpstreamError(str(error))) from None

    def _explain(self, error: BaseException, timeout_s: float, deadline: Deadline, *, has_begun: bool) -> UpstreamError:
        if not has_begun:
            return explain(error, timeout_s=timeout_s)
        if not isinstance(error, TimeoutError):
            return BROKEN_OFF
        if deadline.left_s > 0:
            return explain(error, timeout_s=self._gap_s, awaited="go on with its answer")
        return explain(error, timeout_s=timeout_s, awaited="finish its answer")

    def _follow(self, event: Event) -> None:
        if isinstance(event, Started):
            self.breaker.succeed()

    def _note(self, error: UpstreamError) -> None:
        """Tell the breaker of an outage, without upstream's words; whatever else upstream says is a sign of life."""
        if not error.is_transient or (error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR):
            self.breaker.succeed()
        else:
            self.breaker.fail(error.message if error.status is None else f"It answers with status {error.status}.")

    def _forget_model(self, event: Event | Failure | FollowUp, call: Call) -> None:
        """Ask a server again for its models when the one that it named is gone."""
        if isinstance(event, Failure) and event.error.is_model_missing and not call.models:
            self._listing = None

    def _request(self, wire: WireRequest, timeout_s: float) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = create_session(credentials=self._credentials(), connections=self._connections)
        return self._session.request(
            wire.method,
            wire.url,
            data=wire.body,
            headers=wire.headers,
            timeout=create_timeout(timeout_s),
            allow_redirects=False,  # the token is for this address only
        )

    async def _find_model(self, timeout_s: float) -> str | None:
        """The first model that the server lists, asked for once; None where it has no list and needs no name."""
        if self._listing is None:
            self._listing = asyncio.create_task(self._ask_for_model(), name="upstream-listing")
        listing = self._listing
        async with asyncio.timeout(timeout_s):
            model = await asyncio.shield(listing)
        if isinstance(model, UpstreamError):
            if self._listing is listing:
                self._listing = None
            raise _NoCall(model)
        return model

    async def _ask_for_model(self) -> str | UpstreamError | None:
        reply = await self._fetch(build_listing(self._base_url))
        if reply.error is not None:
            return None if reply.error.status in _HAS_NO_LISTING else reply.error
        try:
            models = read_models(reply.body)
        except Unintelligible:
            return None
        return models[0] if models else UpstreamError("The model provider has no model to offer.")

    async def _fetch(self, wire: WireRequest, *, judge: Judge = read_refusal) -> _Reply:
        """The whole answer within `CHECK_S`; never raises for a fault of upstream."""
        body = bytearray()
        try:
            async with self._request(wire, CHECK_S) as response:
                while len(body) < MAX_LISTING_BYTES and (chunk := await response.content.readany()):
                    body += chunk
        except TRANSPORT_ERRORS as error:
            return _Reply(error=explain(error, timeout_s=CHECK_S))
        if is_success(response.status):
            return _Reply(bytes(body))
        headers = {name.lower(): value for name, value in response.headers.items()}
        return _Reply(error=judge(response.status, headers, bytes(body), now=datetime.now(UTC)))

    def _judge_probe(self, reply: _Reply) -> Check:
        error = reply.error
        if error is None or error.is_model_missing:
            return Check(None, "Hugging Face answers and takes the token.")
        return self._judge_error(error)

    def _judge_listing(self, reply: _Reply) -> Check:
        if reply.error is not None:
            return self._judge_error(reply.error)
        try:
            models = read_models(reply.body)
        except Unintelligible:
            return Check(Fault.UNEXPECTED, f"{self._base_url} does not list its models: see that HF_BASE_URL is right.")
        if not models:
            return Check(Fault.UNEXPECTED, f"{self._base_url} answers, but has no model: load one there.")
        return Check(None, f"{self._base_url} answers; its first model is {to_words(models[0])}.")

    def _judge_error(self, error: UpstreamError) -> Check:
        message = self._without_token(error.message)
        if error.status is None:
            remedy = "See that HF_BASE_URL is right and that this machine may connect to it."
            return Check(Fault.UNREACHABLE, f"{message} {remedy}")
        if fault := _FAULTS.get(error.status):
            return Check(fault, message)
        return Check(Fault.UNEXPECTED, f"{message} See that HF_BASE_URL is right; otherwise try again later.")

    def _redacted(self, failure: Failure) -> Failure:
        error = replace(failure.error, message=self._without_token(failure.error.message))
        return replace(failure, error=error)

    def _without_token(self, message: str) -> str:
        """Upstream may quote what it refused, in a form that no pattern knows."""
        return message.replace(self._token, "[redacted]") if self._token else message


async def _read(response: aiohttp.ClientResponse, gap_s: float | None) -> bytes:
    """The next bytes, b"" at the end."""
    if response.content.is_eof():
        return response.content.read_nowait()  # all of it is here: nothing to wait for
    async with asyncio.timeout(gap_s):
        return await response.content.readany()


async def _linger(response: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(_LINGER_S):
            while await response.content.readany():
                pass


def _log_retry(error: UpstreamError, plan: RetryPlan, *, tried: str | None, pause_s: float) -> None:
    """Without upstream's words, which may quote the prompt."""
    log.warning(
        "upstream_retry",
        status=error.status,
        reason=error.message if error.status is None else None,
        retry=plan.retries,
        model=tried,
        next_model=plan.model,
        pause_s=round(pause_s, 2),
    )
