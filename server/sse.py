"""Server-sent events out (WHATWG HTML, 9.2): formatted, written as fast as the client reads, and kept alive."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import structlog
from aiohttp import hdrs, web

from server.middlewares import dress

STALL_S = 150.0
"""How long a client may take for what is on its way to it, before it counts as gone."""
RETRY_MS = 1000
"""After which time a client comes back to a server that stopped."""
HEARTBEAT = b": still here\n\n"
"""A comment: proxies and clients see that the connection lives, no event handler does."""

log = structlog.get_logger(__name__)


def encode(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event; `data` is JSON without line breaks."""
    head = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return head + b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class EventStream:
    """The response to one client. It begins when the first bytes are sent."""

    def __init__(self, request: web.Request, *, headers: dict[str, str] | None = None) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
                hdrs.CACHE_CONTROL: "no-store, no-transform",
                "X-Accel-Buffering": "no",  # a proxy in front must not collect it
                **(headers or {}),
            }
        )

    async def send(self, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
        """Write everything; a client that went away ends it, and is no error."""
        dress(self._request, self._response)
        try:
            await self._response.prepare(self._request)
            async for chunk in chunks:
                async with asyncio.timeout(STALL_S):
                    await self._response.write(chunk)
            async with asyncio.timeout(STALL_S):
                await self._response.write_eof()
        except TimeoutError:
            log.info("stream_stalled", path=self._request.rel_url.path)
            if self._request.transport is not None:
                self._request.transport.abort()
        except ConnectionError:
            log.debug("stream_left", path=self._request.rel_url.path)
        return self._response


def farewell(chunks: Iterable[bytes] = ()) -> bytes:
    """The last words of a server that stops before the end of what it streams."""
    return b"".join([*chunks, b"retry: %d\n\n" % RETRY_MS])
