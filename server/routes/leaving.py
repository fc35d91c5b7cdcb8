"""For calls that wait for something on behalf of their client: they end when it leaves."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from aiohttp import web

from server.http_server import JsonErrorHandler

LEFT = 499
"""The status of a call whose client left, which is seen in the log only."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ClientLeft(Exception):
    """There is nobody to answer any more."""


def may_be_left(handler: Handler) -> Handler:
    """Let `while_connected` end the handler."""

    @functools.wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ClientLeft:
            return web.Response(status=LEFT)

    return handle


@contextlib.asynccontextmanager
async def while_connected(request: web.Request) -> AsyncIterator[None]:
    """Run the block while the client is connected; when it leaves, stop the block and raise `ClientLeft`.

    aiohttp cancels no handler here, since most work goes on without its client. The block is stopped as by
    `asyncio.timeout`, at whatever it waits for.
    """
    connection = cast("JsonErrorHandler", request.protocol)  # Runner makes no others
    stay = asyncio.timeout(None)

    def leave(_: "asyncio.Future[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the block has ended in the meantime
            stay.reschedule(asyncio.get_running_loop().time())

    try:
        async with stay:
            connection.lost.add_done_callback(leave)
            yield
    except TimeoutError:
        if stay.expired():
            raise ClientLeft from None
        raise
    finally:
        connection.lost.remove_done_callback(leave)
