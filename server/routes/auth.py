"""Accounts over HTTP: sign up, sign in, refresh, sign out, the current user, and its end."""

import functools
from typing import Any

from aiohttp import hdrs, web

from server.actors.workload import StopReason
from server.auth.accounts import Caller, Session, SignedUp, User
from server.auth.forms import Credentials, Recovery, Refresh, SignIn, SupabaseCredentials
from server.auth.tokens import bearer_token
from server.errors import Conflict, Forbidden, Unauthenticated
from server.http import keys
from server.http.addresses import client_ip
from server.http.bodies import read_json
from server.http.marks import limited_as_refresh, limited_by_address
from server.http.responses import json_response
from server.model_request import RequestId, UserId
from server.openapi import parts
from server.openapi.objects import NoticeObject, SessionObject, UnconfirmedObject, UserObject
from server.openapi.operation import Operation, Route
from server.schemas import parse
from server.storage.reader import PooledQueries

MAX_BODY_BYTES = 4096
_HISTORY_BATCH = 2000
_OK, _CREATED, _NO_CONTENT = 200, 201, 204


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Accounts")
    signed_in = parts.json_answer("Signed in.", SessionObject)
    taken = {
        "200": parts.json_answer(
            "The address has to be confirmed first (accounts in Supabase); the same for one that is taken.",
            UnconfirmedObject,
        ),
        "201": parts.json_answer("The account, signed in.", SessionObject),
    }
    signed_out = parts.empty_answer("Its tokens are void: here at once, at other instances within 5 s.")
    return (
        route("POST", "/api/auth/signup", sign_up, Operation(
            "sign_up", "Create an account", taken,
            "Accounts in Supabase may ask more of a password, and for the address to be confirmed by e-mail. "
            "403 where sign-ups are closed or need an `invite`.",
            body=Credentials, problems=(Forbidden, Conflict),
        )),
        route("POST", "/api/auth/signin", sign_in, Operation(
            "sign_in", "Sign in", {"200": signed_in},
            "An unknown address and a wrong password are answered alike, after the same time. "
            "The right password of a suspended account is answered with 403.",
            body=SignIn, problems=(Unauthenticated, Forbidden),
        )),
        route("POST", "/api/auth/refresh", refresh, Operation(
            "refresh", "Trade a refresh token for new tokens", {"200": signed_in},
            "Each refresh token works once. One that is used a second time ends its session. Beyond the rate of "
            "refreshes of an address the answer is 503 with `Retry-After`: retry, and keep the user signed in.",
            body=Refresh, problems=(Unauthenticated, Forbidden),
        )),
        route("POST", "/api/auth/signout", sign_out, Operation("sign_out", "End the session", {"204": signed_out})),
        route("POST", "/api/auth/recover", recover, Operation(
            "recover", "Ask for help with a forgotten password",
            {"200": parts.json_answer("The same whether the account exists or not.", NoticeObject)}, body=Recovery,
        )),
        route("GET", "/api/auth/user", get_user, Operation(
            "get_user", "The current user", {"200": parts.json_answer("The account.", UserObject)},
        )),
        route("DELETE", "/api/auth/user", delete_user, Operation(
            "delete_user", "Delete the account with all its requests",
            {"204": parts.empty_answer("It is deleted, and its running requests are stopped.")}, problems=(Forbidden,),
        )),
    )  # fmt: skip


@limited_by_address
async def sign_up(request: web.Request) -> web.Response:
    """Create an account: 201 and signed in, or 200 and an e-mail to confirm the address first."""
    kind = SupabaseCredentials if request.app[keys.SETTINGS].supabase_url else Credentials
    form = parse(kind, await _read_form(request))
    await request.app[keys.SIGN_UP_LIMIT].count(client_ip(request))
    accounts = request.app[keys.ACCOUNTS]
    signed_up = await accounts.sign_up(form.email, form.password, _stranger(request), invite=form.invite)
    return json_response(_signed_up_body(signed_up), status=_OK if signed_up.session is None else _CREATED)


@limited_by_address
async def sign_in(request: web.Request) -> web.Response:
    form = parse(SignIn, await _read_form(request))
    session = await request.app[keys.ACCOUNTS].sign_in(form.email, form.password, _stranger(request))
    return json_response(_session_body(session))


@limited_by_address
@limited_as_refresh(lambda _: True)
async def refresh(request: web.Request) -> web.Response:
    form = parse(Refresh, await _read_form(request))
    session = await request.app[keys.ACCOUNTS].refresh(form.refresh_token, _stranger(request))
    return json_response(_session_body(session))


@limited_by_address
async def recover(request: web.Request) -> web.Response:
    form = parse(Recovery, await _read_form(request))
    return json_response({"message": await request.app[keys.ACCOUNTS].request_recovery(form.email, _stranger(request))})


async def _read_form(request: web.Request) -> Any:
    return await read_json(request, max_bytes=MAX_BODY_BYTES)


def _stranger(request: web.Request) -> Caller:
    """The client address. An `Authorization` header is not read here."""
    address = client_ip(request)
    return Caller(address=None if address is None else str(address))


def _user(request: web.Request) -> Caller:
    return Caller(token=bearer_token(request.headers.getall(hdrs.AUTHORIZATION, [])))


async def sign_out(request: web.Request) -> web.Response:
    """End the session with its refresh tokens and access tokens."""
    await request.app[keys.ACCOUNTS].sign_out(request[keys.PRINCIPAL], _user(request))
    return web.Response(status=_NO_CONTENT)


async def get_user(request: web.Request) -> web.Response:
    user = await request.app[keys.ACCOUNTS].get_user(request[keys.PRINCIPAL], _user(request))
    return json_response(_user_body(user))


async def delete_user(request: web.Request) -> web.Response:
    """Delete the account with all its rows. Its runs stop at once here, and within a heartbeat on other instances."""
    principal = request[keys.PRINCIPAL]
    request.app[keys.ACCOUNTS].require_deletion()
    running = await request.app[keys.READER].fetch("running_requests_of_user", principal.user_id)
    await _delete_history(request.app[keys.READER], principal.user_id)
    await request.app[keys.ACCOUNTS].delete_user(principal, _user(request))
    request.app[keys.ENGINE].recheck_keys(principal.user_id)
    await request.app[keys.UPLOADS].delete_all(principal.user_id)
    for row in running:
        request.app[keys.ENGINE].workload.stop(RequestId(row["id"]), StopReason.LOST)
    return web.Response(status=_NO_CONTENT)


async def _delete_history(reader: PooledQueries, user_id: UserId) -> None:
    """In short statements: the one that deletes the account takes along what is left, and has a limit of time."""
    while len(await reader.fetch("delete_history", user_id, _HISTORY_BATCH)) == _HISTORY_BATCH:
        pass


def _signed_up_body(signed_up: SignedUp) -> dict[str, Any]:
    about = {"user": {"email": signed_up.email}} if signed_up.session is None else _session_body(signed_up.session)
    return {"message": signed_up.message, **about}


def _session_body(session: Session) -> dict[str, Any]:
    return {
        "token": session.access_token,
        "token_type": "bearer",
        "expires_in": session.expires_in,
        "expires_at": session.expires_at,
        "refresh_token": session.refresh_token,
        "user": _user_body(session.user),
    }


def _user_body(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "created_at": user.created_at,
        "last_sign_in_at": user.last_sign_in_at,
    }
