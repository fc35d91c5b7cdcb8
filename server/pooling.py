"""Detects a connection pooler from the address of the database, and explains errors of the connection. Pure."""

from enum import StrEnum
from urllib.parse import urlsplit

_SUPABASE_POOLERS = ".pooler.supabase.com"
_SUPABASE = (".supabase.co", ".supabase.com")
_TRANSACTION_PORT = 6543


class Pooling(StrEnum):
    """How the pooler assigns server connections to clients."""

    NONE = "none"
    """There is no pooler."""
    SESSION = "session"
    """One server connection for each client connection. Their number is small."""
    TRANSACTION = "transaction"
    """A server connection for each transaction, so session state and named statements do not survive one."""


def find_pooling(url: str) -> Pooling:
    """Recognises the poolers of Supabase (docs: Connect to your database). Any other address counts as direct."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return Pooling.NONE
    if host.endswith(_SUPABASE) and port == _TRANSACTION_PORT:
        return Pooling.TRANSACTION
    return Pooling.SESSION if host.endswith(_SUPABASE_POOLERS) else Pooling.NONE


def default_sslmode(url: str) -> str | None:
    """`require` for Supabase's hosts, whose CA is not in system stores. None: add no sslmode."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return "require" if (parts.hostname or "").endswith(_SUPABASE) and "sslmode=" not in parts.query else None


_FULL = "The pooler has no connection left: lower WORKERS, run fewer instances, or raise its pool size."
_NO_CONNECTION_LEFT = (
    "The database has no connection left for this user: lower WORKERS, run fewer instances, "
    "or raise the CONNECTION LIMIT of the role or the database, or max_connections."
)
_READ_ONLY = "The database accepts no writes (a standby, or a full disk): set DATABASE_URL to the primary."
_NO_ANSWER = "Nothing answers: check DATABASE_URL's host, firewalls, and whether a pooler has a free connection."
_REMEDIES = (
    ("max clients reached", _FULL),
    ("max client connections", _FULL),
    ("no more connections allowed", _FULL),
    ("query_wait_timeout", _FULL),
    ("too many connections", _NO_CONNECTION_LEFT),
    ("too many clients already", _NO_CONNECTION_LEFT),
    ("remaining connection slots", _NO_CONNECTION_LEFT),
    ("read-only transaction", _READ_ONLY),
    ("timeouterror", _NO_ANSWER),
    ("no answer within", _NO_ANSWER),
    ("tenant or user not found", "The project is paused, or the user in DATABASE_URL is not postgres.<project>."),
    (
        "unsupported startup parameter",
        "DATABASE_URL is a pooler's address: set DATABASE_POOLER=session or transaction.",
    ),
    ("prepared statement", "DATABASE_URL is the address of a transaction pooler: set DATABASE_POOLER=transaction."),
    ("name or service not known", "The host name does not exist: a paused or deleted project has none."),
)


def remedy_for(error: BaseException) -> str | None:
    """The fix for an error of a connection, found by the text of the error. None if the text is unknown."""
    words = f"{type(error).__name__}: {error}".lower()
    return next((remedy for part, remedy in _REMEDIES if part in words), None)
