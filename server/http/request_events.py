"""The events of one request as a response, for the routes that create a request and those that follow one."""

import contextlib
from collections.abc import AsyncGenerator

from aiohttp import web

from server.actors.subscription import StreamSubscription
from server.http import keys
from server.http.disconnects import while_connected
from server.http.sse import FAREWELL, HEARTBEAT, MAX_PIECE, EventStream, encode, encode_large
from server.requests.stream import Cursor, RequestStream

_NO_CONTENT = 204


async def send_request(
    request: web.Request,
    follower: StreamSubscription,
    *,
    after: Cursor | None = None,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """Stream the request that `follower` follows; 204 when the client has had all of it.

    Raises `NotFound` where it is not this user's, `ClientLeft`.
    """
    stream = request.app[keys.REQUESTS].stream(request[keys.PRINCIPAL].user_id, follower, after=after)
    if not await stream.open():
        return web.Response(status=_NO_CONTENT)
    return await send_events(request, _encoded(stream), headers=headers)


async def send_events(
    request: web.Request, chunks: AsyncGenerator[bytes | memoryview, None], *, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Until there is no more, or the client leaves: a stream that has nothing to write would not notice by itself."""
    async with while_connected(request):
        return await EventStream(request, headers=headers).send(chunks)


async def _encoded(stream: RequestStream) -> AsyncGenerator[bytes | memoryview, None]:
    async with contextlib.aclosing(stream.batches()) as batches:
        async for batch in batches:
            if batch and len(batch[-1].data) > MAX_PIECE:  # the object of a long answer: all readers share its bytes
                yield b"".join(encode(name, data, str(cursor)) for cursor, name, data in batch[:-1])
                for piece in encode_large(batch[-1].name, batch[-1].data, str(batch[-1].cursor)):
                    yield piece
            else:
                yield b"".join(encode(name, data, str(cursor)) for cursor, name, data in batch) or HEARTBEAT
    if not stream.is_over:
        yield FAREWELL
