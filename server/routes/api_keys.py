"""API keys over HTTP: created, listed, shown and revoked by their user."""

import functools

from aiohttp import hdrs, web

from server.auth.api_keys.api_keys import NO_KEY, NewKey
from server.auth.principal import Scope
from server.errors import Conflict, NotFound
from server.http import keys
from server.http.bodies import read_json
from server.http.parameters import read_uuid
from server.http.responses import json_response, link_to
from server.openapi import parts
from server.openapi.objects import ApiKeyObject, NewApiKeyObject
from server.openapi.operation import Operation, Route
from server.schemas import parse

MAX_BODY_BYTES = 4096


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "API keys")
    key_id = parts.path("id", "The id of the key.", parts.UUID)
    page = {"type": "array", "items": parts.ref("ApiKey")}
    return (
        route("POST", "/api/keys", create, Operation(
            "create_key", "Create an API key",
            {"201": parts.json_answer("The key. It is shown this one time.", NewApiKeyObject, "Location")},
            "A program sends the key as `Authorization: Bearer ask_…` or `X-Api-Key: ask_…` and acts as the user, "
            "within the scopes of the key. A key that a key creates has no other scopes, and does not outlast it.",
            body=NewKey, problems=(Conflict,), scope=Scope.KEYS,
        )),
        route("GET", "/api/keys", list_keys, Operation(
            "list_keys", "The API keys of the user, newest first",
            {"200": parts.json_answer("All keys that have not expired.", page)}, scope=Scope.KEYS,
        )),
        route("GET", "/api/keys/{id}", get, Operation(
            "get_key", "One API key", {"200": parts.json_answer("Without the key itself.", ApiKeyObject)},
            parameters=(key_id,), problems=(NotFound,), scope=Scope.KEYS,
        )),
        route("DELETE", "/api/keys/{id}", revoke, Operation(
            "revoke_key", "Revoke an API key",
            {"204": parts.empty_answer("It is refused from now on, and within 5 s at other instances.")},
            "Streams that were opened with the key end.", parameters=(key_id,), problems=(NotFound,), scope=Scope.KEYS,
        )),
    )  # fmt: skip


async def create(request: web.Request) -> web.Response:
    """A new key, shown once."""
    principal = request[keys.PRINCIPAL]
    new = parse(NewKey, await read_json(request, max_bytes=MAX_BODY_BYTES, user_id=principal.user_id))
    key, fields = await request.app[keys.API_KEYS].create(principal, new)
    prefix = "/api" if request.path.startswith("/api/") else ""
    headers: dict[str, str] = {hdrs.LOCATION: link_to(request, f"{prefix}/keys/{fields['id']}")}
    return json_response({**fields, "key": key}, status=201, headers=headers)


async def list_keys(request: web.Request) -> web.Response:
    found = await request.app[keys.API_KEYS].of_user(request[keys.PRINCIPAL].user_id)
    return json_response([dict(fields) for fields in found])


async def get(request: web.Request) -> web.Response:
    key_id = read_uuid(request.match_info["id"], otherwise=NO_KEY)
    return json_response(dict(await request.app[keys.API_KEYS].get(request[keys.PRINCIPAL].user_id, key_id)))


async def revoke(request: web.Request) -> web.Response:
    """Refused at once here. Other instances check the key within 5 s."""
    key_id = read_uuid(request.match_info["id"], otherwise=NO_KEY)
    await request.app[keys.API_KEYS].revoke(request[keys.PRINCIPAL].user_id, key_id)
    return web.Response(status=204)
