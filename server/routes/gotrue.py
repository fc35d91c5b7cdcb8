"""`/auth/v1`: the embedded accounts for clients of Supabase Auth (supabase-js and its like), for development.

The header `apikey` of such a client is not verified: it names a project, and this server has one.
"""

from typing import Any

import structlog
from aiohttp import hdrs, web

from server import __version__
from server.auth.gotrue.error_form import GoTrueError
from server.http import keys
from server.http.bodies import read_json
from server.http.middlewares import limited_by_address, public
from server.http.responses import json_response

MAX_BODY_BYTES = 16 * 1024
_NO_CONTENT = 204

log = structlog.get_logger(__name__)


def add_routes(app: web.Application) -> None:
    app.router.add_post("/auth/v1/signup", sign_up)
    app.router.add_post("/auth/v1/token", token)
    app.router.add_post("/auth/v1/logout", sign_out)
    app.router.add_post("/auth/v1/recover", recover)
    app.router.add_get("/auth/v1/user", get_user)
    app.router.add_put("/auth/v1/user", update_user)
    app.router.add_get("/auth/v1/settings", settings)
    app.router.add_get("/auth/v1/health", health)
    app.router.add_get("/auth/v1/.well-known/jwks.json", public_keys)


@limited_by_address
async def sign_up(request: web.Request) -> web.Response:
    return json_response(await request.app[keys.GOTRUE].sign_up(await _read_form(request)))


@limited_by_address
async def token(request: web.Request) -> web.Response:
    """A session for a password, or for a refresh token."""
    form = await _read_form(request)
    match request.query.get("grant_type"):
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
    form = await _read_form(request)
    return json_response(await request.app[keys.GOTRUE].update_user(request[keys.PRINCIPAL], form))


@public
async def settings(_request: web.Request) -> web.Response:
    """Sign-up with e-mail and password, without confirmation, is the only way in."""
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
    """An empty set: tokens are signed with a secret, which stays on the server."""
    return json_response({"keys": []}, headers={hdrs.CACHE_CONTROL: "public, max-age=600"})


async def _read_form(request: web.Request) -> dict[str, Any]:
    """Unknown fields are ignored, as in GoTrue."""
    body = await read_json(request, max_bytes=MAX_BODY_BYTES, room=request.app[keys.BODY_MEMORY])
    if not isinstance(body, dict):
        raise GoTrueError(400, "bad_json", "Could not parse request body as JSON: an object is expected")
    return body
