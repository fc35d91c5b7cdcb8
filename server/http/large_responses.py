"""Sends large responses in pieces, at the speed of the client, within a memory budget."""

import asyncio
from contextlib import AbstractContextManager, nullcontext

import structlog
from aiohttp import Payload, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from server.http import keys

PIECE = 64 * 1024
"""Bytes of one write. aiohttp writes a whole body at once, and the transport copies what the client has not taken."""
STALL_S = 60.0
"""A client that takes longer for a piece counts as gone."""

log = structlog.get_logger(__name__)


async def send_large(request: web.Request, response: web.Response) -> None:
    """Send a response larger than a piece within the memory budget. Raises `RateLimited` and `Unavailable`."""
    body = response.body
    if not isinstance(body, bytes) or len(body) <= PIECE or request.method == hdrs.METH_HEAD:
        return
    with reserve_memory(request, len(body)):
        response.body = _Pieces(body)
        try:
            await response.prepare(request)
            await response.write_eof()
        except TimeoutError:
            log.info("answer_stalled", path=request.path)
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            log.debug("answer_left", path=request.path)
        finally:
            response.body = None  # aiohttp keeps the response until the next request on its connection


def reserve_memory(request: web.Request, size: int) -> AbstractContextManager[None]:
    """Reserve memory for a large body. Raises `RateLimited` and `Unavailable`.

    The budget applies to GET only: a client would repeat a POST that was refused after it succeeded. It does not apply
    to public responses, whose bytes all clients share.
    """
    principal = request.get(keys.PRINCIPAL)
    if principal is None or request.method != hdrs.METH_GET:
        return nullcontext()
    return request.app[keys.RESPONSE_MEMORY].reserve(principal.user_id, size)


class _Pieces(Payload):
    """A body in memory, written piece by piece. Raises `TimeoutError` when the client reads nothing."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._body = memoryview(body)
        self._size = len(body)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, len(self._body), PIECE):
            async with asyncio.timeout(STALL_S):
                await writer.write(self._body[start : start + PIECE])

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._body).decode(encoding, errors)
