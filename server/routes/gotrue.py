"""`/auth/v1`: the embedded accounts for clients of Supabase Auth (supabase-js and its like), for development.

What such a client sends as `apikey` is not looked at: it tells projects apart, and there is one here.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel

from server import __version__
from server.auth.gotrue.refusals import API_VERSION, GoTrueRefusal, word
from server.auth.principal import Principal
from server.auth.tokens import bearer_token
from server.errors import RateLimited, Unauthenticated
from server.http import keys
from server.http.bodies import read_json
from server.http.middlewares import limited_by_address, public
from server.http.responses import json_response
from server.openapi import parts
from server.openapi.compatible_objects import GoTrueForm, GoTrueSession, GoTrueUser
from server.openapi.operation import Operation, Route

MAX_BODY_BYTES = 16 * 1024
_KEY = "sb_"
_NO_CONTENT = 204

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.Response]]


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
        _route("GET", "/user", get_user, "The current user", GoTrueUser, needs_token=True),
        _route("PUT", "/user", update_user, "Change the user", GoTrueUser, body=GoTrueForm, needs_token=True),
        _route("POST", "/logout", sign_out, "End sessions, by `scope`", query=scope, needs_token=True),
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
    needs_token: bool = False,
) -> Route:
    """`answer` is its model, or an example of what has none; without one there is nothing to say."""
    if answer is None:
        answers = {"204": parts.empty_answer("Done.")}
    elif isinstance(answer, type):
        answers = {"200": parts.json_answer("Done.", answer)}
    else:
        answers = {"200": parts.json_answer("Done.", {"type": "object"}, examples={"example": answer})}
    name = "jwks" if handler is public_keys else handler.__name__
    operation = Operation(
        f"gotrue_{name}", summary, answers, _ABOUT, () if query is None else (query,), body, needs_token=needs_token
    )
    return Route("Supabase Auth", method, f"/auth/v1{path}", handler, operation)


def _worded(handler: Handler) -> Handler:
    """Answer a refusal in the form that the client reads."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except GoTrueRefusal as refusal:
            wording = word(refusal, version=request.headers.get(API_VERSION))
            return json_response(wording.body, status=wording.status, headers=wording.headers)

    return answer


@limited_by_address
@_worded
async def sign_up(request: web.Request) -> web.Response:
    return json_response(await request.app[keys.GOTRUE].sign_up(await _read_form(request)))


@limited_by_address
@_worded
async def token(request: web.Request) -> web.Response:
    """A session for a password, or for a refresh token."""
    form = await _read_form(request)
    match request.query.get("grant_type"):
        case "password":
            return json_response(await request.app[keys.GOTRUE].sign_in(form))
        case "refresh_token":
            return json_response(await request.app[keys.GOTRUE].refresh(form))
        case _:
            raise GoTrueRefusal(400, "invalid_credentials", "unsupported_grant_type")


@limited_by_address
@_worded
async def recover(request: web.Request) -> web.Response:
    """The same for every address. Nothing is sent: the operator sets passwords, with `set-password`."""
    await _read_form(request)
    log.warning("no_mailer", fix="Nobody is sent an e-mail: set a password with `python -m server set-password`.")
    return json_response({})


@public
@_worded
async def sign_out(request: web.Request) -> web.Response:
    principal = await _signed_in(request)
    await request.app[keys.GOTRUE].sign_out(principal, request.query.get("scope", "global"))
    return web.Response(status=_NO_CONTENT)


@public
@_worded
async def get_user(request: web.Request) -> web.Response:
    return json_response(await request.app[keys.GOTRUE].get_user(await _signed_in(request)))


@public
@_worded
async def update_user(request: web.Request) -> web.Response:
    principal = await _signed_in(request)
    return json_response(await request.app[keys.GOTRUE].update_user(principal, await _read_form(request)))


@public
async def settings(_request: web.Request) -> web.Response:
    """What can be done here: e-mail and password, at once."""
    return json_response(
        {
            "external": {"anonymous_users": False, "email": True, "phone": False},
            "disable_signup": False,
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
    """None: tokens are signed with a secret, which is nobody's to see."""
    return json_response({"keys": []}, headers={hdrs.CACHE_CONTROL: "public, max-age=600"})


async def _read_form(request: web.Request) -> dict[str, Any]:
    """Fields that this server does not know are passed over, as GoTrue does."""
    body = await read_json(request, max_bytes=MAX_BODY_BYTES, room=request.app[keys.BODY_MEMORY])
    if not isinstance(body, dict):
        raise GoTrueRefusal(400, "bad_json", "Could not parse request body as JSON: an object is expected")
    return body


async def _signed_in(request: web.Request) -> Principal:
    """Who calls. supabase-js sends its key as the Bearer while nobody is signed in: that is no token."""
    try:
        credentials = bearer_token(request.headers.getall(hdrs.AUTHORIZATION, []))
    except Unauthenticated:
        credentials = ""
    if not credentials or credentials.startswith(_KEY) or credentials == request.headers.get("apikey"):
        raise GoTrueRefusal(401, "no_authorization", "This endpoint requires a valid Bearer token")
    try:
        principal = await request.app[keys.VERIFIER].identify(credentials)
    except Unauthenticated:
        raise GoTrueRefusal(403, "bad_jwt", "invalid JWT: unable to parse or verify signature") from None
    verdict = request.app[keys.READ_LIMITER].check(str(principal.user_id))
    if verdict is not None and not verdict.allowed:
        raise RateLimited("Request rate limit reached", retry_after_s=verdict.retry_after_s)
    return principal
