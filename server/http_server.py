"""aiohttp's runner with our limits, and with JSON errors where a request is so broken that no middleware sees it."""

import asyncio
from http import HTTPStatus
from secrets import token_hex
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest

from server.encoding import dumps
from server.errors import BadSyntax, Problem, ServerFault, Unavailable
from server.middlewares import SECURE_HEADERS, SERVER_NAME, problem_body
from server.responses import json_response

KEEPALIVE_S = 75.0
"""Above the idle time of the proxies in front, so that they close first. It is also the deadline for slow headers."""
MAX_CONNECTIONS = 10_000
"""Those who wait, and a few more: each takes 15 to 30 KB, and a container has 512 MB."""
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
    """One connection. aiohttp's own answer to a malformed request echoes its bytes and logs a traceback."""

    _lost: "asyncio.Future[None] | None" = None

    @property
    def lost(self) -> "asyncio.Future[None]":
        """Done when the connection is gone; made for those who ask, which few do."""
        if self._lost is None:
            self._lost = self._loop.create_future()
            if self.transport is None:
                self._lost.set_result(None)
        return self._lost

    def connection_lost(self, exc: BaseException | None) -> None:
        """As aiohttp's, which tells no handler of it: work goes on when a client leaves, unless its route asked."""
        super().connection_lost(exc)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp's; one too many is told so without a look at what it wants."""
        is_one_too_many = len(self._manager.connections) >= MAX_CONNECTIONS if self._manager is not None else False
        super().connection_made(transport)
        if is_one_too_many:
            cast("asyncio.Transport", transport).write(_refusal())  # uvloop's are no subclass of it
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """As aiohttp's, but a broken chunk ends the read of its body at once, instead of leaving it to its timeout.

        aiohttp queues the parser's error behind the request whose body is broken, where nothing sees it.
        """
        super().data_received(data)
        request = self._current_request
        if request is None or request.content.is_eof() or not self._messages:
            return
        if isinstance(broken := self._messages[-1][0], _ErrInfo):
            broken.exc.__traceback__ = None  # as in `handle_error`
            self._messages.clear()
            request.content.set_exception(web.RequestPayloadError("malformed chunk"))
            request.content.feed_eof()
            self.close()

    async def _handle_request(self, request: BaseRequest, *rest: Any) -> tuple[web.StreamResponse, bool]:
        """As aiohttp's; then the error of a body that broke off lets go of the frames that read it, and these of it.

        Such cycles wait for the garbage collector's last generation, which comes once in hours: 200 MB of bodies did.
        """
        try:
            return await super()._handle_request(request, *rest)
        finally:
            if (error := request.content.exception()) is not None:
                error.__traceback__ = None

    async def _drain_helper(self) -> None:
        """As aiohttp's, whose frame holds the future that holds the error, without that frame: see above."""
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
        response = json_response(
            problem_body(problem, request_id),
            status=problem.status,
            headers={"X-Request-Id": request_id, "Server": SERVER_NAME, **SECURE_HEADERS},
        )
        response.force_close()
        return response


def _refusal() -> bytes:
    """A whole response, since there is no request to answer."""
    problem = Unavailable("Too many clients are connected; try again.", retry_after_s=2)
    request_id = token_hex(8)
    body = dumps(problem_body(problem, request_id))
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": request_id,
        "Server": SERVER_NAME,
        **problem.headers,
        **SECURE_HEADERS,
    }
    lines = [f"HTTP/1.1 {problem.status} Service Unavailable", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class JsonErrorServer(web.Server):
    def __call__(self) -> RequestHandler:
        return JsonErrorHandler(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """An `AppRunner` whose connections are handled by `JsonErrorHandler`."""

    def __init__(self, app: web.Application, *, shutdown_timeout_s: float) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout_s, **_HTTP_LIMITS)

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return JsonErrorServer(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,  # noqa: SLF001 - AppRunner offers no way to name the protocol class
        )
