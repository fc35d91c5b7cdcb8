"""Which credentials a revocation ends, and for how long it is remembered."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from server.auth.principal import Principal
from server.auth.revocations import Revocation, Revocations
from server.model_request import UserId

NOW = datetime(2026, 11, 29, tzinfo=UTC)
HOUR = timedelta(hours=1)
USER, SESSION = UserId(uuid4()), uuid4()
TOKEN = Principal(USER, SESSION, issued_at=NOW - HOUR)
KEY = Principal(USER, issued_at=NOW - HOUR)


def blocked(subject: UUID, *, expires_at: datetime = NOW + HOUR) -> Revocation:
    return Revocation(subject, is_blocked=True, issued_before=datetime(1970, 1, 1, tzinfo=UTC), expires_at=expires_at)


def renewed(subject: UUID) -> Revocation:
    return Revocation(subject, is_blocked=False, issued_before=NOW, expires_at=NOW + HOUR)


def knowing(*rows: Revocation) -> Revocations:
    revocations = Revocations()
    revocations.update(rows, read_at=NOW)
    return revocations


def test_a_blocked_user_has_no_credentials() -> None:
    revocations = knowing(blocked(USER))
    assert revocations.is_revoked(TOKEN)
    assert revocations.is_revoked(KEY)
    assert not revocations.is_revoked(Principal(UserId(uuid4()), uuid4()))


def test_a_session_ends_alone() -> None:
    revocations = knowing(blocked(SESSION))
    assert revocations.is_revoked(TOKEN)
    assert not revocations.is_revoked(Principal(USER, uuid4()))
    assert not revocations.is_revoked(KEY)


def test_a_new_password_ends_older_keys_and_leaves_sessions_to_their_own_rows() -> None:
    revocations = knowing(renewed(USER))
    assert revocations.is_revoked(KEY)
    assert not revocations.is_revoked(Principal(USER, issued_at=NOW))
    assert not revocations.is_revoked(TOKEN)


def test_the_end_of_a_block_is_a_change_like_any_other() -> None:
    revocations = knowing(blocked(USER))
    revocations.update([renewed(USER)], read_at=NOW)
    assert not revocations.is_revoked(TOKEN)


def test_rows_go_when_they_expire_and_the_table_is_read_with_an_overlap() -> None:
    revocations = knowing(blocked(SESSION), blocked(USER, expires_at=NOW + 3 * HOUR))
    assert revocations.count == 2
    revocations.update([], read_at=NOW + 2 * HOUR)
    assert revocations.count == 1
    assert revocations.unread_since is not None
    assert revocations.unread_since < NOW + 2 * HOUR


def test_those_who_watch_are_called_once_while_they_watch() -> None:
    revocations, calls = knowing(blocked(SESSION)), list[str]()
    with revocations.watch(TOKEN, lambda: calls.append("before")):
        pass
    with revocations.watch(KEY, lambda: calls.append("during")):
        revocations.update([renewed(uuid4())], read_at=NOW)
        assert calls == ["before"]
        for _ in range(2):
            revocations.update([renewed(USER)], read_at=NOW)
    revocations.update([blocked(USER)], read_at=NOW)
    assert calls == ["before", "during"]
