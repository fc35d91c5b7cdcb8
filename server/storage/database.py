"""Connections to Postgres: a small pool for reads, and dedicated connections for actors that must never hang."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from traceback import walk_tb
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from server.pooling import Pooling, default_sslmode
from server.storage.faults import Fault, classify
from server.storage.hedge import connect_overlapping
from server.storage.queries import statements

CONNECT_TIMEOUT_S = 5.0
ACQUIRE_TIMEOUT_S = 2.0
STATEMENT_TIMEOUT_S = 10.0
POOL_SIZE = 4

_SESSION = {"application_name": "ai-sdk-server", "jit": "off", "timezone": "UTC", "lock_timeout": "5s"}
_POOLED_SESSION = {"application_name": "ai-sdk-server"}
"""A pooler refuses or drops settings that it does not know. No statement needs the others."""
SESSION_POOL_SIZE = 2
"""Behind a session pooler, which has few places. With the connections of the actors a single instance takes five."""
_JSONB_VERSION = b"\x01"
_NAME_MISMATCHES = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""


class DatabaseAway(Exception):
    """The statement got no answer; whether it took effect is unknown. `is_slow`: it timed out on an open connection."""

    def __init__(self, reason: str, *, is_slow: bool = False) -> None:
        super().__init__(reason)
        self.is_slow = is_slow


async def prepare_connection(connection: "asyncpg.Connection[Any]") -> None:
    """Read and write jsonb as bytes, because most of it is passed on without being parsed."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda data: _JSONB_VERSION + data,
        decoder=lambda data: data[1:],
    )


async def _keep_session(_connection: "asyncpg.Connection[Any]") -> None:
    """Skip the reset of a pooled connection: no statement sets session state, and a reset costs a round trip."""


class Database:
    """The address of the database, and the ways to connect to it."""

    def __init__(self, url: str, *, pooling: Pooling = Pooling.NONE, root_cert: Path | None = None) -> None:
        self._url = url
        self.pooling = pooling
        self._root_cert = root_cert
        self.silences = 0
        """Number of heartbeat timeouts. Connections opened before the last one may be dead."""

    def note_silence(self) -> None:
        self.silences += 1

    @property
    def place(self) -> str:
        """Host, port and database for messages, without the password."""
        try:
            parts = urlsplit(self._url)
            port = parts.port
        except ValueError:
            return "DATABASE_URL"
        options = dict(parse_qsl(parts.query))
        host = parts.hostname or options.get("host", "local socket")
        return f"{host}:{port or options.get('port', 5432)}{parts.path}"

    async def connect(self) -> "asyncpg.Connection[Any]":
        """Open a connection within `CONNECT_TIMEOUT_S`."""
        return await connect_overlapping(self._attempt)

    async def _attempt(self) -> "asyncpg.Connection[Any]":
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            self._url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            max_cached_statement_lifetime=0,
            **self._options(),
        )
        try:
            await prepare_connection(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def create_pool(self) -> "asyncpg.Pool[Any]":
        """A pool that connects at its first use, so that a server can start before its database."""
        return asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=SESSION_POOL_SIZE if self.pooling is Pooling.SESSION else POOL_SIZE,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            max_inactive_connection_lifetime=240,
            init=prepare_connection,
            reset=_keep_session,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        """Behind a transaction pooler statements are not cached: a prepared one may be on another connection."""
        options: dict[str, Any] = {"server_settings": _SESSION if self.pooling is Pooling.NONE else _POOLED_SESSION}
        if self.pooling is Pooling.TRANSACTION:
            options["statement_cache_size"] = 0
        if self._root_cert is not None:
            options["ssl"] = ssl.create_default_context(cafile=self._root_cert)
        elif (mode := default_sslmode(self._url)) is not None:
            options["ssl"] = mode
        return options


Connect = Callable[[], "Awaitable[asyncpg.Connection[Any]]"]


class DedicatedConnection:
    """The connection of one actor: runs named queries, opens when needed, and is dropped after any doubtful error.

    Actors may share one where connections are few. Their statements wait for each other; the time limit of a statement
    begins when it is sent.

    A pooled call can hang for ever under a partition, because its release waits for a cancel request that opens a
    new connection without a timeout (asyncpg issue 1326). This class drops it with `terminate()`, which cannot wait.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        timeout_s: float = STATEMENT_TIMEOUT_S,
        on_silence: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._on_silence = on_silence
        self._on_lost: Callable[[], None] = lambda: None
        self._connection: asyncpg.Connection[Any] | None = None
        self._turn = asyncio.Lock()

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` when the other end closes the connection between two statements."""
        self._on_lost = on_lost

    async def open(self) -> None:
        """Connect now, if there is no connection yet. Raises `DatabaseAway`."""
        async with self._turn:
            await self._open()

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one autocommit statement of sql/queries by its name.

        Raises `DatabaseAway` when no answer came, asyncpg's errors when one did.
        """
        async with self._turn:
            return await self._fetch(query, *args)

    async def _fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        connection = await self._open()
        call = asyncio.ensure_future(connection.fetch(statements()[query], *args))
        try:
            await asyncio.wait({call}, timeout=self._timeout_s)
            if not call.done():
                self._on_silence()
                raise DatabaseAway(f"no answer within {self._timeout_s:g} s", is_slow=True)
            return call.result()
        except BaseException as error:
            if classify(error) in {Fault.REJECTED, Fault.CONTENTION}:
                raise
            self.terminate()
            call.add_done_callback(_swallow)
            if isinstance(error, Exception) and classify(error) is Fault.AWAY:
                raise DatabaseAway(f"{type(error).__name__}: {error}") from error
            raise

    async def _open(self) -> "asyncpg.Connection[Any]":
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await self._connect()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                # An operator can correct the cause of any refusal, such as a changed password, while the actor retries.
                raise DatabaseAway(f"{type(error).__name__}: {error}") from error
            self._connection.add_termination_listener(self._lost)
        return self._connection

    def _lost(self, _connection: Any) -> None:
        if self._connection is not None and self._connection.is_closed():
            self._on_lost()

    def terminate(self) -> None:
        """Close at once, without a message to the server."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _swallow(call: "asyncio.Future[Any]") -> None:
    """Retrieve the exception of a call on a terminated connection, which was reported already."""
    if not call.cancelled():
        call.exception()


def explain_refusal(error: BaseException) -> str | None:
    """One line with the fix for an error that no retry can solve; None for any other error."""
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return "DATABASE_URL: the database refuses this user or password. Copy the connection string again."
        case asyncpg.InvalidCatalogNameError():
            return (
                "DATABASE_URL: the server has no database of that name. Create it, or correct the last part of the URL."
            )
        case ssl.SSLCertVerificationError(verify_code=code) if code in _NAME_MISMATCHES:
            return "DATABASE_URL: the certificate there is not for this host. Use the host's name that it was made for."
        case ssl.SSLCertVerificationError():
            return "DATABASE_URL: its certificate is not trusted. Set DATABASE_SSL_ROOT_CERT to the file of its CA."
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return "DATABASE_URL: the server speaks no TLS. Set sslmode=disable if the way to it is private."
        case _:
            return _explain_url(error)


def _explain_url(error: BaseException) -> str | None:
    """The same for a URL that asyncpg cannot read. Its own message is not used, because it may quote the URL."""
    match error:
        case OSError() if _is_of_the_url(error):
            return "DATABASE_URL: a file that it names cannot be used. Check sslrootcert, sslcert, sslkey and sslcrl."
        case asyncpg.ClientConfigurationError():
            return (
                "DATABASE_URL: one of its options cannot work. Check sslmode (disable, allow, prefer, require, "
                "or verify-ca and verify-full, which need sslrootcert) and what else follows the question mark."
            )
        case Exception() if _is_of_the_url(error):
            return "DATABASE_URL: cannot be read. It looks like postgresql://user:password@host:5432/database."
        case _:
            return None


def _is_of_the_url(error: BaseException) -> bool:
    """Whether asyncpg was still reading the URL and the files in it, and had not tried to connect.

    Only this distinguishes a missing certificate from the missing socket of a stopped server: both are a
    `FileNotFoundError` without a file name.
    """
    return any(frame.f_code.co_name == "_parse_connect_arguments" for frame, _ in walk_tb(error.__traceback__))
