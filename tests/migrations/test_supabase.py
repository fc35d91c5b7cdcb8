"""The schema in a Supabase project: made by a role that is no superuser, and read by each role as far as it may."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.model_request import mint_id
from tests.postgres import bring_forward
from tests.supabase import Project

_OURS = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND ({condition}) ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Migrated:
    """A project with our tables, two users, and a request, a day's usage and a file of each."""

    project: Project
    alice: UUID
    bob: UUID


@pytest.fixture
async def migrated(any_project: Project) -> Migrated:
    await bring_forward(any_project.url)
    made = Migrated(any_project, await any_project.add_user(), await any_project.add_user())
    async with any_project.connected() as connection:
        for user_id in (made.alice, made.bob):
            await connection.execute(
                "INSERT INTO model_requests (id, user_id, status, input_data) VALUES ($1, $2, 'pending', '{}')",
                mint_id(),
                user_id,
            )
            await connection.execute(
                "INSERT INTO files (id, user_id, content_type) VALUES ($1, $2, 'image/png')", mint_id(), user_id
            )
        await connection.execute("UPDATE model_requests SET status = 'cancelled', completed_at = now()")
    return made


async def test_migrations_run_once_as_a_role_that_is_no_superuser(any_project: Project) -> None:
    assert len(await bring_forward(any_project.url)) > 0
    assert await bring_forward(any_project.url) == []
    async with any_project.connected() as connection:
        assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert await connection.fetchval("SELECT to_regclass('auth.server_secrets')") is None, "auth is Supabase's"


async def test_an_account_that_goes_takes_its_rows_with_it(migrated: Migrated) -> None:
    async with migrated.project.connected(is_admin=True) as connection:
        await connection.execute("DELETE FROM auth.users WHERE id = $1", migrated.alice)
        assert await connection.fetchval("SELECT array_agg(user_id) FROM model_requests") == [migrated.bob]


@pytest.mark.parametrize("table", ["model_requests", "usage_daily", "files"])
async def test_a_user_reads_rows_of_their_own_only(migrated: Migrated, table: str) -> None:
    for user_id in (migrated.alice, migrated.bob):
        async with migrated.project.acting_as("authenticated", user_id) as connection:
            rows = await connection.fetch(f"SELECT user_id FROM {table}")  # noqa: S608 - a parameter of this test
            assert [row["user_id"] for row in rows] == [user_id]


@pytest.mark.parametrize("table", ["model_requests", "usage_daily", "files"])
async def test_the_service_role_reads_everything(migrated: Migrated, table: str) -> None:
    async with migrated.project.acting_as("service_role") as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 2  # noqa: S608 - as above


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_nobody_else_reads_or_changes_anything(migrated: Migrated, role: str) -> None:
    async with migrated.project.connected() as connection:
        tables = [row["relname"] for row in await connection.fetch(_OURS.format(condition="true"))]
    own = {"model_requests", "usage_daily", "files"} if role == "authenticated" else set()
    assert {"model_requests", "usage_daily", "instances", "idempotency_keys", "schema_migrations"} <= set(tables)
    assert {"files", "file_uses", "api_keys"} <= set(tables)
    for table in tables:
        verbs = ["INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}", "TRUNCATE {}", "SELECT FROM {}"]
        for statement in (verb.format(table) for verb in verbs if not (table in own and verb.startswith("SELECT"))):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await _execute(migrated, role, statement)


async def _execute(migrated: Migrated, role: str, statement: str) -> Any:
    async with migrated.project.acting_as(role, migrated.alice) as connection:
        return await connection.execute(statement)


async def test_every_table_has_row_level_security(migrated: Migrated) -> None:
    async with migrated.project.connected() as connection:
        assert await connection.fetch(_OURS.format(condition="NOT relrowsecurity")) == []


async def test_row_changes_are_published(migrated: Migrated) -> None:
    async with migrated.project.connected() as connection:
        published = await connection.fetch("SELECT tablename FROM pg_publication_tables WHERE pubname LIKE 'supabase%'")
    assert [row["tablename"] for row in published] == ["model_requests"]


async def test_a_publication_of_all_tables_is_left_alone(any_project: Project) -> None:
    async with any_project.connected(is_admin=True) as connection:
        await connection.execute(
            "DROP PUBLICATION supabase_realtime; CREATE PUBLICATION supabase_realtime FOR ALL TABLES"
        )
    assert "0008_publish_requests" in await bring_forward(any_project.url)


async def test_a_table_that_is_published_already_is_left_alone(any_project: Project) -> None:
    await bring_forward(any_project.url)
    async with any_project.connected() as connection:
        await connection.execute("DELETE FROM schema_migrations WHERE number >= 8")
    assert (await bring_forward(any_project.url))[0] == "0008_publish_requests"


@pytest.mark.parametrize("topic", ["requests:{alice}", "requests:{bob}", "requests:", "other"])
async def test_a_user_hears_the_topic_of_their_own_only(migrated: Migrated, topic: str) -> None:
    topic = topic.format(alice=migrated.alice, bob=migrated.bob)
    async with migrated.project.connected() as connection:
        await connection.execute("SELECT realtime.send('{}', 'status', $1, true)", topic)
    async with migrated.project.acting_as("authenticated", migrated.alice) as connection:
        await connection.execute("SELECT set_config('realtime.topic', $1, true)", topic)
        heard = await connection.fetchval("SELECT count(*) FROM realtime.messages WHERE topic = $1", topic)
    assert heard == (topic == f"requests:{migrated.alice}")


async def test_a_project_that_lets_nobody_touch_realtime_gets_our_tables_all_the_same(any_project: Project) -> None:
    async with any_project.connected(is_admin=True) as connection:
        await connection.execute("ALTER TABLE realtime.messages OWNER TO supabase_admin")
        await connection.execute("ALTER PUBLICATION supabase_realtime OWNER TO supabase_admin")
    assert "0008_publish_requests" in await bring_forward(any_project.url)
    async with any_project.connected() as connection:
        assert await connection.fetchval("SELECT to_regclass('public.model_requests')") is not None
        assert await connection.fetchval("SELECT count(*) FROM pg_policies WHERE schemaname = 'realtime'") == 0


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
async def test_nobody_but_the_server_calls_its_functions(migrated: Migrated, role: str) -> None:
    for call in (
        "reserve_upload($1, $1, $1, 'image/png', 1, NULL)",
        "delete_upload($1, $1)",
        "use_of_file($1)",
        "create_api_key($1, $1, '', '', '', '{}', NULL, NULL, 1)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await _execute(migrated, role, f"SELECT public.{call}".replace("$1", f"'{migrated.alice}'::uuid"))


async def test_a_request_that_somebody_else_deletes_takes_its_files_with_it(migrated: Migrated) -> None:
    """The service role has no right to change files: the trigger has."""
    async with migrated.project.connected() as connection:
        await connection.execute(
            """
            INSERT INTO files (id, user_id, request_id, epoch, number, content_type, state)
            SELECT gen_random_uuid(), user_id, id, 1, 0, 'image/png', 'kept' FROM model_requests
            """
        )
    deleting = f"DELETE FROM model_requests WHERE user_id = '{migrated.alice}'"  # noqa: S608 - no one else's id
    await _execute(migrated, "service_role", deleting)
    async with migrated.project.connected() as connection:
        rows = await connection.fetch("SELECT user_id, state FROM files WHERE request_id IS NOT NULL")
    assert {row["user_id"]: row["state"] for row in rows} == {migrated.alice: "deleting", migrated.bob: "kept"}
