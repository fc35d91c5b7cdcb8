"""For calls that wait for something on behalf of their client: they end when it leaves."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from aiohttp import web

from server.actors.subscription import View, Waiter
from server.http.server import JsonErrorHandler

LEFT = 499
"""The status of a call whose client left, which is seen in the log only."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ClientLeft(Exception):
    """There is nobody to answer any more."""


def may_be_left(handler: Handler) -> Handler:
    """Let the client's leaving end the handler, as `wait_for` and `while_connected` notice it."""

    @functools.wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ClientLeft:
            return web.Response(status=LEFT)

    return handle


async def wait_for(request: web.Request, waiter: Waiter, timeout_s: float) -> View | None:
    """As `Waiter.wait`. Raises `ClientLeft`: who waits for a client that left takes the place of one that did not."""
    lost = _lost(request)

    def leave(_: "asyncio.Future[None]") -> None:
        waiter.tell(None)

    lost.add_done_callback(leave)
    try:
        view = await waiter.wait(timeout_s)
    finally:
        lost.remove_done_callback(leave)
    if lost.done():
        raise ClientLeft
    return view


@contextlib.asynccontextmanager
async def while_connected(request: web.Request) -> AsyncIterator[None]:
    """Run the block while the client is connected; when it leaves, stop the block and raise `ClientLeft`.

    aiohttp cancels no handler here, since most work goes on without its client. The block is stopped as by
    `asyncio.timeout`, at whatever it waits for.
    """
    lost = _lost(request)
    stay = asyncio.timeout(None)

    def leave(_: "asyncio.Future[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the block has ended in the meantime
            stay.reschedule(asyncio.get_running_loop().time())

    try:
        async with stay:
            lost.add_done_callback(leave)
            yield
    except TimeoutError:
        if stay.expired():
            raise ClientLeft from None
        raise
    finally:
        lost.remove_done_callback(leave)


def _lost(request: web.Request) -> "asyncio.Future[None]":
    """Done when the connection is lost."""
    return cast("JsonErrorHandler", request.protocol).lost  # Runner makes no others
