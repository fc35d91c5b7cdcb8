"""The schema on both versions, on a new database and on one that the earlier server filled."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.model_request import mint_id
from server.storage.database import Database
from server.storage.migrations import Migration, load_migrations, migrate
from server.storage.queries import sql_directory, statements
from tests.postgres import bring_forward
from tests.rows import Row, add_row, add_user, connected

# What Supabase has of its own where the earlier server ran, as far as it matters here.
_SUPABASE = """
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY);
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
"""

# Verbatim from the documentation of the earlier server.
_EARLIER_TABLE = """
CREATE TABLE model_requests (
    id UUID PRIMARY KEY,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    completed_at TIMESTAMP WITH TIME ZONE,
    user_id UUID REFERENCES auth.users(id),
    status TEXT,
    input_data JSONB,
    output_data JSONB,
    error_msg TEXT,
    token_used INTEGER,
    token_count INTEGER,
    processing_time INTERVAL,
    model_type TEXT
);
CREATE INDEX idx_model_requests_user_id ON model_requests(user_id);
CREATE INDEX idx_model_requests_status ON model_requests(status);
"""

_EARLIER_ROW = """
INSERT INTO model_requests
    (id, created_at, completed_at, user_id, status, input_data, output_data, token_used, token_count, model_type)
VALUES (
    $1, '2024-05-01 10:00:00+00',
    CASE WHEN $3 IN ('completed', 'failed') THEN '2024-05-01 10:00:07+00'::timestamptz END,
    $2, $3, '{"prompt": "old"}', CASE WHEN $3 = 'completed' THEN '{"output": "answer"}'::jsonb END, 30, 20, 'text2text'
)
"""

_EARLIER_COLUMNS = (
    "created_at, completed_at, user_id, input_data, output_data, error_msg, token_used, token_count,"
    " processing_time, model_type"
)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A database of the earlier server: one row for each status that it wrote, NULL among them."""

    url: str
    connection: "asyncpg.Connection[Any]"
    user_id: UUID
    ids: dict[str | None, UUID]

    async def content(self) -> list[tuple[Any, ...]]:
        """Every column that the earlier server knew, except the status and the id, which the migration makes anew."""
        rows = await self.connection.fetch(f"SELECT {_EARLIER_COLUMNS} FROM model_requests")  # noqa: S608
        return sorted((tuple(row) for row in rows), key=repr)

    async def statuses(self) -> dict[str | None, str | None]:
        """The status of each row now, by the status that it had."""
        rows = await self.connection.fetch("SELECT id, status FROM model_requests")
        now = {row["id"]: row["status"] for row in rows}
        return {before: now[request_id] for before, request_id in self.ids.items()}

    async def bring_forward(self) -> None:
        """Migrate, and learn the new ids."""
        await bring_forward(self.url)
        for row in await self.connection.fetch("SELECT id, created_at FROM model_requests"):
            for status, old in self.ids.items():
                if row["id"] == _id_in_order_of_time(old, row["created_at"]):
                    self.ids[status] = row["id"]

    async def usage(self) -> list[tuple[Any, ...]]:
        rows = await self.connection.fetch(
            "SELECT user_id, day, completed, failed, cancelled, token_used, token_count FROM usage_daily ORDER BY 1, 2"
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def earlier(empty_database: str) -> AsyncIterator[Earlier]:
    async with connected(empty_database) as connection:
        await connection.execute(_SUPABASE)
        await connection.execute(_EARLIER_TABLE)
        user_id = uuid4()
        await connection.execute("INSERT INTO auth.users VALUES ($1)", user_id)
        ids: dict[str | None, UUID] = {}
        for status in ("pending", "processing", "completed", "failed", None):
            ids[status] = uuid4()
            await connection.execute(_EARLIER_ROW, ids[status], user_id, status)
        yield Earlier(empty_database, connection, user_id, ids)


def migrations() -> tuple[Migration, ...]:
    return load_migrations()


def _id_in_order_of_time(old: UUID, created_at: datetime) -> UUID:
    """A UUIDv7 of the time of the row, its random part from the old id."""
    digest = hashlib.md5(str(old).encode(), usedforsecurity=False).hexdigest()
    return UUID(f"{int(created_at.timestamp() * 1000):012x}7{digest[:3]}8{digest[3:18]}")


async def test_ids_of_the_earlier_server_come_into_the_order_of_time(earlier: Earlier) -> None:
    old = set(earlier.ids.values())
    await earlier.bring_forward()
    now = set(earlier.ids.values())
    assert not old & now
    assert {request_id.version for request_id in now} == {7}
    assert max(now) < mint_id()


async def test_every_query_can_be_prepared(any_database: str) -> None:
    async with connected(any_database) as connection:
        for name, text in statements().items():
            try:
                await connection.prepare(text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{name}: {error}")


def test_no_file_changes_once_it_is_out() -> None:
    """`cd sql/migrations && sha256sum *.sql` made the list. Databases know its lines: add to them, change none."""
    listed = (Path(__file__).parent / "checksums.txt").read_text("ascii").split()
    files = sorted((sql_directory() / "migrations").glob("*.sql"))
    found = [word for file in files for word in (hashlib.sha256(file.read_bytes()).hexdigest(), file.name)]
    assert found == listed


async def test_migrations_run_once(empty_database: str) -> None:
    assert await bring_forward(empty_database) == [migration.name for migration in migrations()]
    assert await bring_forward(empty_database) == []


async def test_a_database_with_the_first_edge_functions_gets_those_of_today(empty_database: str) -> None:
    body = "SELECT prosrc FROM pg_proc WHERE proname = 'edge_claim'"
    await bring_forward(empty_database)
    async with connected(empty_database) as connection:
        today = await connection.fetchval(body)
        [(healed, former)] = [heal for migration in migrations() for heal in migration.heals]
        await connection.execute("UPDATE schema_migrations SET checksum = $1 WHERE name = $2", former, healed)
        await connection.execute("DELETE FROM schema_migrations WHERE number > 9")
        await connection.execute("ALTER FUNCTION edge_claim RENAME TO other_claim")
        assert (await bring_forward(empty_database))[-1] == migrations()[-1].name
        assert await connection.fetchval(body) == today


async def test_rows_of_the_earlier_server_are_kept(earlier: Earlier) -> None:
    before = await earlier.content()
    await earlier.bring_forward()
    assert await earlier.content() == before


async def test_a_row_that_the_earlier_server_was_running_is_run_again_and_the_others_stay(earlier: Earlier) -> None:
    await earlier.bring_forward()
    assert await earlier.statuses() == {
        "pending": "pending",
        "processing": "pending",
        "completed": "completed",
        "failed": "failed",
        None: None,
    }


async def test_unfinished_rows_of_the_earlier_server_can_be_claimed(earlier: Earlier) -> None:
    await earlier.bring_forward()
    claimed = await earlier.connection.fetch(statements()["claim_pending"], uuid4(), 10, UUID(int=0), 2, 0, [])
    assert {row["id"] for row in claimed} == {earlier.ids["pending"], earlier.ids["processing"]}
    assert all(row["deadline_left_s"] > 0 for row in claimed)


async def test_the_earlier_table_gets_the_same_columns_and_indexes_as_a_new_one(
    earlier: Earlier, any_database: str
) -> None:
    await earlier.bring_forward()
    async with connected(any_database) as fresh:
        assert await _columns(earlier.connection) == await _columns(fresh)
        assert await _indexes(earlier.connection) == await _indexes(fresh)


async def _columns(connection: "asyncpg.Connection[Any]") -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        """
        SELECT column_name, data_type, is_nullable, column_default
        FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = 'model_requests'
        ORDER BY column_name
        """
    )
    return [tuple(row) for row in rows]


async def _indexes(connection: "asyncpg.Connection[Any]") -> list[str]:
    rows = await connection.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'model_requests' ORDER BY 1"
    )
    return [row["indexdef"] for row in rows]


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_a_final_row_of_the_earlier_server_cannot_change(earlier: Earlier, status: str) -> None:
    await earlier.bring_forward()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is final"):
        await earlier.connection.execute(
            "UPDATE model_requests SET output_data = '{}' WHERE id = $1", earlier.ids[status]
        )
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is final"):
        await earlier.connection.execute(
            "UPDATE model_requests SET status = 'pending', completed_at = NULL WHERE id = $1", earlier.ids[status]
        )


async def test_an_update_that_changes_nothing_of_a_final_row_is_allowed(earlier: Earlier) -> None:
    await earlier.bring_forward()
    done = await earlier.connection.execute("UPDATE model_requests SET status = status")
    assert done == "UPDATE 5"


@pytest.mark.parametrize(
    "change",
    [
        "status = 'unknown'",
        "status = 'processing', owner = NULL",
        "status = 'completed', completed_at = NULL",
        "status = 'pending', completed_at = now()",
    ],
)
async def test_a_row_that_makes_no_sense_is_refused(earlier: Earlier, change: str) -> None:
    await earlier.bring_forward()
    with pytest.raises(asyncpg.CheckViolationError):
        await earlier.connection.execute(
            f"UPDATE model_requests SET {change} WHERE id = $1",  # noqa: S608 - the parameters of this test
            earlier.ids["pending"],
        )


async def test_usage_counts_each_final_transition_once(earlier: Earlier) -> None:
    await earlier.bring_forward()
    assert await earlier.usage() == []  # what ended under the earlier server is not counted anew
    finish = """
        UPDATE model_requests
        SET status = CASE WHEN id = $1 THEN 'completed' ELSE 'cancelled' END,
            completed_at = '2024-06-01 23:59:59+00'
        WHERE status = 'pending'
    """
    await earlier.connection.execute("UPDATE model_requests SET attempt = 1 WHERE status = 'pending'")
    assert await earlier.usage() == []
    await earlier.connection.execute(finish, earlier.ids["pending"])
    once = [(earlier.user_id, datetime(2024, 6, 1, tzinfo=UTC).date(), 1, 0, 1, 60, 40)]
    assert await earlier.usage() == once
    await earlier.connection.execute(finish, earlier.ids["pending"])
    await earlier.connection.execute("UPDATE model_requests SET status = status")
    assert await earlier.usage() == once


async def test_usage_of_several_users_and_days_is_added_to_what_was_there(any_database: str) -> None:
    async with connected(any_database) as connection:
        users = sorted([await add_user(connection), await add_user(connection)])
        for _ in range(2):
            for user_id in users:
                for day in (1, 2):
                    await connection.execute(
                        """
                        INSERT INTO model_requests (id, user_id, status, token_used, created_at)
                        VALUES (gen_random_uuid(), $1, 'pending', 3, make_timestamptz(2026, 1, $2, 12, 0, 0))
                        """,
                        user_id,
                        day,
                    )
            await connection.execute(
                "UPDATE model_requests SET status = 'failed', completed_at = created_at WHERE status = 'pending'"
            )
        rows = await connection.fetch("SELECT user_id, day, failed, token_used FROM usage_daily ORDER BY 1, 2")
    assert [(row["user_id"], row["day"].day, row["failed"], row["token_used"]) for row in rows] == [
        (user_id, day, 2, 6) for user_id in users for day in (1, 2)
    ]


async def test_usage_of_the_version_before_is_of_an_unknown_model_and_goes_on(empty_database: str) -> None:
    database = Database(empty_database)
    async with connected(empty_database) as connection:
        before = [migration for migration in migrations() if migration.number < 21]
        await migrate(connection, before, connect=database.connect)
        user_id = await add_user(connection)
        await connection.execute(
            "INSERT INTO usage_daily (user_id, day, completed, failed, token_used, token_count)"
            " VALUES ($1, '2026-01-01', 3, 1, 70, 50), ($1, '2026-01-02', 1, 0, 0, 9)",
            user_id,
        )
        request_id = await add_row(connection, user_id, Row("processing", owner=uuid4(), epoch=1))
        await migrate(connection, migrations(), connect=database.connect)
        await connection.execute(  # as the version before writes an outcome
            """
            UPDATE model_requests
            SET status = 'completed', completed_at = '2026-01-01', token_used = 5, token_count = 2, output_data = '{}'
            WHERE id = $1
            """,
            request_id,
        )
        rows = await connection.fetch(
            """
            SELECT model, extract(day FROM day)::int, completed, token_used, input_tokens, token_count,
                unmetered, unpriced, cost_usd
            FROM usage_daily ORDER BY day
            """
        )
    assert [tuple(row) for row in rows] == [("", 1, 4, 75, 23, 52, 0, 4, None), ("", 2, 1, 0, 0, 9, 0, 1, None)]


async def test_usage_counts_kinds_of_tokens_models_and_costs_exactly(any_database: str) -> None:
    usage = """{
        "prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135,
        "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 94}
    }"""
    ends = [
        ("a", "completed", 135, 103, usage, "0.1", True),
        ("a", "cancelled", 135, 103, usage, "0.2", True),
        ("a", "cancelled", None, None, '{"prompt_tokens": 7}', None, False),
        ("a", "failed", None, None, None, None, False),
        ("b", "completed", None, None, None, None, True),
        (None, "completed", 5, None, '{"prompt_tokens": 5, "total_tokens": 5}', "0.000000000001", True),
    ]
    async with connected(any_database) as connection:
        user_id = await add_user(connection)
        for model, status, used, generated, counts, cost, has_output in ends:
            request_id = await add_row(connection, user_id)
            await connection.execute(
                """
                UPDATE model_requests
                SET status = $2, completed_at = '2026-01-01', model = $3, token_used = $4, token_count = $5,
                    usage = $6::text::jsonb, cost_usd = $7::text::numeric,
                    output_data = CASE WHEN $8::boolean THEN '{}'::jsonb END
                WHERE id = $1
                """,
                request_id, status, model, used, generated, counts, cost, has_output,
            )  # fmt: skip
        await connection.execute("DELETE FROM model_requests")
        rows = await connection.fetch(
            """
            SELECT model, completed, failed, cancelled, token_used, token_count, input_tokens, cached_tokens,
                reasoning_tokens, unmetered, unpriced, cost_usd
            FROM usage_daily ORDER BY model
            """
        )
    assert [tuple(row) for row in rows] == [
        ("", 1, 0, 0, 5, 0, 5, 0, 0, 0, 0, Decimal("0.000000000001")),
        ("a", 1, 1, 2, 270, 206, 71, 60, 188, 0, 0, Decimal("0.3")),
        ("b", 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, None),
    ]


@pytest.mark.parametrize("table", ["model_requests", "usage_daily", "idempotency_keys", "api_keys"])
async def test_an_account_takes_everything_of_its_own_with_it(earlier: Earlier, table: str) -> None:
    await earlier.bring_forward()
    await earlier.connection.execute(
        "INSERT INTO idempotency_keys (user_id, key, fingerprint, request_id) VALUES ($1, 'k', '', $2)",
        earlier.user_id,
        earlier.ids["completed"],
    )
    await earlier.connection.execute(
        "UPDATE model_requests SET status = 'cancelled', completed_at = now() WHERE status = 'pending'"
    )
    await earlier.connection.execute(
        "SELECT create_api_key(gen_random_uuid(), $1, sha256('key'), 'ask_', 'test', '{read}', NULL, NULL, 1)",
        earlier.user_id,
    )
    assert await earlier.connection.fetchval(f"SELECT count(*) FROM {table}") > 0  # noqa: S608 - a parameter of this test
    await earlier.connection.execute("DELETE FROM auth.users WHERE id = $1", earlier.user_id)
    assert await earlier.connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
