"""Accounts in tables of our own, on a real Postgres: one account per address, refresh that rotates, and a clean end."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.auth.accounts import Accounts, Session, SignedUp
from server.auth.embedded_accounts import REUSE_INTERVAL_S, EmbeddedAccounts, get_or_create_signing_secret
from server.auth.passwords import Passwords
from server.auth.principal import Principal
from server.auth.revocations import Revocations
from server.auth.tokens import SigningKey, TokenMinter, TokenVerifier
from server.errors import Conflict, Forbidden, Invalid, Problem, Unauthenticated
from server.settings import SignUps
from server.storage.database import Database
from server.storage.queries import sql_directory
from server.storage.reader import PooledQueries

SECRET = "0123456789abcdef0123456789abcdef"
EMAIL = "alice@example.com"
PASSWORD = "correct horse battery"
LIFETIME_S = 7200


class CheapPasswords(Passwords):
    """The real thing without its cost, for tests that are about something else."""

    async def hash(self, password: str) -> str:
        return f"plain:{password}"

    async def matches(self, stored: str | None, password: str) -> bool:
        return stored == f"plain:{password}"


@dataclass(frozen=True, slots=True)
class World:
    """Accounts, and what stands in the database behind them."""

    accounts: Accounts
    reader: PooledQueries
    pool: "asyncpg.Pool[Any]"

    async def count(self, table: str) -> int:
        rows: int = await self.pool.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - a name from this file
        return rows

    async def age_refresh_tokens(self, seconds: float) -> None:
        """As if everything had happened that much earlier."""
        await self.pool.execute(
            "UPDATE auth.refresh_tokens SET updated_at = updated_at - make_interval(secs => $1)", seconds
        )

    async def sign_up(self, email: str = EMAIL) -> tuple[Session, Principal]:
        session = (await self.accounts.sign_up(email, PASSWORD)).session
        assert session is not None
        return session, TokenVerifier(SigningKey(SECRET)).verify(session.access_token)


@asynccontextmanager
async def build(url: str, passwords: Passwords) -> AsyncIterator[World]:
    database = Database(url)
    async with database.create_pool() as pool:
        reader = PooledQueries(database)
        await reader.open()
        minter = TokenMinter(SigningKey(SECRET), lifetime_s=LIFETIME_S)
        try:
            accounts = EmbeddedAccounts(
                reader, passwords=passwords, minter=minter, revocations=Revocations(), sign_ups=SignUps.OPEN
            )
            yield World(accounts, reader, pool)
        finally:
            passwords.close()
            await reader.close()


@pytest.fixture
async def world(any_database: str) -> AsyncIterator[World]:
    """On both versions of Postgres, with cheap passwords."""
    async with build(any_database, CheapPasswords()) as built:
        yield built


@pytest.fixture
async def real_world(database: str) -> AsyncIterator[World]:
    """With argon2."""
    async with build(database, Passwords()) as built:
        yield built


async def refused(call: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await call
    return caught.value


# --- sign up ---


async def test_sign_up_gives_a_session_that_works(world: World) -> None:
    session, principal = await world.sign_up("Alice@Example.COM")
    assert session.user.email == EMAIL
    assert session.user.id == principal.user_id
    assert session.user.created_at == session.user.last_sign_in_at
    assert session.expires_in == LIFETIME_S
    assert session.expires_at == pytest.approx(time.time() + LIFETIME_S, abs=5)
    assert await world.accounts.get_user(principal) == session.user
    assert (await world.accounts.sign_in(EMAIL, PASSWORD)).user.id == session.user.id


async def test_a_second_account_for_any_spelling_of_an_address_is_a_conflict(world: World) -> None:
    await world.sign_up()
    for spelling in (EMAIL, "ALICE@example.com", "alice@EXAMPLE.COM", "\uff41lice@example.com"):
        assert isinstance(await refused(world.accounts.sign_up(spelling, "another password")), Conflict), spelling
    assert await world.count("auth.users") == await world.count("auth.sessions") == 1
    assert isinstance(await refused(world.accounts.sign_in(EMAIL, "another password")), Unauthenticated)


async def test_of_fifty_sign_ups_at_once_one_wins_and_the_others_are_told(world: World) -> None:
    results = await asyncio.gather(
        *(world.accounts.sign_up(EMAIL, PASSWORD) for _ in range(50)), return_exceptions=True
    )
    assert [type(result) for result in results if not isinstance(result, Conflict)] == [SignedUp]
    assert (
        await world.count("auth.users")
        == await world.count("auth.sessions")
        == await world.count("auth.refresh_tokens")
        == 1
    )


async def test_what_cannot_be_an_account_leaves_nothing_behind(world: World) -> None:
    for email, password in (
        ("nobody", PASSWORD),
        ("a" * 300 + "@b.co", PASSWORD),
        (EMAIL, "short"),
        (EMAIL, "x" * 129),
        (EMAIL, "x" * 9 + "\0"),
    ):
        assert isinstance(await refused(world.accounts.sign_up(email, password)), Invalid)
    assert await world.count("auth.users") == 0


async def test_neither_passwords_nor_refresh_tokens_are_stored(real_world: World) -> None:
    session, _ = await real_world.sign_up()
    rows = [
        *await real_world.pool.fetch("SELECT * FROM auth.users"),
        *await real_world.pool.fetch("SELECT * FROM auth.refresh_tokens"),
    ]
    stored = " ".join(str(tuple(row.values())) for row in rows)
    assert len(rows) == 2
    assert PASSWORD not in stored
    assert session.refresh_token not in stored
    assert session.access_token not in stored
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in stored


# --- sign in ---


async def test_whatever_is_wrong_with_a_sign_in_the_answer_is_the_same(real_world: World) -> None:
    await real_world.sign_up()
    for email, password in (
        (EMAIL, "wrong horse battery"),
        (EMAIL, ""),
        (EMAIL, PASSWORD + " "),
        (EMAIL, "\0"),
        (EMAIL, "\udc80"),
        ("bob@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("", ""),
        ("\udc80@example.com", PASSWORD),
        ("a" * 1000 + "@example.com", PASSWORD),
        ("alice@example.com' OR '1'='1", PASSWORD),
    ):
        problem = await refused(real_world.accounts.sign_in(email, password))
        assert isinstance(problem, Unauthenticated), (email, password)
        assert problem.detail == "Invalid e-mail or password."
        assert problem.headers == {"WWW-Authenticate": "Bearer"}
    assert await real_world.count("auth.sessions") == 1


async def test_a_deleted_account_is_an_unknown_one(world: World) -> None:
    session, _ = await world.sign_up()
    await world.pool.execute("UPDATE auth.users SET deleted_at = now()")
    problem = await refused(world.accounts.sign_in(EMAIL, PASSWORD))
    assert problem.detail == "Invalid e-mail or password."
    assert isinstance(await refused(world.accounts.refresh(session.refresh_token)), Unauthenticated)


async def test_a_suspended_account_is_told_so_if_its_password_is_right(world: World) -> None:
    session, _ = await world.sign_up()
    await world.pool.execute("UPDATE auth.users SET banned_until = now() + interval '1 day'")
    assert isinstance(await refused(world.accounts.sign_in(EMAIL, "wrong horse battery")), Unauthenticated)
    assert isinstance(await refused(world.accounts.sign_in(EMAIL, PASSWORD)), Forbidden)
    assert isinstance(await refused(world.accounts.refresh(session.refresh_token)), Forbidden)
    await world.pool.execute("UPDATE auth.users SET banned_until = now()")
    assert (await world.accounts.refresh(session.refresh_token)).user == session.user


async def test_a_session_leaves_a_revocation_until_its_last_token_expires(world: World) -> None:
    """In whichever way it ends. A session whose tokens have expired leaves none."""
    _, principal = await world.sign_up()
    old = uuid4()
    await world.pool.execute(
        "INSERT INTO auth.sessions (id, user_id, updated_at) VALUES ($1, $2, now() - interval '2 hours')",
        old,
        principal.user_id,
    )
    await world.pool.execute("DELETE FROM auth.sessions")
    [row] = await world.pool.fetch("SELECT *, expires_at - now() AS life FROM revocations")
    assert (row["subject"], row["is_blocked"]) == (principal.session_id, True)
    assert LIFETIME_S < row["life"].total_seconds() < LIFETIME_S + 120


async def test_an_unknown_user_takes_as_long_as_a_wrong_password(real_world: World) -> None:
    await real_world.sign_up()
    samples: dict[str, list[float]] = {EMAIL: [], "bob@example.com": [], "nonsense": []}
    for _ in range(15):
        for email, times in samples.items():
            started = time.perf_counter()
            await refused(real_world.accounts.sign_in(email, "wrong horse battery"))
            times.append(time.perf_counter() - started)
    medians = {email: statistics.median(times) for email, times in samples.items()}
    assert max(medians.values()) < 2 * min(medians.values()), medians


async def test_an_account_deleted_between_the_check_and_the_session_is_an_unknown_one(
    any_database: str, world: World
) -> None:
    class Deletes(CheapPasswords):
        async def matches(self, stored: str | None, password: str) -> bool:
            await world.pool.execute("DELETE FROM auth.users")
            return await super().matches(stored, password)

    await world.sign_up()
    async with build(any_database, Deletes()) as other:
        problem = await refused(other.accounts.sign_in(EMAIL, PASSWORD))
        assert problem.detail == "Invalid e-mail or password."


# --- refresh ---


async def test_refresh_rotates_and_keeps_the_session(world: World) -> None:
    first, principal = await world.sign_up()
    second = await world.accounts.refresh(first.refresh_token)
    assert second.refresh_token != first.refresh_token
    assert TokenVerifier(SigningKey(SECRET)).verify(second.access_token) == principal
    assert (await world.accounts.refresh(second.refresh_token)).user == first.user
    chain = await world.pool.fetch("SELECT token, parent, revoked FROM auth.refresh_tokens ORDER BY id")
    assert [row["revoked"] for row in chain] == [True, True, False]
    assert [row["parent"] for row in chain] == [None, chain[0]["token"], chain[1]["token"]]


async def test_a_lost_answer_may_be_asked_for_again_within_the_reuse_interval(world: World) -> None:
    first, _ = await world.sign_up()
    lost = await world.accounts.refresh(first.refresh_token)
    await world.age_refresh_tokens(REUSE_INTERVAL_S - 2)
    again = await world.accounts.refresh(first.refresh_token)
    assert again.refresh_token not in {first.refresh_token, lost.refresh_token}
    assert (await world.accounts.refresh(again.refresh_token)).user == first.user


async def test_asking_again_does_not_lengthen_the_reuse_interval(world: World) -> None:
    first, _ = await world.sign_up()
    for _ in range(2):
        active = await world.accounts.refresh(first.refresh_token)
        await world.age_refresh_tokens(REUSE_INTERVAL_S * 0.6)
    await world.accounts.refresh(active.refresh_token)
    assert isinstance(await refused(world.accounts.refresh(first.refresh_token)), Unauthenticated)


async def test_reuse_after_the_interval_ends_the_whole_session_and_no_other(world: World) -> None:
    stolen, _ = await world.sign_up()
    elsewhere = await world.accounts.sign_in(EMAIL, PASSWORD)
    active = await world.accounts.refresh((await world.accounts.refresh(stolen.refresh_token)).refresh_token)
    await world.age_refresh_tokens(REUSE_INTERVAL_S + 1)
    assert isinstance(await refused(world.accounts.refresh(stolen.refresh_token)), Unauthenticated)
    assert isinstance(await refused(world.accounts.refresh(active.refresh_token)), Unauthenticated)
    assert (await world.accounts.refresh(elsewhere.refresh_token)).user.id == stolen.user.id
    assert await world.count("auth.sessions") == 1


async def test_c3_the_parent_of_an_unused_token_is_taken_however_late(world: World) -> None:
    """The answer with the child was lost, each time."""
    first, principal = await world.sign_up()
    for _ in range(3):
        await world.accounts.refresh(first.refresh_token)
        await world.age_refresh_tokens(REUSE_INTERVAL_S + 1)
    again = await world.accounts.refresh(first.refresh_token)
    assert TokenVerifier(SigningKey(SECRET)).verify(again.access_token) == principal
    assert await world.pool.fetchval("SELECT count(*) FROM auth.refresh_tokens WHERE NOT revoked") == 1
    assert (await world.accounts.refresh(again.refresh_token)).user == first.user


async def test_c3_it_is_taken_late_in_a_session_too(world: World) -> None:
    session, _ = await world.sign_up()
    for _ in range(3):
        parent = session.refresh_token
        await world.accounts.refresh(parent)
        await world.age_refresh_tokens(REUSE_INTERVAL_S + 1)
        session = await world.accounts.refresh(parent)


async def test_c3_a_child_that_was_replaced_ends_the_session_once_it_is_used(world: World) -> None:
    """Two clients go on from one token: one of them stole it."""
    first, _ = await world.sign_up()
    replaced = await world.accounts.refresh(first.refresh_token)
    await world.age_refresh_tokens(REUSE_INTERVAL_S + 1)
    active = await world.accounts.refresh(first.refresh_token)
    await world.age_refresh_tokens(REUSE_INTERVAL_S + 1)
    for token in (replaced.refresh_token, active.refresh_token):
        assert isinstance(await refused(world.accounts.refresh(token)), Unauthenticated)
    assert await world.count("auth.sessions") == 0


async def test_c3_one_used_child_of_two_is_enough_to_refuse_the_parent(world: World) -> None:
    first, _ = await world.sign_up()
    here, _ = [await world.accounts.refresh(first.refresh_token) for _ in range(2)]
    await world.accounts.refresh(here.refresh_token)
    await world.age_refresh_tokens(REUSE_INTERVAL_S + 1)
    assert isinstance(await refused(world.accounts.refresh(first.refresh_token)), Unauthenticated)


async def test_an_unknown_refresh_token_is_unauthenticated_and_harms_nobody(world: World) -> None:
    session, _ = await world.sign_up()
    for token in ("", "x", "\0", "\udc80", "x" * 100_000, "' OR true --"):
        assert isinstance(await refused(world.accounts.refresh(token)), Unauthenticated), token[:20]
    assert (await world.accounts.refresh(session.refresh_token)).user == session.user


async def test_the_stored_fingerprint_is_no_refresh_token(world: World) -> None:
    await world.sign_up()
    fingerprint = await world.pool.fetchval("SELECT token FROM auth.refresh_tokens")
    assert isinstance(await refused(world.accounts.refresh(fingerprint)), Unauthenticated)


async def test_refreshes_of_one_token_at_once_all_go_on_in_one_session(world: World) -> None:
    first, _ = await world.sign_up()
    sessions = await asyncio.gather(*(world.accounts.refresh(first.refresh_token) for _ in range(10)))
    assert len({session.refresh_token for session in sessions}) == 10
    assert await world.count("auth.sessions") == 1
    for session in sessions:
        await world.accounts.refresh(session.refresh_token)


async def test_refresh_sign_out_and_deletion_at_once_never_wait_in_a_circle(world: World) -> None:
    """All lock the session before its tokens. Deadlocks are not resolved here, so that one would be seen."""
    await world.pool.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 60000', current_database()); END $$"
    )
    await world.pool.expire_connections()
    async with asyncio.timeout(4):
        for number in range(10):
            session, principal = await world.sign_up(f"user-{number}@example.com")
            results = await asyncio.gather(
                *(world.accounts.refresh(session.refresh_token) for _ in range(6)),
                world.accounts.sign_out(principal),
                world.accounts.delete_user(principal),
                return_exceptions=True,
            )
            assert {type(result) for result in results} <= {Session, type(None), Unauthenticated}
    assert await world.count("auth.refresh_tokens") == 0


async def test_an_expired_session_cannot_be_refreshed(world: World) -> None:
    session, _ = await world.sign_up()
    await world.pool.execute("UPDATE auth.sessions SET not_after = now() - interval '1 second'")
    assert isinstance(await refused(world.accounts.refresh(session.refresh_token)), Unauthenticated)


# --- sign out, current user, delete ---


async def test_sign_out_ends_this_session_only(world: World) -> None:
    here, principal = await world.sign_up()
    elsewhere = await world.accounts.sign_in(EMAIL, PASSWORD)
    await world.accounts.sign_out(principal)
    await world.accounts.sign_out(principal)
    assert isinstance(await refused(world.accounts.refresh(here.refresh_token)), Unauthenticated)
    assert (await world.accounts.refresh(elsewhere.refresh_token)).user.id == here.user.id


async def test_nobody_can_end_the_session_of_another(world: World) -> None:
    alice, alice_principal = await world.sign_up()
    _, bob = await world.sign_up("bob@example.com")
    await world.accounts.sign_out(replace(bob, session_id=alice_principal.session_id))
    assert (await world.accounts.refresh(alice.refresh_token)).user == alice.user


async def test_a_token_without_a_session_can_be_signed_out(world: World) -> None:
    _, principal = await world.sign_up()
    await world.accounts.sign_out(replace(principal, session_id=None))
    assert await world.count("auth.sessions") == 1


async def test_delete_takes_everything_of_the_user_and_nothing_of_others(world: World) -> None:
    alice, principal = await world.sign_up()
    await world.accounts.sign_in(EMAIL, PASSWORD)
    bob, _ = await world.sign_up("bob@example.com")
    for user_id in (alice.user.id, bob.user.id):
        await world.pool.execute(
            "INSERT INTO public.model_requests (id, user_id, status, model_type) VALUES ($1, $2, 'pending', 'chat')",
            uuid4(),
            user_id,
        )
    await world.accounts.delete_user(principal)
    for table in ("auth.users", "auth.sessions", "auth.refresh_tokens", "public.model_requests"):
        assert await world.count(table) == 1, table
    assert await world.pool.fetchval("SELECT user_id FROM public.model_requests") == bob.user.id
    for call in (world.accounts.get_user(principal), world.accounts.delete_user(principal)):
        assert isinstance(await refused(call), Unauthenticated)
    assert isinstance(await refused(world.accounts.refresh(alice.refresh_token)), Unauthenticated)
    assert (await world.sign_up())[0].user.id != alice.user.id


async def test_recovery_says_the_same_whether_the_account_exists_or_not(world: World) -> None:
    await world.sign_up()
    known = await world.accounts.request_recovery(EMAIL)
    assert known == await world.accounts.request_recovery("bob@example.com")
    assert isinstance(await refused(world.accounts.request_recovery("nobody")), Invalid)


# --- what the schema promises ---


async def test_all_instances_on_a_database_agree_on_one_secret_at_once_and_later(world: World) -> None:
    secrets = set(await asyncio.gather(*(get_or_create_signing_secret(world.reader) for _ in range(10))))
    secrets.add(await get_or_create_signing_secret(world.reader))
    assert len(secrets) == 1
    assert len(secrets.pop()) >= 64


async def test_the_functions_of_supabase_read_the_claims_of_the_transaction(world: World) -> None:
    user = uuid4()
    claims = f'{{"sub": "{user}", "role": "authenticated", "email": "{EMAIL}"}}'
    call = "SELECT auth.uid() AS uid, auth.role() AS role, auth.email() AS email, auth.jwt() ->> 'sub' AS sub"
    async with world.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
            assert [tuple(row) for row in await connection.fetch(call)] == [(user, "authenticated", EMAIL, str(user))]
        assert [tuple(row) for row in await connection.fetch(call)] == [(None, None, None, None)]


async def test_where_supabase_keeps_the_accounts_nothing_is_touched(empty_database: str) -> None:
    connection = await asyncpg.connect(empty_database)
    try:
        await connection.execute("CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY)")
        migration = (sql_directory() / "migrations" / "0001_create_auth_schema.sql").read_text()
        await connection.execute(migration)
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'auth'")
        assert [row["tablename"] for row in tables] == ["users"]
        assert await connection.fetchval("SELECT to_regproc('auth.uid')") is None
    finally:
        await connection.close()


async def test_the_columns_are_ones_that_supabase_auth_could_read(world: World) -> None:
    await world.sign_up()
    row = await world.pool.fetchrow(
        "SELECT instance_id, aud, role, confirmation_token, recovery_token, email_change_token_new, email_change,"
        " raw_app_meta_data FROM auth.users"
    )
    assert row is not None
    assert row["instance_id"] == UUID(int=0)
    assert (row["aud"], row["role"]) == ("authenticated", "authenticated")
    assert {row[name] for name in row.keys() if name.endswith(("token", "new", "change"))} == {""}  # noqa: SIM118
    assert b'"email"' in row["raw_app_meta_data"]
