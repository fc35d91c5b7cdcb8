"""Streams over HTTP: one model request as it goes on, and the changes of all requests of a user."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from server.actors.feeds import Change, Feed, change_of, recent_id
from server.actors.watches import Follower, View
from server.encoding import dumps
from server.errors import FieldError
from server.http import keys
from server.http.disconnects import may_be_left, while_connected
from server.http.parameters import read_id, single
from server.http.sse import FAREWELL, HEARTBEAT, MAX_PIECE, EventStream, encode, encode_large
from server.requests.stream import HEARTBEAT_S, UNKNOWN, Cursor, RequestStream, parse_cursor
from server.schemas import invalid
from server.transcript import Transcript

_NO_CONTENT = 204


def add_routes(app: web.Application) -> None:
    for prefix in ("/api", ""):
        app.router.add_get(f"{prefix}/requests/events", stream_changes)
        app.router.add_get(f"{prefix}/requests/{{id}}/events", stream_request)


@may_be_left
async def stream_request(request: web.Request) -> web.StreamResponse:
    """One request from where the client stands to its end; 204 when the client has had all of it."""
    request_id = read_id(request.match_info["id"])
    after = _read_cursor(request)
    with request.app[keys.SWITCHBOARD].follow(request_id) as follower:
        return await send_request(request, follower, after=after)


async def send_request(
    request: web.Request,
    follower: Follower,
    *,
    view: View | None = None,
    after: Cursor | None = None,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """Stream the request that `follower` follows, and that stands as `view` says, where that is known.

    Raises `NotFound` where it is not this user's, `ClientLeft`.
    """
    stream = open_stream(request, follower, after=after)
    if not await stream.open(view):
        return web.Response(status=_NO_CONTENT)
    return await _send(request, _request_events(stream), headers=headers)


def open_stream(request: web.Request, follower: Follower, *, after: Cursor | None = None) -> RequestStream:
    """The stream of a request for the user who asks."""
    user_id, request_id = request[keys.PRINCIPAL].user_id, follower.request_id
    history = request.app[keys.HISTORY]

    async def read_stored() -> Transcript | None:
        return await history.transcript(request_id, user_id)

    return RequestStream(
        follower,
        read_view=lambda: history.get(request_id, user_id),
        read_stored=read_stored,
        find_live=request.app[keys.ENGINE].find_transcript,
        after=after,
    )


@may_be_left
async def stream_changes(request: web.Request) -> web.StreamResponse:
    """What becomes of the user's requests: those that live first, then every change, until the client leaves."""
    user_id = request[keys.PRINCIPAL].user_id
    with request.app[keys.FEEDS].open(user_id) as feed:
        rows = await request.app[keys.READER].fetch("feed_requests", [user_id], recent_id(), [])
        changes = [change_of(row) for row in rows]
        feed.begin(changes)
        snapshot = {"requests": [_public(change) for change in changes if not change.status.is_final]}
        return await _send(request, _changes(feed, snapshot))


async def _send(
    request: web.Request, chunks: AsyncGenerator[bytes | memoryview, None], *, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Until there is no more, or the client leaves: a stream that has nothing to write would not notice by itself."""
    async with while_connected(request):
        return await EventStream(request, headers=headers).send(chunks)


async def _request_events(stream: RequestStream) -> AsyncGenerator[bytes | memoryview, None]:
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


async def _changes(feed: Feed, snapshot: dict[str, Any]) -> AsyncGenerator[bytes | memoryview, None]:
    yield encode("snapshot", dumps(snapshot))
    while not feed.is_sent_home:
        changes = await feed.wait(HEARTBEAT_S)
        yield b"".join(encode("status", dumps(_public(change))) for change in changes) or HEARTBEAT
    yield FAREWELL


def _public(change: Change) -> dict[str, Any]:
    return {"id": change.id, "status": change.status}


def _read_cursor(request: web.Request) -> Cursor | None:
    """`?after=`, or `Last-Event-ID`, which a client sends by itself: then one that cannot be ours is no error."""
    if "after" in request.query:
        cursor = parse_cursor(single(request, "after"))
        if cursor is None:
            raise invalid([FieldError("after", "must be the id of an event, such as 1.1-57")])
        return cursor
    last = request.headers.get("Last-Event-ID", "")
    return (parse_cursor(last) or UNKNOWN) if last else None
