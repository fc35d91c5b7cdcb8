"""Supabase Auth behind its gateway, as far as our server calls it; its users are in the real table auth.users."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import bcrypt
import jwt
from aiohttp import hdrs, web
from aiohttp.test_utils import TestServer
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from tests.fakes.signers import Json, Signer, secret_signer

SECRET = "the jwt secret of the fake project, long enough to be one"
SIGNING_KEY = secret_signer(SECRET)
ANON, SERVICE = "sb_publishable_0123456789", "sb_secret_9876543210"
OLD_ANON = secret_signer(SECRET).token({"iss": "supabase", "ref": "abc", "role": "anon", "exp": 2**31})
OLD_SERVICE = secret_signer(SECRET).token({"iss": "supabase", "ref": "abc", "role": "service_role", "exp": 2**31})
_API_VERSION = "X-Supabase-Api-Version"


class Refusal(Exception):
    """An error of GoTrue's own."""

    def __init__(self, status: int, code: str, message: str, *, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.reasons = status, code, message, reasons


@dataclass(slots=True)
class Account:
    id: UUID
    email: str
    password_hash: str
    is_confirmed: bool = True
    is_banned: bool = False
    signed_in_at: str | None = None


@dataclass(slots=True)
class GoTrueFake:
    """What a test sets, and what it finds afterwards. `fault` answers everything, `slowness_s` comes before it."""

    pool: "asyncpg.Pool[Any]"
    autoconfirm: bool = True
    signup_disabled: bool = False
    email_enabled: bool = True
    min_length: int = 6
    signer: Signer = SIGNING_KEY
    published: tuple[Signer, ...] = ()
    anon_keys: tuple[str, ...] = (ANON, OLD_ANON)
    service_keys: tuple[str, ...] = (SERVICE, OLD_SERVICE)
    error_form: str = "by header"
    """`by header`, or what a server older than that has: `initial`, `oauth`."""
    fault: Refusal | web.Response | None = None
    drops: bool = False
    slowness_s: float = 0.0
    url: str = ""
    accounts: dict[str, Account] = field(default_factory=dict)
    sessions: dict[UUID, Account] = field(default_factory=dict)
    refresh_tokens: dict[str, tuple[UUID, bool]] = field(default_factory=dict)
    """To the session, and whether it was traded already."""
    calls: list[web.Request] = field(default_factory=list)
    mails: list[tuple[str, str]] = field(default_factory=list)

    # --- accounts ---

    async def add(self, email: str, password: str, **about: Any) -> Account:
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        return await self._insert(Account(uuid4(), email, hashed, **about))

    async def _insert(self, account: Account) -> Account:
        await self.pool.execute(
            "INSERT INTO auth.users"
            " (id, aud, role, email, encrypted_password, email_confirmed_at, created_at, updated_at)"
            " VALUES ($1, 'authenticated', 'authenticated', $2, $3, CASE WHEN $4 THEN now() END, now(), now())",
            account.id,
            account.email,
            account.password_hash,
            account.is_confirmed,
        )
        self.accounts[account.email] = account
        return account

    def session(self, account: Account, session_id: UUID | None = None) -> Json:
        session_id = session_id or uuid4()
        self.sessions[session_id] = account
        refresh_token = secrets.token_hex(6)
        self.refresh_tokens[refresh_token] = session_id, False
        account.signed_in_at = _time()
        now = int(time.time())
        claims = {
            "iss": f"{self.url}/auth/v1",
            "sub": str(account.id),
            "aud": "authenticated",
            "exp": now + 3600,
            "iat": now,
            "email": account.email,
            "role": "authenticated",
            "session_id": str(session_id),
        }
        return {
            "access_token": self.signer.token(claims),
            "token_type": "bearer",
            "expires_in": 3600,
            "expires_at": now + 3600,
            "refresh_token": refresh_token,
            "user": self.user(account),
        }

    def user(self, account: Account) -> Json:
        body = {
            "id": str(account.id),
            "aud": "authenticated",
            "role": "authenticated",
            "email": account.email,
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {},
            "identities": [{"provider": "email", "user_id": str(account.id)}],
            "created_at": _time(),
            "updated_at": _time(),
            "is_anonymous": False,
        }
        return body | ({} if account.signed_in_at is None else {"last_sign_in_at": account.signed_in_at})

    # --- routes ---

    async def sign_up(self, request: web.Request) -> Json:
        body = await request.json()
        email, password = body["email"], body["password"]
        if self.signup_disabled:
            raise Refusal(422, "signup_disabled", "Signups not allowed for this instance")
        if len(password.encode()) > 72:
            raise Refusal(400, "validation_failed", "Password cannot be longer than 72 characters")
        if len(password) < self.min_length:
            message = f"Password should be at least {self.min_length} characters."
            raise Refusal(422, "weak_password", message, reasons=("length",))
        self._require_email()
        known = self.accounts.get(email)
        if known is not None and self.autoconfirm:
            raise Refusal(422, "user_already_exists", "User already registered")
        if known is not None and known.is_confirmed:
            made_up = Account(uuid4(), email, "")
            return self.user(made_up) | {"role": "", "identities": [], "confirmation_sent_at": _time()}
        account = known or await self.add(email, password, is_confirmed=self.autoconfirm)
        if self.autoconfirm:
            return self.session(account)
        self.mails.append(("signup", email))
        return self.user(account) | {"confirmation_sent_at": _time()}

    async def token(self, request: web.Request) -> Json:
        body = await request.json()
        if request.query.get("grant_type") == "refresh_token":
            return self._refresh(body["refresh_token"])
        self._require_email()
        account = self.accounts.get(body["email"])
        if account is None or not _matches(account.password_hash, body["password"]):
            raise Refusal(400, "invalid_credentials", "Invalid login credentials")
        if account.is_banned:
            raise Refusal(400, "user_banned", "User is banned")
        if not account.is_confirmed:
            raise Refusal(400, "email_not_confirmed", "Email not confirmed")
        return self.session(account)

    def _refresh(self, token: str) -> Json:
        session_id, is_used = self.refresh_tokens.get(token, (None, False))
        account = None if session_id is None else self.sessions.get(session_id)
        if session_id is None or account is None:
            raise Refusal(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
        if account.is_banned:
            raise Refusal(400, "user_banned", "User is banned")
        if is_used:
            del self.sessions[session_id]
            raise Refusal(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
        self.refresh_tokens[token] = session_id, True
        return self.session(account, session_id)

    async def log_out(self, request: web.Request) -> None:
        session_id, account = self._signed_in(request)
        scope = request.query.get("scope", "global")
        if scope not in {"global", "local", "others"}:
            raise Refusal(400, "validation_failed", f'Unsupported logout scope "{scope}"')
        for known in [known for known, owner in self.sessions.items() if owner is account]:
            if scope == "global" or (known == session_id) == (scope == "local"):
                del self.sessions[known]

    async def get_user(self, request: web.Request) -> Json:
        return self.user(self._signed_in(request)[1])

    async def recover(self, request: web.Request) -> Json:
        email = (await request.json())["email"]
        if email in self.accounts:
            if ("recovery", email) in self.mails:
                words = "For security purposes, you can only request this after 57 seconds."
                raise Refusal(429, "over_email_send_rate_limit", words)
            self.mails.append(("recovery", email))
        return {}

    async def create_user(self, request: web.Request) -> Json:
        body = await request.json()
        if "password" in body and "password_hash" in body:
            raise Refusal(400, "validation_failed", "Only a password or a password hash should be provided")
        if body["email"] in self.accounts:
            raise Refusal(422, "email_exists", "A user with this email address has already been registered")
        hashed = body.get("password_hash", "$2a$10$" + "." * 53)
        if not hashed.startswith(("$argon2", "$2a$", "$2b$", "$2y$")):
            raise Refusal(500, "unexpected_failure", "crypto/bcrypt: hashedSecret too short to be a bcrypted password")
        is_banned = body.get("ban_duration", "none") != "none"
        account = Account(UUID(body["id"]), body["email"], hashed, body.get("email_confirm", False), is_banned)
        return self.user(await self._insert(account))

    async def invite(self, request: web.Request) -> Json:
        email = (await request.json())["email"]
        if email in self.accounts:
            raise Refusal(422, "email_exists", "A user with this email address has already been registered")
        self.mails.append(("invite", email))
        return self.user(await self._insert(Account(uuid4(), email, "", is_confirmed=False)))

    async def update_user(self, request: web.Request) -> Json:
        account = self._named(request)
        account.is_banned = (await request.json())["ban_duration"] != "none"
        return self.user(account)

    def _named(self, request: web.Request) -> Account:
        user_id = UUID(request.match_info["id"])
        account = next((account for account in self.accounts.values() if account.id == user_id), None)
        if account is None:
            raise Refusal(404, "user_not_found", "User not found")
        return account

    async def delete_user(self, request: web.Request) -> Json:
        account = self._named(request)
        del self.accounts[account.email]
        self.sessions = {session_id: owner for session_id, owner in self.sessions.items() if owner is not account}
        await self.pool.execute("DELETE FROM auth.users WHERE id = $1", account.id)
        return {}

    async def list_users(self, _request: web.Request) -> Json:
        return {"users": [self.user(account) for account in self.accounts.values()], "aud": "authenticated"}

    async def settings(self, _request: web.Request) -> Json:
        return {
            "external": {"anonymous_users": False, "email": self.email_enabled, "phone": False},
            "disable_signup": self.signup_disabled,
            "mailer_autoconfirm": self.autoconfirm,
        }

    async def keys(self, _request: web.Request) -> Json:
        return {"keys": [signer.jwk for signer in self.published]}

    def _require_email(self) -> None:
        if not self.email_enabled:
            raise Refusal(400, "email_provider_disabled", "Email signups are disabled")

    def _signed_in(self, request: web.Request) -> tuple[UUID, Account]:
        token = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
        if not token:
            raise Refusal(401, "no_authorization", "This endpoint requires a valid Bearer token")
        claims = jwt.decode(token, options={"verify_signature": False})
        session_id = UUID(claims["session_id"])
        account = next((known for known in self.accounts.values() if str(known.id) == claims["sub"]), None)
        if account is None:
            raise Refusal(403, "user_not_found", "User from sub claim in JWT does not exist")
        if session_id not in self.sessions:
            raise Refusal(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return session_id, account

    # --- the gateway, and how errors look ---

    @web.middleware
    async def gateway(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(request)
        await asyncio.sleep(self.slowness_s)
        if self.drops and request.transport is not None:
            request.transport.close()
        if isinstance(self.fault, web.Response):
            return web.Response(status=self.fault.status, body=self.fault.body, headers=self.fault.headers)
        key = request.headers.get("apikey")
        if not request.path.endswith("jwks.json") and key not in self.anon_keys + self.service_keys:
            problem = "No API key found in request" if key is None else "Invalid API key"
            return web.json_response({"message": problem, "hint": "Double check your Supabase API key."}, status=401)
        try:
            if isinstance(self.fault, Refusal):
                raise self.fault
            if ("/admin/" in request.path or request.path.endswith("/invite")) and not self._is_admin(request):
                raise Refusal(403, "not_admin", "User not allowed")
            body = await handler(request)
        except Refusal as refusal:
            return self._error(request, refusal)
        if isinstance(body, web.StreamResponse):
            return body
        return web.Response(status=204) if body is None else web.json_response(body)

    def _is_admin(self, request: web.Request) -> bool:
        """A new secret key in `apikey` is enough; an old one has to be the Bearer as well, a new one must not be."""
        key, bearer = request.headers["apikey"], request.headers.get(hdrs.AUTHORIZATION)
        return key in self.service_keys and bearer == (None if key.startswith("sb_") else f"Bearer {key}")

    def _error(self, request: web.Request, refusal: Refusal) -> web.Response:
        if self.error_form == "oauth":
            return web.json_response({"error": "invalid_grant", "error_description": refusal.message}, status=400)
        weak = {"weak_password": {"reasons": list(refusal.reasons)}} if refusal.reasons else {}
        if self.error_form == "initial" or request.headers.get(_API_VERSION) != "2024-01-01":
            body = {"code": refusal.status, "error_code": refusal.code, "msg": refusal.message, **weak}
            return web.json_response(body, status=refusal.status)
        headers = {_API_VERSION: "2024-01-01", "x-sb-error-code": refusal.code}
        body = {"code": refusal.code, "message": refusal.message, **weak}
        return web.json_response(body, status=refusal.status, headers=headers)


def _matches(hashed: str, password: str) -> bool:
    if hashed.startswith("$argon2"):
        with suppress(VerificationError):
            return PasswordHasher().verify(hashed, password)
        return False
    return bcrypt.checkpw(password.encode()[:72], hashed.encode())


def _time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456Z", time.gmtime())


@asynccontextmanager
async def serve_gotrue(
    database_url: str, extend: Callable[[web.Application], None] = lambda _: None
) -> AsyncIterator[GoTrueFake]:
    """Serves it on loopback below /auth/v1, until the end of the context; `extend` adds other services."""
    async with asyncpg.create_pool(database_url, min_size=0, max_size=2) as pool:
        fake = GoTrueFake(pool)
        app = web.Application(middlewares=[fake.gateway])
        # The gateway makes responses of what these return.
        routes: list[tuple[str, str, Any]] = [
            ("POST", "/signup", fake.sign_up),
            ("POST", "/token", fake.token),
            ("POST", "/logout", fake.log_out),
            ("GET", "/user", fake.get_user),
            ("POST", "/recover", fake.recover),
            ("GET", "/settings", fake.settings),
            ("GET", "/.well-known/jwks.json", fake.keys),
            ("GET", "/admin/users", fake.list_users),
            ("POST", "/admin/users", fake.create_user),
            ("PUT", "/admin/users/{id}", fake.update_user),
            ("DELETE", "/admin/users/{id}", fake.delete_user),
            ("POST", "/invite", fake.invite),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, f"/auth/v1{path}", handler)
        extend(app)
        async with TestServer(app) as server:
            fake.url = str(server.make_url("")).rstrip("/")
            yield fake
