"""Whether a pooler stands between us and Postgres: by the address, or as the settings say. Pure."""

from enum import StrEnum
from urllib.parse import urlsplit

_SUPABASE_POOLERS = ".pooler.supabase.com"
_SUPABASE = (".supabase.co", ".supabase.com")
_TRANSACTION_PORT = 6543


class Pooling(StrEnum):
    """How a server connection is shared."""

    NONE = "none"
    """Nobody stands between."""
    SESSION = "session"
    """Ours for as long as we stay connected; there are few of them."""
    TRANSACTION = "transaction"
    """Another one for each transaction: no state of the session, and no named statement, outlives one."""


def find_pooling(url: str) -> Pooling:
    """By the addresses that Supabase gives out (docs: Connect to your database); anything else is taken as direct."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return Pooling.NONE
    if host.endswith(_SUPABASE) and port == _TRANSACTION_PORT:
        return Pooling.TRANSACTION
    return Pooling.SESSION if host.endswith(_SUPABASE_POOLERS) else Pooling.NONE


def default_sslmode(url: str) -> str | None:
    """`require` for Supabase's hosts, whose certificates no system knows; None where nothing is to be added."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return "require" if (parts.hostname or "").endswith(_SUPABASE) and "sslmode=" not in parts.query else None


_FULL = "The pooler has no place left: lower WORKERS, run fewer instances, or raise its pool size."
_NO_CONNECTION_LEFT = (
    "The database has no connection left for this user: lower WORKERS, run fewer instances, "
    "or raise the CONNECTION LIMIT of the role or the database, or max_connections."
)
_READ_ONLY = "The database takes no writes (a standby, or a full disk): DATABASE_URL must lead to the primary."
_NO_ANSWER = "Nothing answers: check DATABASE_URL's host, firewalls, and whether a pooler there has a place left."
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
    ("unsupported startup parameter", "DATABASE_URL leads to a pooler: set DATABASE_POOLER to session or transaction."),
    ("prepared statement", "DATABASE_URL leads to a transaction pooler: set DATABASE_POOLER=transaction."),
    ("name or service not known", "The host is not known: a project that was paused or deleted has none."),
)


def remedy_for(error: BaseException) -> str | None:
    """What an operator can do about an error on the way in; None where its words say nothing that we know."""
    words = f"{type(error).__name__}: {error}".lower()
    return next((remedy for part, remedy in _REMEDIES if part in words), None)
