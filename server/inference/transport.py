"""The connections to a model provider, and the meaning of aiohttp's exceptions."""

import asyncio
import functools
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs, http_exceptions
from aiohttp.client_proto import ResponseHandler

from server import __version__
from server.inference.body import SLICE_BYTES, PartsBody
from server.inference.direct_exchange import Answer, DirectExchange, Heads
from server.inference.protocol import UpstreamError, WireRequest
from server.inference.public_addresses import AddressInfo, NotPublic, open_public_socket
from server.inference.response_handler import BoundedResponseHandler
from server.telemetry.trace_context import HEADER, TRACEPARENT

CONNECT_S = 5.0
RESOLVE_AND_CONNECT_S = 10.0
_KEEP_ALIVE_S = 30.0
_DNS_CACHE_S = 60
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SPARE_CONNECTIONS = 8
"""In addition to generations: checks, lists of models, connections that are being closed."""

TRANSPORT_ERRORS = (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError, TimeoutError)
"""All exceptions of upstream and network faults."""


class PortNotAllowed(NotPublic):
    """The URL names another service on the provider's host."""


class Transport:
    """Sends requests: with credentials to the provider itself, without credentials to addresses that its answers name.

    Those addresses must be public, or on the provider's host, because an own server may be in a private network. There
    the port must be the provider's own, 80 or 443: at other ports are other services.
    """

    def __init__(self, base_url: str, *, credentials: Mapping[str, str], connections: int) -> None:
        parts = urlsplit(base_url)
        self._home = f"{parts.scheme}://{parts.netloc}/"
        self._host = parts.hostname
        self._ports = {parts.port, *_DEFAULT_PORTS.values()}
        self._credentials = dict(credentials)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._heads: Heads | None = None
        self._public_session: aiohttp.ClientSession | None = None

    def send(self, wire: WireRequest, *, timeout_s: float) -> AbstractAsyncContextManager[Answer]:
        """An async context manager with the answer, within `timeout_s`. Leaving it early drops the connection.

        Raises `TRANSPORT_ERRORS`, and `InputFault` if an input file could not be read.
        """
        is_at_home = wire.url.startswith(self._home) and not wire.is_foreign
        session = self._session_for(wire, is_at_home=is_at_home)
        headers = {**wire.headers, **self._credentials} if is_at_home else wire.headers
        trace = {HEADER: traceparent} if is_at_home and (traceparent := TRACEPARENT.get()) is not None else {}
        timeout = _create_timeout(timeout_s)
        body = wire.body
        if session is self._session and isinstance(body, bytes) and len(body) <= SLICE_BYTES and self._heads:
            head = self._heads.find(wire.method, wire.url, tuple(headers.items()))
            return DirectExchange(head, body, more_headers=trace, timeout=timeout)
        return _Exchange(session, wire, {**headers, **trace}, timeout=timeout)

    async def close(self) -> None:
        """Close all connections, even those in use."""
        for session in (self._session, self._public_session):
            if session is not None:
                await session.close()

    def _session_for(self, wire: WireRequest, *, is_at_home: bool) -> aiohttp.ClientSession:
        """The session for the request. Raises `NotPublic` for a URL that may not be called."""
        if is_at_home or self._is_on_own_host(wire.url):
            if self._session is None:
                self._session = _create_session(self._connections)
                self._heads = Heads(self._session)
            return self._session
        if self._public_session is None:
            self._public_session = _create_session(self._connections, socket_factory=open_public_socket)
        return self._public_session

    def _is_on_own_host(self, url: str) -> bool:
        """Raises `NotPublic` for a URL that may not be called."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise NotPublic("the address is not a valid URL") from error
        if parts.scheme not in _DEFAULT_PORTS:
            raise NotPublic("the address is not http or https")
        if parts.hostname != self._host:
            return False
        if port is not None and port not in self._ports:
            raise PortNotAllowed(f"port {port} of the provider's host is not called")
        return True


class _Exchange:
    """A class, because `asynccontextmanager` would take four times as long."""

    __slots__ = ("_body", "_request", "_response")

    def __init__(
        self,
        session: aiohttp.ClientSession,
        wire: WireRequest,
        headers: Mapping[str, str],
        *,
        timeout: aiohttp.ClientTimeout,
    ) -> None:
        self._body = _body_of(wire)
        self._request = session.request(
            wire.method,
            wire.url,
            data=self._body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,  # the credentials must not go to another address
        )

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            self._response = await self._request.__aenter__()
        except UnicodeError as error:  # raised by getaddrinfo for an empty or too long label
            raise aiohttp.InvalidURL("the host is not a valid name") from error
        except TRANSPORT_ERRORS:
            self._raise_input_fault()
            raise
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        _abort_unread(self._response)
        await self._request.__aexit__(kind, error, at)
        if isinstance(error, TRANSPORT_ERRORS):
            self._raise_input_fault()

    def _raise_input_fault(self) -> None:
        if isinstance(self._body, PartsBody) and self._body.fault is not None:
            raise self._body.fault from None


def _body_of(wire: WireRequest) -> bytes | PartsBody | None:
    """A large body in memory is also sent in slices, so that it can be interrupted."""
    if isinstance(wire.body, tuple):
        return PartsBody(wire.body)
    if wire.body is not None and len(wire.body) > SLICE_BYTES:
        return PartsBody((wire.body,))
    return wire.body


def _create_session(
    connections: int, *, socket_factory: Callable[[AddressInfo], socket.socket] | None = None
) -> aiohttp.ClientSession:
    """No cookies; no compression, which could delay tokens; no decompression by aiohttp, which has no limit."""
    connector = aiohttp.TCPConnector(
        limit=connections + _SPARE_CONNECTIONS,
        ttl_dns_cache=_DNS_CACHE_S,
        keepalive_timeout=_KEEP_ALIVE_S,
        socket_factory=socket_factory,
    )
    handler: Callable[..., ResponseHandler] = BoundedResponseHandler
    connector._factory = functools.partial(handler, loop=asyncio.get_running_loop())  # noqa: SLF001 - no public way
    return aiohttp.ClientSession(
        connector=connector,
        headers={hdrs.USER_AGENT: f"ai-sdk-server/{__version__}", hdrs.ACCEPT_ENCODING: "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        raise_for_status=False,
        auto_decompress=False,
    )


def _create_timeout(total_s: float) -> aiohttp.ClientTimeout:
    """At most `total_s`, with the body. aiohttp would round it up to whole seconds, and treat 0 as no limit."""
    return aiohttp.ClientTimeout(
        total=max(total_s, 0.001),
        connect=max(min(total_s, RESOLVE_AND_CONNECT_S), 0.001),
        sock_connect=CONNECT_S,
        ceil_threshold=float("inf"),
    )


def _abort_unread(response: aiohttp.ClientResponse) -> None:
    """Abort the connection of an unfinished response. A finished response has none."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()


def explain(error: BaseException, *, timeout_s: float, awaited: str = "answer") -> UpstreamError:
    """Translate one of `TRANSPORT_ERRORS`. The text of a timeout contains `awaited`."""
    match error:
        case NotPublic() | aiohttp.ClientConnectorError(os_error=NotPublic()) | aiohttp.InvalidURL():
            is_port = isinstance(error, PortNotAllowed)
            place = "another port than its own, 80 or 443" if is_port else "an address that is not public"
            return UpstreamError(f"The model provider left its answer at {place}.")
        case aiohttp.ClientConnectorDNSError():
            words = "The model provider's address could not be found."
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            words = "A secure connection to the model provider could not be made."
        case aiohttp.ConnectionTimeoutError():
            words = "The model provider could not be reached in time."
        case TimeoutError():
            words = f"The model did not {awaited} within {timeout_s:.3g} s."
        case aiohttp.ClientConnectorError():
            words = "The model provider could not be reached."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return UpstreamError(
                "The model provider closed the connection without an answer.", is_transient=True, is_stale=True
            )
        case aiohttp.ClientPayloadError():
            words = "The model's answer broke off before its end."
        case aiohttp.ClientResponseError() | http_exceptions.HttpProcessingError():
            words = "The model provider's answer was not valid HTTP."
        case _:
            words = "The connection to the model provider failed."
    return UpstreamError(words, is_transient=True)
