"""aiohttp's runner with our limits, and with JSON errors for malformed requests, which reach no middleware."""

import asyncio
from http import HTTPStatus
from secrets import token_hex
from typing import Any

import structlog
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http import HttpVersion11
from aiohttp.web_protocol import RequestHandler, _ErrInfo, _RequestHandler
from aiohttp.web_request import BaseRequest

from server.errors import BadSyntax, Problem, ServerFault, Unavailable
from server.http.chunk_framing import MAX_FRAMING_BYTES, head_bytes, weigh
from server.http.connections import Connections, Place
from server.http.error_responses import problem_body
from server.http.malformed_log import MalformedLog
from server.http.response_headers import REQUEST_ID, SECURE_HEADERS, SERVER_NAME
from server.http.responses import json_response
from server.limits.rates import client_address

KEEPALIVE_S = 75.0
"""More than the idle time of proxies, so that they close first. Also the time for the head of a later request."""
FIRST_REQUEST_S = 20.0
"""Time for the head of the first request."""
PROBE_S = 0.25
"""Time until a client that sends no more is asked whether it still reads. The second probe shows it, after as long."""
OLD_CLIENT_S = 2.0
"""Time for the answer to a client of HTTP/1.0 that sends no more."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEALTH = frozenset({"/health", "/health/live", "/health/ready"})
_HTTP_LIMITS: dict[str, Any] = {
    "keepalive_timeout": KEEPALIVE_S,
    "lingering_time": 2.0,
    "max_line_size": 8190,
    "max_field_size": 8190,
    "max_headers": 64,
    "read_bufsize": 2**16,
    "auto_decompress": False,
    "access_log": None,
    "tcp_keepalive": True,
}

log = structlog.get_logger(__name__)


class JsonErrorHandler(RequestHandler):
    """One connection. aiohttp's own response to a malformed request would echo its bytes and log a traceback."""

    address = ""
    place = Place.NONE
    _lost: "asyncio.Future[None] | None" = None

    def __init__(self, manager: "JsonErrorServer", **options: Any) -> None:
        super().__init__(manager, **options)
        self._places = manager.places
        self._malformed = manager.malformed
        self._is_busy = False
        self._is_half_closed = False
        self._probing: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the last request that arrived
        self._is_chunked = False
        self._framing_bytes = 0
        self._has_broken_body = False

    @property
    def lost(self) -> "asyncio.Future[None]":
        """Done when the connection is lost. Created on the first access."""
        if self._lost is None:
            self._lost = self._loop.create_future()
            if self.transport is None:
                self._lost.set_result(None)
        return self._lost

    def connection_lost(self, exc: BaseException | None) -> None:
        """As aiohttp's, which cancels no handler: work goes on without its client, unless its route waits for `lost`.

        The connection keeps its place while a handler runs for it.
        """
        task = self._task_handler
        super().connection_lost(exc)
        if task is None or task.done():
            self._places.leave(self)
        else:
            task.add_done_callback(lambda _: self._places.leave(self))
        self._body = EMPTY_PAYLOAD  # a cycle, which would hold an incomplete body: see `_handle_request`
        if self._probing is not None:
            self._probing.cancel()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp's, with less time for the first request than between requests, and only if there is a place."""
        super().connection_made(transport)
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + FIRST_REQUEST_S
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        host = self.peername[0] if self.peername else ""
        self._places.admit(self, client_address((), host, ()) if ":" in host else host)

    def drop(self) -> None:
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()  # closing alone would wait for a client that does not read

    def data_received(self, data: bytes) -> None:
        """As aiohttp's, but a malformed chunk ends the read of its body at once instead of at its timeout.

        aiohttp queues the parser's error behind the request with the malformed body, where it has no effect. And it
        takes any amount of chunk extensions.
        """
        body, count = self._body, self._request_count
        is_open = not body.is_eof()
        weight = weigh(body) if is_open else 0
        super().data_received(data)
        if self._upgraded:
            self.close()  # no route switches protocols, and aiohttp would parse what follows by another way than this
        if arrived := self._request_count - count:
            message, self._body = self._messages[-1]
            self._is_chunked = not isinstance(message, _ErrInfo) and message.chunked
            self._framing_bytes = 0
            if not self._is_busy:
                self._is_busy = True
                self._places.begin(self)
        if self._is_chunked and (arrived or is_open):
            self._count_framing(data, arrived, weigh(body) - weight if is_open else 0)
        request = self._current_request
        if not self._messages or request is None or request.content.is_eof():
            return
        if isinstance(broken := self._messages[-1][0], _ErrInfo):
            broken.exc.__traceback__ = None  # as in `handle_error`
            self._messages.clear()
            self._end_body(request.content)

    def _count_framing(self, data: bytes, arrived: int, weight: int) -> None:
        """Count what is neither a head nor content in `data`, of which `weight` was for an earlier body."""
        heads = 0
        for message, body in list(self._messages)[-arrived:] if arrived else ():
            if not isinstance(message, _ErrInfo):
                heads += head_bytes(message)
            weight += weigh(body)
        if arrived == 1:
            heads = min(heads, data.find(b"\r\n\r\n") + 4)  # the head may have begun in an earlier read
        self._framing_bytes += len(data) - heads - weight
        is_unparsed = self._reading_paused or self._buffer_paused  # then the parser holds a part of `data`
        if self._framing_bytes > MAX_FRAMING_BYTES and not is_unparsed:
            self._end_body(self._body)

    def _end_body(self, body: StreamReader) -> None:
        """Let the handler that reads the body fail, and close the connection when it has answered."""
        body.set_exception(web.RequestPayloadError("malformed chunk"))
        if not body.is_eof():
            body.feed_eof()
        self._has_broken_body = True
        self.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's returns None
        """Keep the connection of a client that sends no more until its requests are answered: it may still read.

        A client that closed its socket looks the same, so it is probed. No probe can precede the rest of a response
        that has begun. Then such a client counts as gone.
        """
        request = self._current_request
        has_begun = request is not None and request.writer.output_size > 0
        if has_begun or not self._is_busy or not self._body.is_eof():
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self._probing = self._loop.call_later(PROBE_S, self._probe, PROBE_S)
        return True

    def _probe(self, elapsed_s: float) -> None:
        """Send an interim response: the system of a client that is gone answers with a reset, so the next one fails.

        A client of HTTP/1.0 knows no interim responses, and counts as gone after `OLD_CLIENT_S`.
        """
        transport, request = self.transport, self._current_request
        if transport is None or (request is not None and request.writer.output_size > 0):
            return
        if request is not None and request.version == HttpVersion11:
            transport.write(_CONTINUE)
        elif request is not None and elapsed_s >= OLD_CLIENT_S:
            transport.close()
            return
        self._probing = self._loop.call_later(elapsed_s, self._probe, 2 * elapsed_s)

    async def _handle_request(
        self, request: BaseRequest, start_time: float | None, request_handler: _RequestHandler
    ) -> tuple[web.StreamResponse, bool]:
        """As aiohttp's; then break the reference cycle between the error of an incomplete body and its frames.

        Such cycles wait for a full garbage collection, which happens once in hours: they have held 200 MB of bodies.
        """
        try:
            if self.place is Place.RESERVE:
                return await super()._handle_request(request, start_time, self._answer_last(request_handler))
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            if (error := request.content.exception()) is not None:
                error.__traceback__ = None
            if self._has_broken_body:
                await self._discard_rest()
            if not self._messages:
                self._is_busy = False
                self._places.end(self)
                if self._is_half_closed:
                    self.close()

    async def _discard_rest(self) -> None:
        """Let the client send for a while: to close a socket with unread data would reset it, and lose the response."""
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
            await asyncio.wait({self.lost}, timeout=self._lingering_time)

    def _answer_last(self, handler: _RequestHandler) -> _RequestHandler:
        """Answer health checks, refuse other requests, and close, so that the place in the reserve is soon free."""

        async def answer(request: BaseRequest) -> web.StreamResponse:
            if request.path in _HEALTH:
                response = await handler(request)
            else:
                self._places.refuse()
                problem = Unavailable("Too many clients are connected; try again.", retry_after_s=2)
                response = _problem_response(problem, token_hex(8))
            response.force_close()
            return response

        return answer

    async def _drain_helper(self) -> None:
        """As aiohttp's, without the frame that holds the error: see `_handle_request`."""
        try:
            await super()._drain_helper()
        except ConnectionError as error:
            raise error.with_traceback(None) from None

    def handle_error(
        self,
        request: BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - holds the offending bytes
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the response has been started already")
        request_id = token_hex(8)
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            if exc is not None:
                exc.__traceback__ = None  # its frames hold the message that holds it, and what was received
            self._malformed.write(self.address, status=status, reason=type(exc).__name__, request_id=request_id)
            problem: Problem = BadSyntax("This is not a valid HTTP/1.1 request.")
        else:
            log.error("request_failed", request_id=request_id, exc_info=exc)
            problem = ServerFault()
        response = _problem_response(problem, request_id)
        response.force_close()
        return response


def _problem_response(problem: Problem, request_id: str) -> web.Response:
    """A response that no middleware and no signal sees."""
    headers = {REQUEST_ID: request_id, "Server": SERVER_NAME, **problem.headers, **SECURE_HEADERS}
    return json_response(problem_body(problem, request_id), status=problem.status, headers=headers)


class JsonErrorServer(web.Server):
    def __init__(self, *arguments: Any, places: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.places = places
        self.malformed = MalformedLog()

    def __call__(self) -> RequestHandler:
        return JsonErrorHandler(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """An `AppRunner` with a `JsonErrorHandler` for each connection that gets a place."""

    def __init__(self, app: web.Application, *, shutdown_timeout_s: float, places: Connections | None = None) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout_s, **_HTTP_LIMITS)
        self.places = Connections() if places is None else places

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return JsonErrorServer(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            places=self.places,
            **plain._kwargs,  # noqa: SLF001 - AppRunner offers no way to name the protocol class
        )
