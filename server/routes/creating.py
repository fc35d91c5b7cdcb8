"""Taking a model request in, for whichever route it comes by: limits, idempotency, admission."""

import contextlib
from typing import Any

from aiohttp import web

from server.catalog import read_create
from server.errors import Problem, RateLimited, Unavailable
from server.files.inputs import InputFiles
from server.http import keys
from server.http.bodies import read_json
from server.http.parameters import read_idempotency_key
from server.http.preferences import Waiting
from server.model_request import UserId, mint_id
from server.requests.admission import Admitted, Draft, fingerprint_of
from server.schemas import MAX_BODY_BYTES


def require_chance(request: web.Request) -> None:
    """Show what is left of the limit, and refuse early what would be refused later, unless it may be a retry."""
    user_id = request[keys.PRINCIPAL].user_id
    request[keys.VERDICT] = request.app[keys.CREATE_LIMITER].look(str(user_id))
    if "Idempotency-Key" not in request.headers:
        request.app[keys.ADMISSION].require_chance(user_id)


async def read_draft(request: web.Request) -> Draft:
    key = read_idempotency_key(request)
    user_id = request[keys.PRINCIPAL].user_id
    data = await read_json(request, max_bytes=MAX_BODY_BYTES, room=request.app[keys.BODY_ROOM], user_id=user_id)
    return make_draft(request, data, key=key, sent=data)


def make_draft(
    request: web.Request, create: Any, *, key: str | None, sent: Any, deadline_s: float | None = None
) -> Draft:
    """The draft of a create. `sent` is the body as the client sent it, which is what its key stands for."""
    body, input_data, parameters, model = read_create(request.app[keys.CATALOG], create)
    return Draft(
        id=mint_id(),
        user_id=request[keys.PRINCIPAL].user_id,
        model_type=body.model_type,
        model=model,
        input_data=input_data,
        parameters=parameters,
        deadline_s=deadline_s or body.deadline_s or request.app[keys.SETTINGS].deadline_s,
        key=key,
        fingerprint=None if key is None else fingerprint_of(sent),
    )


async def _find_earlier(request: web.Request, draft: Draft) -> Admitted | None:
    """A retry is answered before any limit is asked: its request is there already, and costs nothing more."""
    if draft.key is None or draft.fingerprint is None:
        return None
    return await request.app[keys.ADMISSION].find_earlier(draft.user_id, draft.key, draft.fingerprint)


async def admit(request: web.Request, draft: Draft, waiting: Waiting) -> tuple[Admitted, float]:
    """Take it in, unless it is there already; also returns by how many seconds its start was put off.

    A start that was put off and then not needed is returned to its user.
    """
    if (earlier := await _find_earlier(request, draft)) is not None:
        return earlier, 0.0
    delay_s = _judge_rate(request, draft.user_id, waiting)
    is_new = False
    try:
        admitted = await _store(request, draft, delay_s)
        is_new = not admitted.is_replayed
        return admitted, delay_s
    finally:
        if delay_s > 0 and not is_new:
            request.app[keys.CREATE_LIMITER].give_back(str(draft.user_id))


async def _store(request: web.Request, draft: Draft, delay_s: float) -> Admitted:
    """Store it, and that it uses its files: that comes first, so that they cannot go in between."""
    files = request.app[keys.INPUT_FILES]
    has_files = await files.attach(draft.user_id, draft.id, draft.input_data)
    try:
        admitted = await request.app[keys.ADMISSION].admit(draft, delay_s=delay_s)
    except Unavailable:
        raise  # it may have been stored, with the reply lost: if not, the use runs out by itself
    except Problem:
        await _detach(files, draft, has_files=has_files)
        raise
    if admitted.is_replayed:
        await _detach(files, draft, has_files=has_files)
    return admitted


async def _detach(files: InputFiles, draft: Draft, *, has_files: bool) -> None:
    if has_files:
        with contextlib.suppress(Unavailable):  # then the use runs out by itself
            await files.detach(draft.id)


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
