"""Sorts database errors by what the sender of the statement can do."""

from enum import StrEnum

import asyncpg


class Fault(StrEnum):
    AWAY = "away"
    """The database cannot be reached or cannot work now; the same statement may succeed on a new connection."""
    CONTENTION = "contention"
    """A deadlock, a lock or a serialization failure: try again at once, on the same connection."""
    REJECTED = "rejected"
    """The data itself is refused; nothing but other data will help."""
    BROKEN = "broken"
    """Wrong password, missing table, a bug: an operator has to act."""


_CONTENTION = frozenset({"40001", "40P01", "55P03"})
_AWAY_CLASSES = ("08", "53", "57", "58", "XX")
_REJECTED_CLASSES = ("22", "23", "54")


def classify(error: BaseException) -> Fault:
    """Sort an exception of asyncpg or of the socket below it.

    A restart of the server can appear as InternalClientError without a SQLSTATE, and ConnectionError can come from
    asyncpg's cancellation (asyncpg issue 1310). Both mean a lost connection.
    """
    if isinstance(error, asyncpg.DataError):
        return Fault.REJECTED
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state in _CONTENTION:
            return Fault.CONTENTION
        if state == "25006" or state.startswith(_AWAY_CLASSES):
            return Fault.AWAY
        return Fault.REJECTED if state.startswith(_REJECTED_CLASSES) else Fault.BROKEN
    if isinstance(error, (OSError, TimeoutError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return Fault.AWAY
    return Fault.BROKEN
