"""Runs generations on Hugging Face, or on any server with the same protocol: plans the attempts of each call."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from http import HTTPStatus

import structlog
from aiohttp import hdrs

from server.inference.attempt import Attempt, Sleep, Step
from server.inference.breaker import Breaker
from server.inference.circuits import ModelCircuits, TokenRefusals
from server.inference.events import Call, Check, Counted, Delta, Event, FileChunk, Listing, Started
from server.inference.listings import FirstModel, LiveListing, NoModel
from server.inference.protocol import (
    BadModel,
    Failure,
    Judge,
    KnownForms,
    OpenReader,
    UpstreamError,
    WireRequest,
    ask,
    build_listing,
    build_probe,
    is_router,
    read_refusal,
)
from server.inference.resilience import MAX_PAUSE_S, Deadline, Jitter, RetryBudget, RetryPlan
from server.inference.short_calls import Reply, fetch_reply
from server.inference.transport import Transport, explain
from server.inference.upstream_check import judge_listing, judge_probe
from server.limits.rates import RateLimiter
from server.telemetry.instruments import Counters

GAP_S = 60.0
"""Between two chunks of an answer. Only the timeout of the attempt limits the first chunk."""
_BURSTS_PER_MINUTE = 10
"""60 calls a minute allow a burst of six, because the provider's minute may begin at another moment."""
_RATE_EXCEEDED = "The server limits how often it calls this model, and others came first."

log = structlog.get_logger(__name__)


class _NotCalled(Exception):
    """The call was not made; `error` is the reason."""

    def __init__(self, error: UpstreamError, *, is_upstream_fault: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_upstream_fault = is_upstream_fault


class HuggingFace:
    """Implements `Upstream`. It connects at the first call. `timeout_s` limits one attempt."""

    def __init__(
        self,
        *,
        base_url: str,
        token: str | None,
        timeout_s: float,
        max_retries: int,
        connections: int,
        rate_per_minute: int = 0,
        gap_s: float = GAP_S,
        sleep: Sleep = asyncio.sleep,
        jitter: Jitter = random.uniform,
        budget: RetryBudget | None = None,
        breaker: Breaker | None = None,
        circuits: ModelCircuits | None = None,
        refusals: TokenRefusals | None = None,
    ) -> None:
        self._base_url = base_url
        self._token = token
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._gap_s = gap_s
        self._sleep = sleep
        self._jitter = jitter
        self._budget = budget or RetryBudget()
        self.breaker = breaker or Breaker()
        self.retries = Counters()
        self._circuits = circuits or ModelCircuits()
        self._refusals = refusals or TokenRefusals()
        self._pace = RateLimiter("model", rate_per_minute, burst=max(1, rate_per_minute // _BURSTS_PER_MINUTE))
        self._transport = Transport(base_url, credentials=self._credentials(), connections=connections)
        self._known_forms = KnownForms()
        self._first_model = FirstModel(self._ask_for_models)
        self._live_listing = LiveListing(self._ask_for_models)

    async def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        """See `Upstream.generate`. There is no retry once a part of an answer was yielded."""
        self._budget.earn()
        deadline = Deadline(timeout_s)
        plan = RetryPlan(
            self._chain(call),
            max_retries=self._max_retries,
            deadline=deadline,
            budget=self._budget,
            jitter=self._jitter,
        )
        shown: Event | None = None
        outage: Failure | None = None
        while True:
            attempt = Attempt(self._transport, gap_s=self._gap_s, sleep=self._sleep)
            tried, failure = plan.model, None
            try:
                async with contextlib.aclosing(await self._begin(call, tried, attempt, deadline)) as steps:
                    async for step in steps:
                        if isinstance(step, Failure):
                            failure = step
                            break
                        if isinstance(step, Started):
                            self._succeed(call, tried, attempt)
                        shown = shown if isinstance(step, Counted) else step
                        yield step
            except _NotCalled as reason:
                attempt.is_upstream_fault = reason.is_upstream_fault
                failure = Failure(reason.error, model=tried)
            if failure is None:
                return
            if attempt.is_upstream_fault and not plan.may_be_stale(failure.error):
                self._record_failure(failure.error, call, tried, attempt)
            outage = failure if failure.error.is_transient else outage
            is_last = shown is not None or self.breaker.is_open
            pause_s = None if is_last else plan.pause_after(failure.error)
            if pause_s is not None:
                self.retries.add((str(failure.error.status or "no_answer"),))
                _log_retry(failure.error, plan, tried=tried, pause_s=pause_s)
                await self._sleep(pause_s)
            if pause_s is None or self.breaker.is_open:
                yield self._final_event(failure, outage, has_delivered=isinstance(shown, (Delta, FileChunk)))
                return

    async def check(self) -> Check:
        """See `Upstream.check`. Calls the router with a model that cannot exist, or lists the models of a server."""
        if is_router(self._base_url):
            reply = await self._ask(build_probe(self._base_url))
            check = judge_probe(reply.error)
            self.known_listing()  # the first answers have a price, too
        else:
            reply = await self._ask_for_models()
            check = judge_listing(reply.body, reply.error, base_url=self._base_url)
        return replace(check, detail=self._without_token(check.detail))

    async def listing(self, *, max_age_s: float | None = None) -> Listing | None:
        """See `Upstream.listing`."""
        return await self._live_listing.get(max_age_s=max_age_s)

    def known_listing(self) -> Listing | None:
        """See `Upstream.known_listing`. Only the router lists prices, so only its list is kept fresh for them."""
        return self._live_listing.peek(refreshes=is_router(self._base_url))

    async def close(self) -> None:
        """Close all connections, even those in use."""
        await self._first_model.close()
        await self._live_listing.close()
        await self._transport.close()

    async def _begin(
        self, call: Call, model: str | None, attempt: Attempt, deadline: Deadline
    ) -> AsyncGenerator[Step, None]:
        """The steps of an attempt. Raises `_NotCalled` if no call is made."""
        if (refusal := self._refusals.find(_name_of(call, model))) is not None:
            raise _NotCalled(refusal, is_upstream_fault=False)
        await self._wait_for_rate(_name_of(call, model), deadline)
        timeout_s = deadline.bound(self._timeout_s)
        self.breaker.begin()
        try:
            model, wire, read = await self._prepare(call, model, timeout_s)
        except BadModel as error:
            raise _NotCalled(UpstreamError(str(error), is_model_missing=True), is_upstream_fault=False) from None
        except NoModel as reason:
            raise _NotCalled(reason.error, is_upstream_fault=True) from None
        except TimeoutError as error:
            raise _NotCalled(explain(error, timeout_s=timeout_s), is_upstream_fault=True) from None
        return attempt.run(wire, read, model=model, timeout_s=timeout_s, deadline=deadline)

    async def _wait_for_rate(self, name: str, deadline: Deadline) -> None:
        """Wait until the rate limit of the model allows the call. Raises `_NotCalled` if that takes too long."""
        if self._pace.is_off:
            return
        wait_s = self._pace.reserve(name)
        if wait_s >= min(MAX_PAUSE_S, deadline.left_s):
            self._pace.refund(name)
            error = UpstreamError(_RATE_EXCEEDED, is_transient=True, retry_after_s=wait_s, max_retries=0)
            raise _NotCalled(error, is_upstream_fault=False)
        await self._sleep(wait_s)

    async def _prepare(
        self, call: Call, model: str | None, timeout_s: float
    ) -> tuple[str | None, WireRequest, OpenReader]:
        """The model, the request, and the reader of its answer. Raises `BadModel`, `NoModel` and `TimeoutError`."""
        if model is None:
            model = await self._first_model.find(timeout_s=timeout_s)
        return model, *ask(call, model, base_url=self._base_url, known=self._known_forms)

    def _credentials(self) -> dict[str, str]:
        return {} if self._token is None else {hdrs.AUTHORIZATION: f"Bearer {self._token}"}

    def _chain(self, call: Call) -> tuple[str, ...]:
        """The models to try in order; empty if upstream chooses."""
        return self._circuits.order(call.models)

    def _succeed(self, call: Call, model: str | None, attempt: Attempt) -> None:
        """Record that the first valid byte of an answer arrived."""
        self.breaker.succeed()
        self._refusals.clear(_name_of(call, model))
        if model is not None:
            self._circuits.succeed(model, attempt.provider)

    def _record_failure(self, error: UpstreamError, call: Call, model: str | None, attempt: Attempt) -> None:
        """Record a failure for the model and, unless it came from a foreign address, for the provider and the token."""
        if model is not None and (error.is_transient or error.is_model_missing):
            self._circuits.fail(model, attempt.provider, is_missing=error.is_model_missing)
        if error.is_model_missing and not call.models:
            self._first_model.forget()
        if attempt.is_foreign:
            return
        if not error.is_transient or (error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR):
            self.breaker.succeed()  # any other error shows that upstream answers
        else:
            self.breaker.fail(error.message if error.status is None else f"It answers with status {error.status}.")
        self._refusals.record(_name_of(call, model), error, attempt.provider)

    async def _ask(self, wire: WireRequest, *, judge: Judge = read_refusal) -> Reply:
        return await fetch_reply(self._transport, wire, judge=judge)

    async def _ask_for_models(self) -> Reply:
        return await self._ask(build_listing(self._base_url))

    def _final_event(self, failure: Failure, outage: Failure | None, *, has_delivered: bool) -> Event:
        """The failure to report. A transient one takes precedence over a missing model, because a retry may help."""
        if failure.error.is_model_missing and outage is not None:
            failure = outage
        error = replace(
            failure.error,
            message=self._without_token(failure.error.message),
            code=self._unless_token(failure.error.code),
            param=self._unless_token(failure.error.param),
            is_transient=failure.error.is_transient and not has_delivered,
        )
        return replace(failure, error=error).as_event()

    def _without_token(self, message: str) -> str:
        """Upstream may quote the token, in a form that no pattern matches."""
        return message.replace(self._token, "[redacted]") if self._token else message

    def _unless_token(self, name: str | None) -> str | None:
        return None if name is not None and self._token and self._token in name else name


def _name_of(call: Call, model: str | None) -> str:
    """The key for rejections of the token; the first of the chain if upstream chooses the model."""
    return model or next(iter(call.models), "")


def _log_retry(error: UpstreamError, plan: RetryPlan, *, tried: str | None, pause_s: float) -> None:
    """Without upstream's text, which may quote the prompt."""
    log.warning(
        "upstream_retry",
        status=error.status,
        reason=error.message if error.status is None else None,
        retry=plan.retries,
        model=tried,
        next_model=plan.model,
        pause_s=round(pause_s, 2),
    )
