"""Model requests over HTTP: create, list, get, wait for either, cancel, delete."""

import functools
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlencode

from aiohttp import hdrs, web

from server.actors.subscription import StreamSubscription, Subscription, View, Waiter
from server.actors.subscriptions import Subscriptions
from server.auth.principal import Scope
from server.errors import Conflict, Invalid, KeyReused, NotFound
from server.http import keys
from server.http.create_bodies import open_create_body
from server.http.disconnects import may_be_left, wait_for
from server.http.entity_tags import known_tags, opaque, weak_tag
from server.http.marks import refused_under_overload
from server.http.parameters import accepts_events, read_filters, read_id, single
from server.http.preferences import Waiting, read_preferences, read_wait_parameter
from server.http.request_events import send_request
from server.http.responses import link_to, raw_json_response
from server.model_request import RequestId, Status
from server.openapi import parts
from server.openapi.objects import CANCELLED, COMPLETED, FAILED, RUNNING, ModelRequestObject
from server.openapi.operation import Operation, Route
from server.requests.service import Created
from server.schemas import CreateRequest

_REPLAYED = "Idempotent-Replayed"

AnySubscription = TypeVar("AnySubscription", bound=Subscription)


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Model requests")
    prefer = parts.header(
        "Prefer",
        "`wait=N` holds the answer up to N seconds, `respond-async` answers at once (RFC 7240). "
        "Without it a create waits for DEFAULT_WAIT_S.",
        parts.TEXT | {"examples": ["respond-async", "wait=30"]},
    )
    etag = parts.TEXT | {"examples": ['W/"1-processing"']}
    known = parts.header("If-None-Match", "An ETag: with a wait, any change from that state ends it.", etag)
    moment = parts.TEXT | {"format": "date-time", "examples": ["2026-11-23T08:00:00Z"]}
    limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    seconds = {"type": "number", "minimum": 0, "examples": [30]}
    return (
        route("POST", "/api/requests", create, Operation(
            "create_request", "Create a model request and wait for its answer",
            {
                "200": parts.json_answer(
                    "Final: completed, or failed with error_code and error_msg.", ModelRequestObject,
                    "ETag", "Preference-Applied", _REPLAYED, examples={"completed": COMPLETED, "failed": FAILED},
                ),
                "202": parts.json_answer(
                    "Accepted, stored, and not final yet. Never an error: the work goes on.", ModelRequestObject,
                    "Location", "Retry-After", "ETag", "Preference-Applied", _REPLAYED, examples={"running": RUNNING},
                ),
            },
            "With `Accept: text/event-stream` the answer is the stream of `GET /api/requests/{id}/events`. "
            "Answered only after the request is stored: from then on it is never lost and ends exactly once.",
            parameters=(prefer, parts.IDEMPOTENCY_KEY), body=CreateRequest, problems=(KeyReused,), scope=Scope.CREATE,
        )),
        route("GET", "/api/requests", list_requests, Operation(
            "list_requests", "The user's history, newest first",
            {"200": parts.json_answer(
                "A page, as a bare array.", {"type": "array", "items": parts.ref("ModelRequest")}, "Link",
                examples={"page": [COMPLETED]},
            )},
            "The next page is the one that the Link header names; a page ends early at 4 MiB.",
            parameters=(
                parts.query("limit", "How many at most.", limit),
                parts.query("cursor", "Taken from the Link header.", parts.UUID),
                parts.query("status", "Only those in this status.", parts.ref("Status")),
                parts.query("model_type", "Only those of this model type.", parts.TEXT | {"maxLength": 64}),
                parts.query("created_after", "Only later ones.", moment),
                parts.query("created_before", "Only earlier ones.", moment),
            ),
            problems=(Invalid,), scope=Scope.READ,
        )),
        route("GET", "/api/requests/{id}", get, Operation(
            "get_request", "One model request, now or as soon as it is final",
            {
                "200": parts.json_answer(
                    "As it stands.", ModelRequestObject, "ETag", "Preference-Applied",
                    examples={"completed": COMPLETED, "running": RUNNING, "failed": FAILED},
                ),
                "304": parts.empty_answer("Still in the state that If-None-Match names.", "ETag", "Preference-Applied"),
            },
            parameters=(parts.REQUEST_ID, parts.query("wait", "Seconds to wait for the end.", seconds), prefer, known),
            problems=(NotFound, Invalid), scope=Scope.READ,
        )),
        route("DELETE", "/api/requests/{id}", delete, Operation(
            "delete_request", "Forget a model request", {"204": parts.empty_answer("It is gone, with its files.")},
            "One that runs is cancelled first.", parameters=(parts.REQUEST_ID,), problems=(NotFound,),
            scope=Scope.CREATE,
        )),
        route("POST", "/api/requests/{id}/cancel", cancel, Operation(
            "cancel_request", "Cancel a model request",
            {
                "200": parts.json_answer(
                    "Cancelled, now or before; text that had come is kept, marked as partial.", ModelRequestObject,
                    "ETag", examples={"cancelled": CANCELLED},
                ),
                "202": parts.json_answer(
                    "Asked for; the instance that runs it has not answered yet.", ModelRequestObject,
                    "Location", "Retry-After", "ETag", examples={"running": RUNNING},
                ),
            },
            "The call to the model is stopped, wherever it runs.", parameters=(parts.REQUEST_ID,),
            problems=(NotFound, Conflict), scope=Scope.CREATE,
        )),
    )  # fmt: skip


@refused_under_overload
@may_be_left
async def create(request: web.Request) -> web.StreamResponse:
    """Accept a model request; hold the answer until it is final, as long as the client wants to wait, or stream it.

    The work goes on if the client leaves.
    """
    settings = request.app[keys.SETTINGS]
    waiting = read_preferences(
        request.headers.getall("Prefer", []), default_s=settings.default_wait_s, max_s=settings.max_wait_s
    )
    if accepts_events(request):
        with await _create(request, waiting, StreamSubscription) as created:
            headers = _replay_headers(created) | {hdrs.LOCATION: _location(request, created.subscription.request_id)}
            return await send_request(request, created.subscription, headers=headers)
    with await _create(request, waiting, Waiter) as created:
        return await _answer(request, created, waiting)


async def _create(
    request: web.Request, waiting: Waiting, subscribe: Callable[[Subscriptions, RequestId], AnySubscription]
) -> Created[AnySubscription]:
    """The body lives in this call alone: a client that waits for its answer holds no prompt."""
    async with open_create_body(request) as body:
        created = await request.app[keys.REQUESTS].create(
            request[keys.PRINCIPAL].user_id,
            body.data,
            sent=body.data,
            key=body.key,
            digests=body.digests,
            subscribe=subscribe,
            may_be_put_off=waiting.applied == "respond-async",
            on_rate=functools.partial(request.__setitem__, keys.RATE_LIMIT),
        )
    request[keys.MODEL_REQUEST_ID] = created.subscription.request_id
    return created


async def _answer(request: web.Request, created: Created[Waiter], waiting: Waiting) -> web.Response:
    """200 with the final object, or 202 with the current one when the wait ends first."""
    user_id, service, waiter = request[keys.PRINCIPAL].user_id, request.app[keys.REQUESTS], created.subscription
    if created.is_replayed:
        waiter.seen = await service.get(user_id, waiter.request_id)
    is_over = waiting.seconds <= 0 or (waiter.seen is not None and waiter.seen.status.is_final)
    view = waiter.seen if is_over else await wait_for(request, waiter, waiting.seconds)
    if view is None or view.body is None:
        view = await service.last_known(user_id, waiter)
    headers = {hdrs.ETAG: _etag(view)} | waiting.headers | _replay_headers(created)
    if view.status.is_final:
        return raw_json_response(view.body or b"", headers=headers)
    headers |= {
        hdrs.LOCATION: _location(request, waiter.request_id),
        hdrs.RETRY_AFTER: str(max(1, math.ceil(created.delay_s))),
    }
    return raw_json_response(view.body or b"", status=HTTPStatus.ACCEPTED, headers=headers)


@may_be_left
async def get(request: web.Request) -> web.StreamResponse:
    """One model request; with a wait, as soon as it is final, or at any change from what `If-None-Match` names."""
    user_id, service = request[keys.PRINCIPAL].user_id, request.app[keys.REQUESTS]
    max_wait_s = request.app[keys.SETTINGS].max_wait_s
    request_id = read_id(request.match_info["id"])
    waiting = read_preferences(request.headers.getall("Prefer", []), default_s=0.0, max_s=max_wait_s)
    if "wait" in request.query:
        waiting = read_wait_parameter(single(request, "wait") or "", max_s=max_wait_s)
    known = known_tags(request)
    with service.watch(request_id) as waiter:
        view = await service.get(user_id, request_id)
        if waiting.seconds > 0 and not view.status.is_final and (not known or opaque(_etag(view)) in known):
            waiter.seen = view
            waiter.any_change = opaque(_etag(view)) in known
            del view  # frees its object: the waiter keeps it while there is memory
            update = await wait_for(request, waiter, waiting.seconds)
            view = update if update is not None and update.body is not None else await service.get(user_id, request_id)
    headers = {hdrs.ETAG: _etag(view)} | waiting.headers
    if opaque(_etag(view)) in known:
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return raw_json_response(view.body or b"", headers=headers)


async def list_requests(request: web.Request) -> web.Response:
    """A page of the user's history as a bare array, newest first; the next page is named in `Link`."""
    filters = read_filters(request)
    page = await request.app[keys.REQUESTS].page(request[keys.PRINCIPAL].user_id, filters)
    headers: dict[str, str] = {}
    if page.next_cursor is not None:
        query = {name: value for name, value in request.query.items() if name != "cursor"}
        path = f"{request.path}?{urlencode(query | {'cursor': str(page.next_cursor)})}"
        headers[hdrs.LINK] = f'<{link_to(request, path)}>; rel="next"'
    return raw_json_response(b"[" + b",".join(page.objects) + b"]", headers=headers)


async def cancel(request: web.Request) -> web.Response:
    """200 with the cancelled object, also when it was cancelled before; 202 while its owner is still to be reached.

    409 when it had ended otherwise, or did so first.
    """
    request_id = read_id(request.match_info["id"])
    view = await request.app[keys.REQUESTS].cancel(request[keys.PRINCIPAL].user_id, request_id)
    headers: dict[str, str] = {hdrs.ETAG: _etag(view)}
    if not view.status.is_final:
        headers |= {hdrs.LOCATION: _location(request, request_id), hdrs.RETRY_AFTER: "1"}
        return raw_json_response(view.body or b"", status=HTTPStatus.ACCEPTED, headers=headers)
    if view.status is not Status.CANCELLED:
        raise Conflict(f"This request is {view.status} already; there is nothing to cancel.")
    return raw_json_response(view.body or b"", headers=headers)


async def delete(request: web.Request) -> web.Response:
    """Remove the request with its files. One that runs is cancelled first, so that its readers see an end."""
    await request.app[keys.REQUESTS].delete(request[keys.PRINCIPAL].user_id, read_id(request.match_info["id"]))
    return web.Response(status=HTTPStatus.NO_CONTENT)


def _location(request: web.Request, request_id: RequestId) -> str:
    """The reference to a request, with the prefix that the client uses."""
    prefix = "/api" if request.path.startswith("/api/") else ""
    return link_to(request, f"{prefix}/requests/{request_id}")


def _replay_headers(created: Created[AnySubscription]) -> dict[str, str]:
    return {_REPLAYED: "true"} if created.is_replayed else {}


def _etag(view: View) -> str:
    return weak_tag(f"{view.epoch}-{view.status}")
