"""aiohttp's runner with our limits, and with JSON errors for malformed requests, which reach no middleware."""

import asyncio
from http import HTTPStatus
from secrets import token_hex
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo, _RequestHandler
from aiohttp.web_request import BaseRequest

from server.errors import BadSyntax, Problem, ServerFault, Unavailable
from server.http.connections import Connections, Place
from server.http.error_responses import problem_body
from server.http.response_headers import REQUEST_ID, SECURE_HEADERS, SERVER_NAME
from server.http.responses import json_response
from server.limits.rates import client_address

KEEPALIVE_S = 75.0
"""More than the idle time of proxies, so that they close first. Also the time for the head of a later request."""
FIRST_REQUEST_S = 20.0
"""Time for the head of the first request."""
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
        self._is_busy = False

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

        aiohttp queues the parser's error behind the request with the malformed body, where it has no effect.
        """
        super().data_received(data)
        if not self._messages:
            return
        if not self._is_busy:
            self._is_busy = True
            self._places.begin(self)
        request = self._current_request
        if request is None or request.content.is_eof():
            return
        if isinstance(broken := self._messages[-1][0], _ErrInfo):
            broken.exc.__traceback__ = None  # as in `handle_error`
            self._messages.clear()
            request.content.set_exception(web.RequestPayloadError("malformed chunk"))
            request.content.feed_eof()
            self.close()

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
            if not self._messages:
                self._is_busy = False
                self._places.end(self)

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
            log.info("http_malformed", status=status, reason=type(exc).__name__, request_id=request_id)
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
