"""Model requests over HTTP: create, list, get, and wait for either."""

import math
import re
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import hdrs, web

from server import keys
from server.actors.switchboard import View, Watch
from server.admission import Admitted, Draft, fingerprint_of
from server.bodies import read_json
from server.catalog import read_create
from server.errors import BadSyntax, FieldError, NotFound, RateLimited, Unavailable
from server.history import Filters
from server.middlewares import refused_under_overload
from server.model_request import RequestId, Status, UserId, mint_id
from server.preferences import Waiting, read_preferences, read_wait_parameter
from server.responses import raw_json_response
from server.schemas import MAX_BODY_BYTES, invalid

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?", re.ASCII)
_MAX_PAGE: Final = 1000


def add_routes(app: web.Application) -> None:
    for prefix in ("/api", ""):
        app.router.add_post(f"{prefix}/requests", create)
        app.router.add_get(f"{prefix}/requests", list_requests)
        app.router.add_get(f"{prefix}/requests/{{id}}", get)


@refused_under_overload
async def create(request: web.Request) -> web.Response:
    """Accept a model request; hold the answer until it is final, as long as the client wants to wait."""
    settings = request.app[keys.SETTINGS]
    waiting = read_preferences(
        request.headers.getall("Prefer", []), default_s=settings.default_wait_s, max_s=settings.max_wait_s
    )
    request[keys.VERDICT] = request.app[keys.CREATE_LIMITER].look(str(request[keys.PRINCIPAL].user_id))
    if "Idempotency-Key" not in request.headers:
        request.app[keys.ADMISSION].require_chance()
    draft = await _read_draft(request)
    with request.app[keys.SWITCHBOARD].watch(draft.id) as watch:
        with request.app[keys.ENTRANCE].passing():
            admitted, delay_s = await _admit(request, draft, waiting)
        if admitted.is_replayed:
            return await _answer_replay(request, admitted.request_id, waiting)
        watch.seen = admitted.view
        del draft, admitted  # who waits keeps no prompt in memory
        return await _answer(request, watch, waiting, delay_s=delay_s)


async def get(request: web.Request) -> web.Response:
    """One model request; with a wait, as soon as it is final, or at any change from what `If-None-Match` names."""
    settings = request.app[keys.SETTINGS]
    request_id = _read_id(request.match_info["id"])
    waiting = read_preferences(request.headers.getall("Prefer", []), default_s=0.0, max_s=settings.max_wait_s)
    if "wait" in request.query:
        waiting = read_wait_parameter(_single(request, "wait") or "", max_s=settings.max_wait_s)
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get(hdrs.IF_NONE_MATCH, "").split(",")}
    with request.app[keys.SWITCHBOARD].watch(request_id) as watch:
        view = await _current(request, request_id)
        if waiting.seconds > 0 and not view.status.is_final and (not known - {""} or _etag(view) in known):
            watch.seen = view
            watch.any_change = _etag(view) in known
            del view
            news = await watch.wait(waiting.seconds)
            view = news if news is not None and news.body is not None else await _current(request, request_id)
    headers = {hdrs.ETAG: _etag(view)} | waiting.headers
    if _etag(view) in known:
        return web.Response(status=304, headers=headers)
    return raw_json_response(view.body or b"", headers=headers)


async def list_requests(request: web.Request) -> web.Response:
    """A page of the user's history as a bare array, newest first; the next page is named in `Link`."""
    filters = _read_filters(request)
    page = await request.app[keys.HISTORY].page(request[keys.PRINCIPAL].user_id, filters)
    headers: dict[str, str] = {}
    if page.next_cursor is not None:
        query = {name: value for name, value in request.query.items() if name != "cursor"}
        headers[hdrs.LINK] = f'<{request.path}?{urlencode(query | {"cursor": str(page.next_cursor)})}>; rel="next"'
    return raw_json_response(b"[" + b",".join(page.objects) + b"]", headers=headers)


async def _answer(request: web.Request, watch: Watch, waiting: Waiting, *, delay_s: float) -> web.Response:
    """200 with the final object, or 202 with the current one when the wait ends first."""
    view = await watch.wait(waiting.seconds) if waiting.seconds > 0 else None
    if view is None and waiting.seconds <= 0:
        view = watch.seen
    if view is None or view.body is None:
        view = await _last_known(request, watch)
    return _object_response(request, watch.request_id, view, waiting, poll_after_s=delay_s)


async def _answer_replay(request: web.Request, request_id: RequestId, waiting: Waiting) -> web.Response:
    with request.app[keys.SWITCHBOARD].watch(request_id) as watch:
        view = await _current(request, request_id)
        if waiting.seconds > 0 and not view.status.is_final:
            watch.seen = view
            del view
            await watch.wait(waiting.seconds)
            view = await _last_known(request, watch)
    return _object_response(request, request_id, view, waiting, replayed=True)


async def _last_known(request: web.Request, watch: Watch) -> View:
    """The row as it stands; while the database is away, what was last seen of it: it was accepted in any case."""
    try:
        return await _current(request, watch.request_id)
    except Unavailable:
        if watch.seen is None or watch.seen.body is None:
            raise
        return watch.seen


async def _current(request: web.Request, request_id: RequestId) -> View:
    view = await request.app[keys.HISTORY].get(request_id, request[keys.PRINCIPAL].user_id)
    if view is None:
        raise NotFound("There is no model request of yours with this id.")
    return view


def _object_response(
    request: web.Request,
    request_id: RequestId,
    view: View,
    waiting: Waiting,
    *,
    replayed: bool = False,
    poll_after_s: float = 0.0,
) -> web.Response:
    headers = {hdrs.ETAG: _etag(view)} | waiting.headers
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if view.status.is_final:
        return raw_json_response(view.body or b"", headers=headers)
    prefix = "/api" if request.path.startswith("/api/") else ""
    headers |= {
        hdrs.LOCATION: f"{prefix}/requests/{request_id}",
        hdrs.RETRY_AFTER: str(max(1, math.ceil(poll_after_s))),
    }
    return raw_json_response(view.body or b"", status=202, headers=headers)


async def _find_earlier(request: web.Request, draft: Draft) -> Admitted | None:
    """A retry is answered before any limit is asked: its request is there already, and costs nothing more."""
    if draft.key is None or draft.fingerprint is None:
        return None
    return await request.app[keys.ADMISSION].find_earlier(draft.user_id, draft.key, draft.fingerprint)


async def _admit(request: web.Request, draft: Draft, waiting: Waiting) -> tuple[Admitted, float]:
    """Take it in, unless it is there already; also returns by how many seconds its start was put off.

    A start that was put off and then not needed is returned to its user.
    """
    if (earlier := await _find_earlier(request, draft)) is not None:
        return earlier, 0.0
    delay_s = _judge_rate(request, draft.user_id, waiting)
    is_new = False
    try:
        admitted = await request.app[keys.ADMISSION].admit(draft, delay_s=delay_s)
        is_new = not admitted.is_replayed
        return admitted, delay_s
    finally:
        if delay_s > 0 and not is_new:
            request.app[keys.CREATE_LIMITER].give_back(str(draft.user_id))


def _judge_rate(request: web.Request, user_id: UserId, waiting: Waiting) -> float:
    """Queue me, don't 429 me: beyond the rate, who does not wait is accepted and starts after this many seconds."""
    limiter = request.app[keys.CREATE_LIMITER]
    verdict = limiter.check(str(user_id))
    if verdict is None:
        return 0.0
    request[keys.VERDICT] = verdict
    if verdict.allowed:
        return 0.0
    if waiting.applied == "respond-async":
        return limiter.put_off(str(user_id))
    raise RateLimited(
        "Too many requests; wait, or send 'Prefer: respond-async' to have it queued.",
        retry_after_s=verdict.retry_after_s,
    )


async def _read_draft(request: web.Request) -> Draft:
    key = _read_idempotency_key(request)
    data = await read_json(request, max_bytes=MAX_BODY_BYTES, room=request.app[keys.BODY_ROOM])
    body, input_data, parameters, model = read_create(request.app[keys.CATALOG], data)
    return Draft(
        id=mint_id(),
        user_id=request[keys.PRINCIPAL].user_id,
        model_type=body.model_type,
        model=model,
        input_data=input_data,
        parameters=parameters,
        deadline_s=body.deadline_s or request.app[keys.SETTINGS].deadline_s,
        key=key,
        fingerprint=None if key is None else fingerprint_of(data),
    )


def _read_idempotency_key(request: web.Request) -> str | None:
    """A structured-field string in quotes, or the bare key that most clients send."""
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    key = values[0]
    if len(values) == 1 and len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not _KEY.fullmatch(key):
        raise BadSyntax(
            "Idempotency-Key: send it once, 1 to 255 visible ASCII characters.",
            errors=[FieldError("Idempotency-Key", "must be one value of 1 to 255 visible ASCII characters")],
        )
    return key


def _read_id(text: str) -> RequestId:
    if not _UUID.fullmatch(text):
        raise NotFound("There is no model request of yours with this id.")
    return RequestId(UUID(text))


def _read_filters(request: web.Request) -> Filters:
    readers: dict[str, Any] = {
        "limit": _read_limit,
        "cursor": _read_cursor,
        "status": Status,
        "model_type": _read_model_type,
        "created_after": _read_time,
        "created_before": _read_time,
    }
    values, errors = {}, []
    for name in dict.fromkeys(request.query):
        if name not in readers:
            errors.append(FieldError(name[:200] or "(empty)", "is not a known parameter"))
            continue
        try:
            values[name] = readers[name](_single(request, name))
        except ValueError as error:
            message = "must be one of " + ", ".join(Status) if name == "status" else str(error)
            errors.append(FieldError(name, message))
    if errors:
        raise invalid(errors)
    return Filters(**values)


def _single(request: web.Request, name: str) -> str:
    values = request.query.getall(name)
    if len(values) > 1:
        raise invalid([FieldError(name, "must be given once")])
    return values[0]


def _read_limit(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= _MAX_PAGE:
        raise ValueError(f"must be a whole number from 1 to {_MAX_PAGE}")
    return int(text)


def _read_cursor(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise ValueError("must be taken from the Link header of the page before")
    return UUID(text)


def _read_model_type(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,64}", text, re.ASCII):
        raise ValueError("must be the name of a model type")
    return text


def _read_time(text: str) -> datetime:
    problem = "must be a time with its offset, such as 2026-11-23T08:00:00Z"
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise ValueError(problem) from None
    if moment.tzinfo is None or not 1970 <= moment.year <= 9000:  # noqa: PLR2004
        raise ValueError(problem)
    return moment


def _etag(view: View) -> str:
    return f'"{view.epoch}-{view.status}"'
