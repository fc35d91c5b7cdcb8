"""An exchange for a small body in memory: aiohttp's connections and parser, without the layers of `ClientSession`.

They cost a tenth of the processor time of a whole request: a new `ClientRequest`, its writer and a `ClientResponse` for
every call. Here the head of the request is made once, and head and body are sent in one write. Everything else (bodies
in parts, other addresses than the provider's own) goes through the session, with the same results and exceptions.
"""

import asyncio
import functools
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Protocol

import aiohttp
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

MAX_HEADS = 256
_SWITCHING = 101


class Answer(Protocol):
    """The part of `aiohttp.ClientResponse` that is read."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def content(self) -> StreamReader: ...


class DirectAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: StreamReader


class Head(NamedTuple):
    """A request without its body, as the connector knows it and as it is sent, up to the length of the body."""

    connector: aiohttp.BaseConnector
    request: aiohttp.ClientRequest
    data: bytes


class Heads:
    """Makes each head once. Paths and headers are few: one set for each model."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        if session.connector is None:
            raise RuntimeError("the session is closed")
        self._session = session
        self._connector = session.connector
        self.find = functools.lru_cache(MAX_HEADS)(self._make)

    def _make(self, method: str, url: str, headers: tuple[tuple[str, str], ...]) -> Head:
        """aiohttp quotes the path, adds the missing headers and refuses line breaks, as for every request.

        Raises `aiohttp.InvalidURL`.
        """
        try:
            target = URL(url)
            request = aiohttp.ClientRequest(
                method,
                target,
                headers={**self._session.headers, **dict(headers)},
                loop=asyncio.get_running_loop(),
                session=self._session,
            )
        except ValueError as error:
            raise aiohttp.InvalidURL(url) from error
        lines = [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "content-length"]
        if any(mark in line for line in lines for mark in "\r\n\0"):
            raise aiohttp.InvalidURL(url, "a header holds a line break")
        text = "\r\n".join([f"{method} {target.raw_path_qs} HTTP/1.1", *lines, "Content-Length: "])
        return Head(self._connector, request, text.encode())


class DirectExchange:
    """An async context manager with the answer, within `timeout`. Leaving it early drops the connection.

    `more_headers` are those of this call only. They must be valid.

    Raises the exceptions of `ClientSession.request`.
    """

    __slots__ = ("_body", "_connection", "_content", "_head", "_more_headers", "_protocol", "_timeout", "_timer")

    def __init__(
        self, head: Head, body: bytes, *, more_headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> None:
        self._head = head
        self._more_headers = "".join(f"{name}: {value}\r\n" for name, value in more_headers.items()).encode()
        self._body = body
        self._timeout = timeout
        self._connection: Connection | None = None
        self._protocol: ResponseHandler | None = None
        self._content: StreamReader | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> DirectAnswer:
        self._timer = asyncio.get_running_loop().call_later(self._timeout.total or 0.0, self._end)
        try:
            return await self._exchange()
        except BaseException:
            self._close()
            raise

    async def _exchange(self) -> DirectAnswer:
        connection = self._connection = await self._connect()
        protocol = self._protocol = connection.protocol
        if protocol is None or protocol.transport is None or protocol.transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        protocol.transport.write(
            b"%b%d\r\n%b\r\n%b" % (self._head.data, len(self._body), self._more_headers, self._body)
        )
        while True:
            message, content = await protocol.read()
            if message.code == _SWITCHING or message.code // 100 != 1:
                break
        self._content = content
        content.on_eof(connection.release)
        return DirectAnswer(message.code, message.headers, content)

    async def _connect(self) -> Connection:
        head = self._head
        try:
            return await head.connector.connect(head.request, traces=[], timeout=self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {head.request.url}") from error
        except UnicodeError as error:  # raised by getaddrinfo for an empty or too long label
            raise aiohttp.InvalidURL("the host is not a valid name") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Abort the connection of an unfinished answer; that of a finished one is in the pool again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None and (self._content is None or not self._content.is_eof()):
            if self._connection.transport is not None:
                self._connection.transport.abort()
            self._connection.close()

    def _end(self) -> None:
        """The time is up: whoever reads head or body gets a `TimeoutError`."""
        for reader in (self._content, self._protocol):
            if reader is not None:
                reader.set_exception(TimeoutError())
                return
