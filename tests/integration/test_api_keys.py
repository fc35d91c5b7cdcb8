"""The statements of API keys on both versions of Postgres: the limit, the end with the account, the times of use."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.auth.api_keys.key_format import digest_of, mint_key
from server.model_request import mint_id
from server.storage.queries import statements
from tests.rows import add_user, connected

LIMIT = 5


@dataclass(frozen=True, slots=True)
class Desk:
    """A database with a user."""

    url: str
    connection: "asyncpg.Connection[Any]"
    user_id: UUID

    async def create(self, *, expires_in_s: float | None = None, user_id: UUID | None = None) -> bytes | None:
        """Create a key over a connection of its own; returns its hash, or None beyond the limit."""
        digest = digest_of(mint_key())
        owner = user_id or self.user_id
        async with connected(self.url) as connection:
            rows = await connection.fetch(
                statements()["create_api_key"],
                *(mint_id(), owner, digest, "ask_abcdef", "test", ["read"], None, expires_in_s, LIMIT),
            )
        return digest if rows else None

    async def fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        return await self.connection.fetch(statements()[name], *args)

    async def found(self, *digests: bytes | None) -> list[bytes]:
        return [row["hash"] for row in await self.fetch("find_api_keys", digests)]


@pytest.fixture
async def desk(any_database: str) -> AsyncIterator[Desk]:
    async with connected(any_database) as connection:
        yield Desk(any_database, connection, await add_user(connection))


async def test_creates_at_once_do_not_exceed_the_limit(desk: Desk) -> None:
    other = await add_user(desk.connection)
    made = await asyncio.gather(*(desk.create() for _ in range(2 * LIMIT)), desk.create(user_id=other))
    assert len([digest for digest in made[:-1] if digest]) == LIMIT
    assert made[-1] is not None


async def test_an_expired_key_is_not_found_and_makes_room(desk: Desk) -> None:
    expired = await desk.create(expires_in_s=0)
    valid = [await desk.create(expires_in_s=60) for _ in range(LIMIT - 1)]
    assert set(await desk.found(expired, *valid)) == set(valid)
    assert len(await desk.fetch("list_api_keys", desk.user_id)) == LIMIT - 1
    assert await desk.create() is not None
    assert await desk.create() is None
    assert await desk.connection.fetchval("SELECT count(*) FROM api_keys") == LIMIT


@pytest.mark.parametrize(
    "end",
    [
        "DELETE FROM auth.users WHERE id = $1",
        "UPDATE auth.users SET deleted_at = now() WHERE id = $1",
        "UPDATE auth.users SET banned_until = now() + interval '1 hour' WHERE id = $1",
    ],
)
async def test_keys_of_an_account_that_is_gone_or_banned_are_not_found(desk: Desk, end: str) -> None:
    digest = await desk.create()
    assert await desk.found(digest) == [digest]
    await desk.connection.execute(end, desk.user_id)
    assert await desk.found(digest) == []


async def test_the_use_of_a_key_is_written_once_a_minute_whichever_instances_report_it(desk: Desk) -> None:
    digest = await desk.create()
    [row] = await desk.fetch("find_api_keys", [digest])

    async def record(age_s: float) -> Any:
        await desk.fetch("record_key_uses", [row["id"]], [age_s], 60.0)
        return await desk.connection.fetchval("SELECT last_used_at FROM api_keys")

    first = await record(1.0)
    assert first is not None
    assert await record(0.0) == first
    await desk.connection.execute("UPDATE api_keys SET last_used_at = last_used_at - interval '60 s'")
    assert await record(30.0) < first
    assert await record(0.0) > first


async def test_a_key_that_another_instance_is_writing_is_passed_over(desk: Desk) -> None:
    digest = await desk.create()
    [row] = await desk.fetch("find_api_keys", [digest])
    async with connected(desk.url) as other, other.transaction():
        await other.execute("UPDATE api_keys SET last_used_at = NULL")
        await desk.fetch("record_key_uses", [row["id"]], [0.0], 60.0)
    assert await desk.connection.fetchval("SELECT last_used_at FROM api_keys") is None


async def test_keys_are_found_by_index(desk: Desk) -> None:
    await desk.connection.execute("SET enable_seqscan = off")
    digests = [digest_of(mint_key()) for _ in range(3)]
    plan = await desk.connection.fetch(f"EXPLAIN {statements()['find_api_keys']}", digests)
    assert "api_keys_hash_key" in "\n".join(row[0] for row in plan)
