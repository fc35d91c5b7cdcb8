"""Ends handlers that wait on behalf of a client when that client disconnects."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from aiohttp import web

from server.actors.subscription import View, Waiter
from server.http.interruptible import Interruptible
from server.http.server import JsonErrorHandler

LEFT = 499
"""The status of a request whose client disconnected. Only the log shows it."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ClientLeft(Exception):
    """The client disconnected before its response."""


def may_be_left(handler: Handler) -> Handler:
    """End the handler when `wait_for` or `while_connected` finds the client disconnected."""

    @functools.wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ClientLeft:
            return web.Response(status=LEFT)

    return handle


async def wait_for(request: web.Request, waiter: Waiter, timeout_s: float) -> View | None:
    """As `Waiter.wait`. Raises `ClientLeft`, so that a disconnected client holds no waiter."""
    lost = _lost(request)

    def leave(_: "asyncio.Future[None]") -> None:
        waiter.notify(None)

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
    block = Interruptible()

    def leave(_: "asyncio.Future[None]") -> None:
        block.stop()

    try:
        async with block:
            lost.add_done_callback(leave)
            yield
    finally:
        lost.remove_done_callback(leave)
    if block.is_stopped:
        raise ClientLeft


def _lost(request: web.Request) -> "asyncio.Future[None]":
    """Done when the connection is lost."""
    return cast("JsonErrorHandler", request.protocol).lost  # Runner makes no others
