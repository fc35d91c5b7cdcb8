"""`/auth/v1`: the embedded accounts for clients of Supabase Auth (supabase-js and its like), for development.

The header `apikey` of such a client is not verified: it names a project, and this server has one.
"""

from typing import Any

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel

from server import __version__
from server.auth.gotrue.error_form import GoTrueError
from server.http import keys
from server.http.addresses import client_ip
from server.http.bodies import read_json
from server.http.marks import Handler, limited_as_refresh, limited_by_address, public
from server.http.responses import json_response
from server.openapi import parts
from server.openapi.compatible_objects import GoTrueForm, GoTrueSession, GoTrueUser
from server.openapi.operation import Operation, Route
from server.settings import SignUps

MAX_BODY_BYTES = 16 * 1024
_NO_CONTENT = 204

log = structlog.get_logger(__name__)


_ABOUT = (
    "For clients of Supabase Auth (supabase-js and its like) in development, with its shapes and error codes. "
    "Not there where accounts are in Supabase."
)


def routes() -> tuple[Route, ...]:
    grants = {"type": "string", "enum": ["password", "refresh_token"]}
    grant = parts.query("grant_type", "The content of the body: e-mail and password, or a refresh token.", grants)
    scopes = {"type": "string", "enum": ["global", "local", "others"], "default": "global"}
    scope = parts.query("scope", "Which sessions.", scopes)
    return (
        _route("POST", "/signup", sign_up, "Sign up", GoTrueSession, body=GoTrueForm),
        _route("POST", "/token", token, "A session", GoTrueSession, body=GoTrueForm, query=grant | {"required": True}),
        _route("GET", "/user", get_user, "The current user", GoTrueUser),
        _route("PUT", "/user", update_user, "Change the user", GoTrueUser, body=GoTrueForm),
        _route("POST", "/logout", sign_out, "End sessions, by `scope`", query=scope),
        _route("POST", "/recover", recover, "Nothing: no e-mail is sent here", {}, body=GoTrueForm),
        _route("GET", "/settings", settings, "The settings of this server", {"mailer_autoconfirm": True}),
        _route("GET", "/health", health, "The name of this server", {"name": "ai-sdk-server"}),
        _route("GET", "/.well-known/jwks.json", public_keys, "Public keys: none", {"keys": []}),
    )


def _route(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answer: type[BaseModel] | parts.Schema | None = None,
    *,
    body: type[BaseModel] | None = None,
    query: parts.Schema | None = None,
) -> Route:
    """`answer` is its model, or an example of what has none; without one there is nothing to say."""
    if answer is None:
        answers = {"204": parts.empty_answer("Done.")}
    elif isinstance(answer, type):
        answers = {"200": parts.json_answer("Done.", answer)}
    else:
        answers = {"200": parts.json_answer("Done.", {"type": "object"}, examples={"example": answer})}
    name = "jwks" if handler is public_keys else handler.__name__
    operation = Operation(f"gotrue_{name}", summary, answers, _ABOUT, () if query is None else (query,), body)
    return Route("Supabase Auth", method, f"/auth/v1{path}", handler, operation)


@limited_by_address
async def sign_up(request: web.Request) -> web.Response:
    form = await _read_form(request)
    await request.app[keys.SIGN_UP_LIMIT].count(client_ip(request))
    return json_response(await request.app[keys.GOTRUE].sign_up(form))


def _grant_type(request: web.Request) -> str | None:
    return request.query.get("grant_type")


@limited_by_address
@limited_as_refresh(lambda request: _grant_type(request) == "refresh_token")
async def token(request: web.Request) -> web.Response:
    """A session for a password, or for a refresh token."""
    form = await _read_form(request)
    match _grant_type(request):
        case "password":
            return json_response(await request.app[keys.GOTRUE].sign_in(form))
        case "refresh_token":
            return json_response(await request.app[keys.GOTRUE].refresh(form))
        case _:
            raise GoTrueError(400, "invalid_credentials", "unsupported_grant_type")


@limited_by_address
async def recover(request: web.Request) -> web.Response:
    """The same answer for every address. No e-mail is sent: the operator sets passwords, with `set-password`."""
    await _read_form(request)
    log.warning("no_mailer", fix="This server sends no e-mail. Set a password with `python -m server set-password`.")
    return json_response({})


async def sign_out(request: web.Request) -> web.Response:
    await request.app[keys.GOTRUE].sign_out(request[keys.PRINCIPAL], request.query.get("scope", "global"))
    return web.Response(status=_NO_CONTENT)


async def get_user(request: web.Request) -> web.Response:
    return json_response(await request.app[keys.GOTRUE].get_user(request[keys.PRINCIPAL]))


async def update_user(request: web.Request) -> web.Response:
    """A new password ends the API keys of the user."""
    principal, form = request[keys.PRINCIPAL], await _read_form(request)
    body = await request.app[keys.GOTRUE].update_user(principal, form)
    request.app[keys.ENGINE].recheck_keys(principal.user_id)
    return json_response(body)


@public
async def settings(request: web.Request) -> web.Response:
    """Sign-up with e-mail and password, without confirmation, is the only way in."""
    return json_response(
        {
            "external": {"anonymous_users": False, "email": True, "phone": False},
            "disable_signup": request.app[keys.SETTINGS].sign_up_policy is SignUps.CLOSED,
            "mailer_autoconfirm": True,
            "phone_autoconfirm": False,
            "sms_provider": "",
            "saml_enabled": False,
        }
    )


@public
async def health(_request: web.Request) -> web.Response:
    about = "The embedded accounts of ai-sdk-server, in the shapes of Supabase Auth"
    return json_response({"version": __version__, "name": "ai-sdk-server", "description": about})


@public
async def public_keys(_request: web.Request) -> web.Response:
    """An empty set: tokens are signed with a secret, which stays on the server."""
    return json_response({"keys": []}, headers={hdrs.CACHE_CONTROL: "public, max-age=600"})


async def _read_form(request: web.Request) -> dict[str, Any]:
    """Unknown fields are ignored, as in GoTrue."""
    body = await read_json(request, max_bytes=MAX_BODY_BYTES)
    if not isinstance(body, dict):
        raise GoTrueError(400, "bad_json", "Could not parse request body as JSON: an object is expected")
    return body
