"""One try of a call: a request, its answer, and the requests that follow from that answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import groupby

from server.inference.answer_body import AnswerBody, BadAnswer
from server.inference.body import InputFault
from server.inference.events import Delta
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
from server.model_request import Completed

MAX_HOPS = 1000
"""Follow-up requests in one try: most of them poll a job."""
MAX_ADDRESSES = 12
"""Different addresses among them that upstream named, each of a file or of a job's state."""

_IN_CIRCLES = UpstreamError("The model provider sent the server from one address to the next without an answer.")

Sleep = Callable[[float], Awaitable[None]]
Step = Progress | Completed | Failure


class Attempt:
    """`gap_s` is the longest silence after the first byte, which may take the whole time."""

    def __init__(self, transport: Transport, *, gap_s: float, sleep: Sleep = asyncio.sleep) -> None:
        self._transport = transport
        self._gap_s = gap_s
        self._sleep = sleep
        self._timeout_s: float
        self._deadline: Deadline
        self._hops = 0
        self._addresses: set[str] = set()
        self.provider: str | None = None
        """The provider that answered, as the router reports it."""
        self.is_abroad = False
        """Whether the last request went to an address that upstream named."""
        self.blames_upstream = True
        """Whether a failure counts against upstream: that of an input file does not."""

    async def run(
        self, wire: WireRequest, read: OpenReader, *, model: str | None, timeout_s: float
    ) -> AsyncGenerator[Step, None]:
        """The steps of the answer, ending with a `Completed` or a `Failure`, within `timeout_s`.

        Closing it closes the connection at once, in whatever phase it is.
        """
        self._timeout_s = timeout_s
        self._deadline = Deadline(timeout_s)
        while True:
            reader = body = cut = None
            self.is_abroad = wire.is_foreign
            try:
                async with self._transport.send(wire, timeout_s=self._deadline.left_s) as response:
                    self.provider = response.headers.get("x-inference-provider", self.provider)
                    reader = read(response.status, response.headers)
                    with AnswerBody(response, gap_s=self._gap_s) as body:
                        while chunk := await body.read():
                            for event in _together(reader.feed(chunk)):
                                yield event
                            if reader.is_over:
                                await body.linger()
                                break
            except BadAnswer as fault:
                cut = fault.error
            except InputFault as fault:
                cut, self.blames_upstream = fault.error, False
            except TRANSPORT_ERRORS as error:
                cut = self._explain(error, has_begun=body is not None and body.has_begun)
            steps, follow_up = self._finish(reader or read(HTTPStatus.OK, {}), cut, model)
            for step in steps:
                yield step
            if follow_up is None:
                return
            await self._sleep(follow_up.pause_s)
            wire, read = follow_up.wire, follow_up.read

    def _finish(
        self, reader: AnswerReader, cut: UpstreamError | None, model: str | None
    ) -> tuple[Sequence[Step], FollowUp | None]:
        """The last steps of the answer, and the follow-up request if there is a permitted one.

        The reader also decides whether a request without any answer may be repeated.
        """
        if not self.blames_upstream and cut is not None:
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
        """The reason not to make a follow-up request; None if it is permitted."""
        self._hops += 1
        if follow_up.wire.is_foreign:
            self._addresses.add(follow_up.wire.url)
        if self._hops > MAX_HOPS or len(self._addresses) > MAX_ADDRESSES:
            return _IN_CIRCLES
        if follow_up.pause_s >= self._deadline.left_s:
            error = explain(TimeoutError(), timeout_s=self._timeout_s, awaited="finish its answer")
            return replace(error, max_retries=0)  # the job goes on upstream, and is paid for
        return None

    def _explain(self, error: BaseException, *, has_begun: bool) -> UpstreamError:
        if not has_begun:
            return explain(error, timeout_s=self._timeout_s)
        if not isinstance(error, TimeoutError):
            return BROKEN_OFF
        if self._deadline.left_s > 0:
            return explain(error, timeout_s=self._gap_s, awaited="go on with its answer")
        return explain(error, timeout_s=self._timeout_s, awaited="finish its answer")


def _together(events: list[Progress]) -> list[Progress]:
    """Join the deltas of one chunk: the cost of a delta to its readers does not depend on its length."""
    if len(events) <= 1:
        return events
    joined: list[Progress] = []
    for _, group in groupby(events, key=_place_of):
        same = list(group)
        deltas = [event for event in same if isinstance(event, Delta)]
        joined += [_join(deltas)] if deltas else same
    return joined


def _place_of(event: Progress) -> tuple[object, ...]:
    return (Delta, event.segment, event.number) if isinstance(event, Delta) else (type(event),)


def _join(deltas: list[Delta]) -> Delta:
    first = deltas[0]
    return first if len(deltas) == 1 else first._replace(text="".join([delta.text for delta in deltas]))
