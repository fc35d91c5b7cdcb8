"""Writes server-sent events (WHATWG HTML, 9.2), at the speed of the client."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from server.encoding import escape_separators
from server.http import keys
from server.http.interruptible import Interruptible

STALL_S = 150.0
"""A client that takes longer for one write counts as gone."""
RETRY_MS = 1000
"""The delay after which a client reconnects when the server stopped."""
FAREWELL = b"retry: %d\n\n" % RETRY_MS
"""The last bytes of a server that stops before the end of a stream."""
MAX_PIECE = 64 * 1024
"""Bytes of one write, so that little is buffered for a client that does not read."""
HEARTBEAT = b": still here\n\n"
"""A comment: it keeps the connection alive and triggers no event handler."""

log = structlog.get_logger(__name__)


def encode(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event; `data` is JSON without line breaks."""
    head = f"event: {name}\ndata: " if event_id is None else f"id: {event_id}\nevent: {name}\ndata: "
    return b"%b%b\n\n" % (head.encode(), escape_separators(data))


def encode_large(name: str, data: bytes, event_id: str) -> Iterator[bytes | memoryview]:
    """One event in pieces. The data is copied only if it holds separators to escape."""
    yield b"id: %b\nevent: %b\ndata: " % (event_id.encode(), name.encode())
    view = memoryview(escape_separators(data))
    for start in range(0, len(view), MAX_PIECE):
        yield view[start : start + MAX_PIECE]
    yield b"\n\n"


class EventStream:
    """The response to one client. It begins when the first bytes are sent."""

    def __init__(self, request: web.Request, *, headers: dict[str, str] | None = None) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._writing_since: float | None = None
        self._timer: asyncio.TimerHandle
        self._response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
                hdrs.CACHE_CONTROL: "no-store, no-transform",
                "X-Accel-Buffering": "no",  # a proxy in front must not collect it
                **(headers or {}),
            }
        )

    async def send(self, chunks: AsyncGenerator[bytes | memoryview, None]) -> web.StreamResponse:
        """Write all chunks; nothing for HEAD. A disconnected client ends the stream without an error.

        The stream also ends when the credential of the client is revoked.
        """
        if self._request.version < HttpVersion11:
            self._response.force_close()  # only the end of the connection ends it
        self._check_stall()
        try:
            await self._response.prepare(self._request)
            async with contextlib.aclosing(chunks), Interruptible() as block:
                with self._request.app[keys.REVOCATIONS].watch(self._request[keys.PRINCIPAL], block.stop):
                    if self._request.method != hdrs.METH_HEAD:
                        await self._write_all(chunks)
            self._writing_since = self._loop.time()
            await self._response.write_eof()
        except ConnectionError:
            log.debug("stream_left", path=self._request.rel_url.path)
        finally:
            self._timer.cancel()
        return self._response

    async def _write_all(self, chunks: AsyncGenerator[bytes | memoryview, None]) -> None:
        async for chunk in chunks:
            self._writing_since = self._loop.time()
            await self._response.write(chunk)
            self._writing_since = None

    def _check_stall(self) -> None:
        """Abort a write that hangs. One timer per stream: a timer per write would cost as much as the write."""
        self._timer = self._loop.call_later(STALL_S / 10, self._check_stall)
        since, transport = self._writing_since, self._request.transport
        if since is not None and transport is not None and self._loop.time() - since > STALL_S:
            log.info("stream_stalled", path=self._request.rel_url.path)
            transport.abort()
