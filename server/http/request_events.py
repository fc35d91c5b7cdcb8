"""The events of one request as a response: for the route that creates a request and the one that streams it."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, assert_never

from aiohttp import web

from server.actors.subscription import StreamSubscription
from server.encoding import dumps
from server.http import keys
from server.http.credentials import until_key_ends
from server.http.disconnects import while_connected
from server.http.sse import FAREWELL, HEARTBEAT, MAX_PIECE, EventStream, encode, encode_large
from server.inference.events import Segment
from server.requests.stream import Cursor, RequestStream, StreamEvent
from server.transcript import Final, Part, Reset, StatusChange

_NO_CONTENT = 204


async def send_request(
    request: web.Request,
    subscription: StreamSubscription,
    *,
    after: Cursor | None = None,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """Stream the request of `subscription`; 204 when the client has received everything. It ends with the API key.

    Raises `NotFound` where the request is not this user's, and `ClientLeft`.
    """
    stream = request.app[keys.REQUESTS].stream(request[keys.PRINCIPAL].user_id, subscription, after=after)
    if not await stream.open():
        return web.Response(status=_NO_CONTENT)
    with until_key_ends(request, subscription.end):
        return await send_events(request, _encoded(stream), headers=headers)


async def send_events(
    request: web.Request, chunks: AsyncGenerator[bytes | memoryview, None], *, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Send all chunks. Raises `ClientLeft` when the client leaves, also while there is nothing to write."""
    async with while_connected(request):
        return await EventStream(request, headers=headers).send(chunks)


def encode_event(event: StreamEvent) -> bytes:
    """One event of `/api`, as server-sent bytes."""
    cursor, value = event
    match value:
        case Part():
            data: dict[str, Any] = {"segment": value.segment}
            if value.segment is Segment.TOOL_CALL:
                data |= {"index": value.number, "name": value.name}
            data["text"] = value.text
            return encode("delta", dumps(data), str(cursor))
        case StatusChange():
            return encode("status", dumps({"id": value.request_id, "status": value.status}), str(cursor))
        case Reset():
            return encode("reset", dumps({"id": value.request_id}), str(cursor))
        case Final():
            return encode(value.status, value.body, str(cursor))
    assert_never(value)


async def _encoded(stream: RequestStream) -> AsyncGenerator[bytes | memoryview, None]:
    async with contextlib.aclosing(stream.batches()) as batches:
        async for batch in batches:
            last = batch[-1] if batch else None
            if last is not None and isinstance(last.value, Final) and len(last.value.body) > MAX_PIECE:
                yield b"".join(map(encode_event, batch[:-1]))
                for piece in encode_large(last.value.status, last.value.body, str(last.cursor)):
                    yield piece
            else:
                yield b"".join(map(encode_event, batch)) or HEARTBEAT
    if not stream.is_over:
        yield FAREWELL
