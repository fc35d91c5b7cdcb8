"""Streams over HTTP: the events of one model request, and the changes of all requests of a user."""

import functools
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import hdrs, web

from server.actors.feeds import Change, Feed, change_of, recent_id
from server.auth.principal import Scope
from server.auth.tokens import bearer_token
from server.encoding import dumps
from server.errors import FieldError, Invalid, NotFound, Unauthenticated, Unavailable
from server.http import keys
from server.http.credentials import until_key_ends
from server.http.disconnects import may_be_left
from server.http.parameters import read_id, single
from server.http.request_events import send_events, send_request
from server.http.sse import FAREWELL, HEARTBEAT, encode
from server.openapi import objects, parts
from server.openapi.operation import Operation, Route
from server.requests.stream import HEARTBEAT_S, UNKNOWN, Cursor, parse_cursor
from server.schemas import invalid

_STREAM = f"""id: 1.1-0
event: status
data: {{"id":"{objects.REQUEST_ID}","status":"processing"}}

id: 1.1-9
event: delta
data: {{"segment":"output","text":"Rain taps"}}

: still here

"""
_FEED = f"""event: snapshot
data: {{"requests":[{{"id":"{objects.REQUEST_ID}","status":"processing"}}]}}

event: status
data: {{"id":"{objects.REQUEST_ID}","status":"completed"}}

"""


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Model requests")
    stream = parts.text_answer(
        "Server-sent events: `status`, `delta` (segment and text), `reset` (the text starts again), then exactly one "
        "of `completed`, `failed` or `cancelled` with the object. A server that stops first says `retry:` instead.",
        parts.EVENTS, example=_STREAM,
    )  # fmt: skip
    feed = parts.text_answer(
        "Server-sent events: `snapshot` with those that are not final, then `status` for every change.",
        parts.EVENTS, example=_FEED,
    )  # fmt: skip
    event_id = parts.TEXT | {"examples": ["1.1-14"]}
    return (
        route("GET", "/api/requests/{id}/events", stream_request, Operation(
            "stream_request", "Follow one model request to its end",
            {"200": stream, "204": parts.empty_answer("The client has had all of it.")},
            "Resumes after any event, while the request runs and after its end, on any instance.",
            parameters=(
                parts.REQUEST_ID,
                parts.query("after", "The id of the last event that was received.", event_id),
                parts.header("Last-Event-ID", "The same, as an EventSource sends it by itself."),
            ),
            problems=(NotFound, Invalid), scope=Scope.READ,
        )),
        route("GET", "/api/requests/events", stream_changes, Operation(
            "stream_changes", "Follow all requests of the user", {"200": feed},
            "It does not resume: a client that comes back gets a new snapshot. It ends with the session, the token or "
            "the API key.",
            scope=Scope.READ,
        )),
    )  # fmt: skip


@may_be_left
async def stream_request(request: web.Request) -> web.StreamResponse:
    """The events of a request after the client's position; 204 when the client has received all of them."""
    request_id = read_id(request.match_info["id"])
    after = _read_cursor(request)
    with request.app[keys.REQUESTS].follow(request_id) as subscription:
        return await send_request(request, subscription, after=after)


@may_be_left
async def stream_changes(request: web.Request) -> web.StreamResponse:
    """The changes of the user's requests: a snapshot of those not final, then each change, until the client leaves.

    The stream ends when the session, the token or the API key of the client does.
    """
    user_id = request[keys.PRINCIPAL].user_id
    with request.app[keys.FEEDS].open(user_id) as feed, until_key_ends(request, feed.end):
        rows = await request.app[keys.READER].fetch("feed_requests", [user_id], recent_id(), [])
        changes = [change_of(row) for row in rows]
        feed.begin(changes)
        snapshot = {"requests": [_public(change) for change in changes if not change.status.is_final]}
        return await send_events(request, _changes(request, feed, snapshot))


async def _has_valid_token(request: web.Request) -> bool:
    """True for a key as well, whose end is reported to the feed."""
    if request[keys.PRINCIPAL].key is not None:
        return True
    try:
        await request.app[keys.VERIFIER].identify(bearer_token(request.headers.getall(hdrs.AUTHORIZATION, [])))
    except Unauthenticated:
        return False
    except Unavailable:  # the keys of a project cannot be read at the moment
        return True
    return True


async def _changes(
    request: web.Request, feed: Feed, snapshot: dict[str, Any]
) -> AsyncGenerator[bytes | memoryview, None]:
    yield encode("snapshot", dumps(snapshot))
    while not feed.is_closed:
        changes = await feed.wait(HEARTBEAT_S)
        if not await _has_valid_token(request):
            break
        yield b"".join(encode("status", dumps(_public(change))) for change in changes) or HEARTBEAT
    yield FAREWELL


def _public(change: Change) -> dict[str, Any]:
    return {"id": change.id, "status": change.status}


def _read_cursor(request: web.Request) -> Cursor | None:
    """`?after=`, or `Last-Event-ID`. Browsers send the latter on their own, so an unknown id there is no error."""
    if "after" in request.query:
        cursor = parse_cursor(single(request, "after"))
        if cursor is None:
            raise invalid([FieldError("after", "must be the id of an event, such as 1.1-57")])
        return cursor
    last = request.headers.get("Last-Event-ID", "")
    return (parse_cursor(last) or UNKNOWN) if last else None
