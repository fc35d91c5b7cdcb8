"""The HTTP client for Supabase Auth: bounded waits, bounded bodies, no redirects."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import hdrs, http_exceptions

from server import __version__
from server.auth.supabase.project_keys import CallCredentials
from server.encoding import dumps
from server.errors import Unavailable

API_VERSION = "2024-01-01"
TIMEOUT_S = 10.0
"""For a call with its whole answer. Supabase has the same limit."""
CONNECT_S = 4.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_CONNECTIONS = 32
MAX_CALLS = 128
"""Concurrent calls, including those that wait for a connection."""
_KEEP_ALIVE_S = 15.0
_DNS_CACHE_S = 60
_TRANSPORT_ERRORS = (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError, TimeoutError)


class NoAnswer(Exception):
    """There is no answer. `reason` tells the operator why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """An answer with any status. `body` may contain tokens; it is None if it was too large."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes | None = field(default=b"", repr=False)

    @property
    def is_success(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class GoTrue:
    """Calls paths below `base_url` (`{SUPABASE_URL}/auth/v1`). Connects at the first call."""

    def __init__(self, base_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._base_url = base_url
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_s, connect=timeout_s, sock_connect=min(CONNECT_S, timeout_s), ceil_threshold=float("inf")
        )
        self._session: aiohttp.ClientSession | None = None
        self._calls = 0

    async def call(self, method: str, path: str, credentials: CallCredentials, *, body: Any = None) -> AuthResponse:
        """The answer, with any status. Raises `NoAnswer`, and `Unavailable` beyond `MAX_CALLS`."""
        if self._calls >= MAX_CALLS:
            raise Unavailable("Too many sign-ins at once; try again.", retry_after_s=2)
        self._calls += 1
        try:
            return await self._call(method, path, credentials, body)
        except _TRANSPORT_ERRORS as error:
            raise NoAnswer(_explain(error)) from error
        finally:
            self._calls -= 1

    async def close(self) -> None:
        """Close all connections, even those in use."""
        if self._session is not None:
            await self._session.close()

    async def _call(self, method: str, path: str, credentials: CallCredentials, body: Any) -> AuthResponse:
        async with self._open_session().request(
            method,
            self._base_url + path,
            data=None if body is None else dumps(body),
            headers=credentials.headers | ({} if body is None else {hdrs.CONTENT_TYPE: "application/json"}),
            timeout=self._timeout,
            allow_redirects=False,  # keys and passwords must not go to another address
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return AuthResponse(response.status, headers, await _read(response))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=MAX_CONNECTIONS, ttl_dns_cache=_DNS_CACHE_S, keepalive_timeout=_KEEP_ALIVE_S
                ),
                headers={
                    # Not the one of a browser: the gateway rejects secret keys from browsers.
                    hdrs.USER_AGENT: f"ai-sdk-server/{__version__}",
                    hdrs.ACCEPT: "application/json",
                    hdrs.ACCEPT_ENCODING: "identity",
                    "X-Supabase-Api-Version": API_VERSION,
                    "X-Client-Info": f"ai-sdk-server/{__version__}",
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                raise_for_status=False,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            return None
    return bytes(body)


def _explain(error: BaseException) -> str:  # noqa: PLR0911 - a table
    """A fixed text: the exception's own text may quote a URL, a header or a body."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its host name does not exist (that of a paused or deleted project is removed)"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "no secure connection could be made"
        case aiohttp.ConnectionTimeoutError():
            return "it could not be reached in time"
        case TimeoutError():
            return "it did not answer in time"
        case aiohttp.ClientConnectorError():
            return "it could not be reached"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
            return "the connection was lost"
        case _:
            return f"its answer was not valid HTTP ({type(error).__name__})"
