"""One attempt of a call: a request, its answer, and the follow-up requests that the answer asks for."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import groupby

from server.inference.answer_body import AnswerBody, BadAnswer
from server.inference.body import InputFault
from server.inference.events import Counted, Delta
from server.inference.protocol import (
    BROKEN_OFF,
    AnswerReader,
    Failure,
    FollowUp,
    OpenReader,
    Progress,
    UpstreamError,
    WireRequest,
)
from server.inference.resilience import Deadline
from server.inference.transport import TRANSPORT_ERRORS, Transport, explain
from server.model_request import NO_USAGE, Completed

MAX_HOPS = 2500
"""Follow-up requests in one attempt. Most of them poll a job, or ask for the next texts of a list."""
MAX_ADDRESSES = 12
"""Different foreign URLs among them, each for a file or the status of a job."""

_TOO_MANY_HOPS = UpstreamError("The model provider sent the server from one address to the next without an answer.")

Sleep = Callable[[float], Awaitable[None]]
Step = Progress | Counted | Completed | Failure


class Attempt:
    """`gap_s` is the longest gap between chunks of an answer. Only the timeout limits the first byte."""

    def __init__(self, transport: Transport, *, gap_s: float, sleep: Sleep = asyncio.sleep) -> None:
        self._transport = transport
        self._gap_s = gap_s
        self._sleep = sleep
        self._timeout_s: float
        self._deadline: Deadline
        self._hops = 0
        self._addresses: set[str] = set()
        self.provider: str | None = None
        """The provider that answered, from the router's header."""
        self.is_foreign = False
        """Whether the last request went to an address that an answer named."""
        self.is_upstream_fault = True
        """False if a failure is not upstream's, such as an unreadable input file."""

    async def run(  # noqa: C901 - a method for the inner loop would be called for each chunk
        self, wire: WireRequest, read: OpenReader, *, model: str | None, timeout_s: float, deadline: Deadline
    ) -> AsyncGenerator[Step, None]:
        """Yield the steps of the answer, and a `Completed` or a `Failure` as the last.

        Each part of the result has `timeout_s`, within the deadline of the call. Closing the generator closes the
        connection at once.
        """
        self._timeout_s = timeout_s
        self._deadline = Deadline(timeout_s)
        usage = NO_USAGE
        while True:
            reader = body = cut = None
            self.is_foreign = wire.is_foreign
            try:
                async with self._transport.send(wire, timeout_s=self._deadline.left_s) as response:
                    self.provider = response.headers.get("x-inference-provider", self.provider)
                    reader = read(response.status, response.headers)
                    with AnswerBody(response, gap_s=self._gap_s) as body:
                        while chunk := await body.read():
                            events = _merge_deltas(reader.feed(chunk))
                            for event in events:
                                yield event
                            if reader.is_over:
                                await body.drain()
                                break
                            if reader.grace_s is None and reader.usage is not usage:
                                yield Counted(usage := reader.usage)
                            if reader.grace_s is not None:
                                body.end_within(reader.grace_s, begins_again=bool(events))
            except BadAnswer as fault:
                cut = fault.error
            except InputFault as fault:
                cut, self.is_upstream_fault = fault.error, False
            except TRANSPORT_ERRORS as error:
                cut = self._explain(error, has_begun=body is not None and body.has_begun)
            steps, follow_up = self._finish(reader or read(HTTPStatus.OK, {}), cut, model)
            for step in steps:
                yield step
            if follow_up is None:
                return
            await self._sleep(follow_up.pause_s)
            if follow_up.is_next_part:
                self._deadline = Deadline(deadline.bound(timeout_s))
            wire, read = follow_up.wire, follow_up.read

    def _finish(
        self, reader: AnswerReader, cut: UpstreamError | None, model: str | None
    ) -> tuple[Sequence[Step], FollowUp | None]:
        """The last steps of the answer, and the follow-up request, if there is an allowed one.

        Without any answer, the reader also decides whether the request may be repeated.
        """
        if not self.is_upstream_fault and cut is not None:
            return [Failure(cut, model=model)], None
        steps: list[Step] = []
        for last in reader.finish(cut=cut):
            if not isinstance(last, FollowUp):
                steps.append(last)
            elif (error := self._refuse(last)) is not None:
                steps.append(Failure(error, model=model))
            else:
                return steps, last
        return steps, None

    def _refuse(self, follow_up: FollowUp) -> UpstreamError | None:
        """The reason why a follow-up request is not allowed, or None."""
        self._hops += 1
        if follow_up.wire.is_foreign:
            self._addresses.add(follow_up.wire.url)
        if self._hops > MAX_HOPS or len(self._addresses) > MAX_ADDRESSES:
            return _TOO_MANY_HOPS
        if follow_up.pause_s >= self._deadline.left_s:
            error = explain(TimeoutError(), timeout_s=self._timeout_s, awaited="finish its answer")
            return replace(error, max_retries=0)  # the job continues upstream, and must be paid
        return None

    def _explain(self, error: BaseException, *, has_begun: bool) -> UpstreamError:
        if not has_begun:
            return explain(error, timeout_s=self._timeout_s)
        if not isinstance(error, TimeoutError):
            return BROKEN_OFF
        if self._deadline.left_s > 0:
            return explain(error, timeout_s=self._gap_s, awaited="go on with its answer")
        return explain(error, timeout_s=self._timeout_s, awaited="finish its answer")


def _merge_deltas(events: list[Progress]) -> list[Progress]:
    """Merge adjacent deltas of one chunk: one large delta costs the readers as little as a small one."""
    if len(events) <= 1:
        return events
    joined: list[Progress] = []
    for _, group in groupby(events, key=_merge_key):
        same = list(group)
        deltas = [event for event in same if isinstance(event, Delta)]
        joined += [_join(deltas)] if deltas else same
    return joined


def _merge_key(event: Progress) -> tuple[object, ...]:
    return (Delta, event.segment, event.number) if isinstance(event, Delta) else (type(event),)


def _join(deltas: list[Delta]) -> Delta:
    first = deltas[0]
    return first if len(deltas) == 1 else first._replace(text="".join([delta.text for delta in deltas]))
