"""What the address of a database says of the way to it."""

import pytest

from server.pooling import Pooling, default_sslmode, find_pooling, remedy_for

DIRECT = "postgresql://postgres:pw@db.abcdefghijklmnopqrst.supabase.co:5432/postgres"
DEDICATED = "postgresql://postgres:pw@db.abcdefghijklmnopqrst.supabase.co:6543/postgres"
SHARED = "postgresql://postgres.abcdefghijklmnopqrst:pw@aws-0-eu-central-1.pooler.supabase.com"


@pytest.mark.parametrize(
    ("url", "pooling"),
    [
        (DIRECT, Pooling.NONE),
        (DEDICATED, Pooling.TRANSACTION),
        (f"{SHARED}:5432/postgres", Pooling.SESSION),
        (f"{SHARED}:6543/postgres", Pooling.TRANSACTION),
        (f"{SHARED}/postgres", Pooling.SESSION),
        ("postgresql://user:pw@db.example.com:6543/app", Pooling.NONE),
        ("postgresql://user:pw@supabase.co.example.com:6543/app", Pooling.NONE),
        ("postgresql://user:pw@[::1/app", Pooling.NONE),
        ("postgresql:///app?host=/run/postgresql", Pooling.NONE),
    ],
)
def test_supabase_addresses_tell_what_is_behind_them(url: str, pooling: Pooling) -> None:
    assert find_pooling(url) is pooling


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        (DIRECT, "require"),
        (f"{SHARED}:6543/postgres", "require"),
        (f"{DIRECT}?sslmode=verify-full&sslrootcert=/ca.crt", None),
        ("postgresql://user:pw@db.example.com/app", None),
        ("postgresql://user:pw@[::1/app", None),
    ],
)
def test_a_connection_to_supabase_is_never_in_the_clear(url: str, mode: str | None) -> None:
    assert default_sslmode(url) == mode


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size", "pool"),
        ("no more connections allowed (max_client_conn)", "pool"),
        ("FATAL: Tenant or user not found", "paused"),
        ("unsupported startup parameter: jit", "DATABASE_POOLER"),
        ('prepared statement "__asyncpg_stmt_1__" does not exist', "DATABASE_POOLER=transaction"),
        ("[Errno -2] Name or service not known", "paused"),
        ('too many connections for role "app"', "CONNECTION LIMIT"),
        ("sorry, too many clients already", "max_connections"),
        ("cannot execute UPDATE in a read-only transaction", "DATABASE_URL"),
        ("no answer within 10 s", "DATABASE_URL"),
    ],
)
def test_an_error_on_the_way_says_what_to_do(words: str, setting: str) -> None:
    remedy = remedy_for(OSError(words))
    assert remedy is not None
    assert setting in remedy


def test_other_errors_have_no_remedy_made_up() -> None:
    assert remedy_for(OSError("something else")) is None
