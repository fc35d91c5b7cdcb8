"""Tokens and keys that are void before they expire: of suspended and deleted accounts, and of ended sessions.

They are rows of a small table. The heartbeat reads the changes into memory, so that no request needs a query.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from server.auth.principal import Principal

_OVERLAP = timedelta(seconds=60)
"""A change becomes visible when its transaction commits, which may be later than the change was made."""
_PURGE_INTERVAL = timedelta(seconds=60)


class Revocation(NamedTuple):
    """A row of the table."""

    subject: UUID
    is_blocked: bool
    issued_before: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class _Watch:
    principal: Principal
    on_revoked: Callable[[], None]


async def _publish_nothing() -> None:
    pass


class Revocations:
    """The revocations known to this instance. An entry takes about 500 bytes, and goes when it expires."""

    def __init__(self) -> None:
        self._by_subject: dict[UUID, Revocation] = {}
        self._watches: dict[UUID, set[_Watch]] = {}
        self._read_at: datetime | None = None
        self._purged_at: datetime | None = None
        self.publish: Callable[[], Awaitable[None]] = _publish_nothing
        """Call it after a statement that revokes. Returns when this instance applies the revocation; hints others."""

    @property
    def count(self) -> int:
        return len(self._by_subject)

    def is_revoked(self, principal: Principal) -> bool:
        """Whether the credential of this principal is void.

        All are void while their user is blocked. A token with a session is void if the session has ended; one without,
        if it was issued before the last new password or the last end of all sessions. A key ends when it is deleted.
        """
        if not self._by_subject:
            return False
        session = None if principal.session_id is None else self._by_subject.get(principal.session_id)
        if session is not None and session.is_blocked:
            return True
        user = self._by_subject.get(principal.user_id)
        if user is None:
            return False
        is_old = principal.session_id is None and principal.key is None and principal.issued_at < user.issued_before
        return user.is_blocked or is_old

    @property
    def unread_since(self) -> datetime | None:
        """The time of the last reading, by the clock of the database and with an overlap. None before the first."""
        return None if self._read_at is None else self._read_at - _OVERLAP

    def update(self, rows: Iterable[Revocation], *, read_at: datetime) -> None:
        """Take in the rows that changed since `unread_since`, and call those who watch for them."""
        self._read_at = read_at
        for row in rows:
            if self._by_subject.get(row.subject) == row:
                continue
            self._by_subject[row.subject] = row
            for watch in list(self._watches.get(row.subject, ())):
                if self.is_revoked(watch.principal):
                    watch.on_revoked()
        if self._purged_at is None or read_at - self._purged_at >= _PURGE_INTERVAL:
            self._purged_at = read_at
            self._by_subject = {key: row for key, row in self._by_subject.items() if row.expires_at > read_at}

    @contextlib.contextmanager
    def watch(self, principal: Principal, on_revoked: Callable[[], None]) -> Iterator[None]:
        """Call `on_revoked` when the principal's credential is revoked during the block, or was before it."""
        watch = _Watch(principal, on_revoked)
        subjects = [subject for subject in (principal.user_id, principal.session_id) if subject is not None]
        for subject in subjects:
            self._watches.setdefault(subject, set()).add(watch)
        try:
            if self.is_revoked(principal):
                on_revoked()
            yield
        finally:
            for subject in subjects:
                self._watches[subject].discard(watch)
                if not self._watches[subject]:
                    del self._watches[subject]
