"""HTTP to Supabase Auth: one pooled session, every wait bounded, nothing read without end, no redirect followed."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import hdrs, http_exceptions

from server import __version__
from server.auth.supabase.project_keys import Credentials
from server.encoding import dumps
from server.errors import Unavailable

API_VERSION = "2024-01-01"
TIMEOUT_S = 10.0
"""For a call and its whole answer; Supabase gives up after the same time."""
CONNECT_S = 4.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_CONNECTIONS = 32
MAX_CALLS = 128
"""Under way at once, those that wait for a connection included."""
_KEEP_ALIVE_S = 15.0
_DNS_CACHE_S = 60
_TRANSPORT_ERRORS = (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError, TimeoutError)


class NoAnswer(Exception):
    """There is no answer, and `reason` is why, in words for the operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """Whatever came back. `body` may hold tokens; None stands for one that was too large to read."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes | None = field(default=b"", repr=False)

    @property
    def is_success(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class GoTrue:
    """Calls paths below `base_url` (`{SUPABASE_URL}/auth/v1`). It connects when it is first used."""

    def __init__(self, base_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._base_url = base_url
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_s, connect=timeout_s, sock_connect=min(CONNECT_S, timeout_s), ceil_threshold=float("inf")
        )
        self._session: aiohttp.ClientSession | None = None
        self._calls = 0

    async def call(self, method: str, path: str, credentials: Credentials, *, body: Any = None) -> Answer:
        """The answer, whatever its status. Raises `NoAnswer`, and `Unavailable` while too many calls are under way."""
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
        """Close all connections, those in use included."""
        if self._session is not None:
            await self._session.close()

    async def _call(self, method: str, path: str, credentials: Credentials, body: Any) -> Answer:
        async with self._open_session().request(
            method,
            self._base_url + path,
            data=None if body is None else dumps(body),
            headers=credentials.headers | ({} if body is None else {hdrs.CONTENT_TYPE: "application/json"}),
            timeout=self._timeout,
            allow_redirects=False,  # keys and passwords are for this address only
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, await _read(response))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=MAX_CONNECTIONS, ttl_dns_cache=_DNS_CACHE_S, keepalive_timeout=_KEEP_ALIVE_S
                ),
                headers={
                    # Not a browser's: the gateway refuses secret keys to those.
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
    """Words without what the exception quotes, which may be a URL, a header, or a body."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its name is not known (a project that was paused or deleted has none)"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "no secure connection could be made"
        case aiohttp.ConnectionTimeoutError():
            return "it could not be reached in time"
        case TimeoutError():
            return "it did not answer in time"
        case aiohttp.ClientConnectorError():
            return "it could not be reached"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
            return "the connection broke off"
        case _:
            return f"its answer was not valid HTTP ({type(error).__name__})"
