"""The hot statements find their rows by index, however long the history is and however their plan was made."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.storage.queries import statements
from tests.postgres import Cluster, run
from tests.rows import connected

BY_STATUS = "idx_model_requests_status"
BY_USER = "idx_model_requests_user_id"
BY_ID = "model_requests_pkey"
SUSPECTS = "idx_model_requests_suspects"
PUT_OFF = "idx_model_requests_put_off"

USER = UUID(int=7)
ME = UUID(int=1000)
ROW = UUID(int=9_000)
DEEP, LATE = UUID(int=2_000), UUID(int=200)
THEIRS, OTHERS = UUID(int=2_007), UUID(int=2_008)
"""A request of `USER` and one of another user, and an upload of each."""

# 20,000 rows of 40 users: a long history with answers of 1 kB, and at its end 400 that wait and 100 that run.
_FILL = """
INSERT INTO auth.users (id, email, encrypted_password)
SELECT lpad(to_hex(number), 32, '0')::uuid, number || '@example.com', '-'
FROM generate_series(0, 39) AS number;

INSERT INTO public.model_requests (id, user_id, status, model_type, input_data, output_data, owner, completed_at)
SELECT
    lpad(to_hex(number), 32, '0')::uuid,
    lpad(to_hex(number % 40), 32, '0')::uuid,
    CASE WHEN number <= 19500 THEN 'completed' WHEN number % 5 = 0 THEN 'processing' ELSE 'pending' END,
    'text2text',
    '{"prompt": "hello"}',
    CASE WHEN number <= 19500 THEN jsonb_build_object('output', repeat('answer', 170)) END,
    lpad('3e8', 32, '0')::uuid,
    CASE WHEN number <= 19500 THEN now() END
FROM generate_series(1, 20000) AS number;

INSERT INTO public.instances (id, lease_until, host, pid)
VALUES (lpad('3e8', 32, '0')::uuid, now() + interval '1 hour', 'test', 1);
"""
# 20,000 files: uploads of 40 users that are kept, and of the last 40 some that are due.
_FILL_FILES = """
INSERT INTO public.files (id, user_id, content_type, size, state, due_at)
SELECT
    lpad(to_hex(number), 32, '0')::uuid, lpad(to_hex(number % 40), 32, '0')::uuid, 'image/png', 1000,
    CASE WHEN number <= 19960 THEN 'kept' ELSE 'stored' END, now() + make_interval(hours => number % 24 - 2)
FROM generate_series(1, 20000) AS number;

INSERT INTO public.file_uses (file_id, request_id)
SELECT id, id FROM public.files;
"""
_ANALYZE = "ANALYZE public.model_requests, public.instances, auth.users, public.files, public.file_uses"


@pytest.fixture(scope="module", params=["18", "15"])
def filled(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with a history, made once: the tests here only look."""
    cluster: Cluster = request.getfixturevalue(f"cluster_{request.param}")
    with cluster.database(request.getfixturevalue(f"template_{request.param}")) as url:
        run(_fill(url))
        yield url


async def _fill(url: str) -> None:
    async with connected(url) as connection:
        await connection.execute(_FILL)
        await connection.execute(_FILL_FILES)
        await connection.execute(_ANALYZE)


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
async def planner(filled: str, request: pytest.FixtureRequest) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection whose plans know the arguments, and one whose plans must do for all arguments."""
    async with connected(filled) as connection:
        await connection.execute(f"SET plan_cache_mode = {request.param}")
        yield connection


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bool() | int() | float():
            return str(value)
        case list():
            return f"'{{{', '.join(map(str, value))}}}'"
        case _:
            return f"'{value}'"


async def _scans(
    planner: "asyncpg.Connection[Any]", query: str, *args: object, table: str = "model_requests"
) -> list[dict[str, Any]]:
    """The nodes of the plan that read this table."""
    await planner.execute(f"PREPARE planned AS {statements()[query]}")
    arguments = f"({', '.join(_literal(value) for value in args)})" if args else ""
    plan = await planner.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned {arguments}")
    return [
        node
        for node in _nodes(json.loads(plan)[0]["Plan"])
        if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"
    ]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    children = plan.get("Plans", [])
    for child in children:
        # The index of a bitmap scan stands one level below the node that names the table.
        if child["Node Type"] == "Bitmap Index Scan":
            plan |= {key: child[key] for key in ("Index Name", "Index Cond") if key in child}
    yield plan
    for child in children:
        yield from _nodes(child)


@pytest.mark.parametrize(
    ("query", "args", "indexes"),
    [
        ("claim_pending", (ME, 16, UUID(int=0), 2, 0, []), {BY_STATUS, BY_ID}),
        ("claim_quarantined", (ME, 8), {SUSPECTS, BY_ID}),
        ("survey_backlog", (), {BY_STATUS, SUSPECTS}),
        ("rescue_orphans", ([ME], True, 15.0, 5, 2, 500), {BY_STATUS, BY_ID}),
        ("reclaim_own", (ME, [ROW], 10.0, 2, 16), {BY_STATUS, BY_ID}),
        ("expire_requests", (30.0, None, 500), {BY_STATUS, BY_ID}),
        ("finalise_cancelled", (500,), {BY_STATUS, BY_ID}),
        ("get_request", (ROW, USER), {BY_STATUS, BY_ID}),
        ("list_requests", (USER, None, None, None, None, None, 20, None), {BY_USER, BY_STATUS}),
        ("list_requests", (USER, DEEP, None, None, None, None, 20, LATE), {BY_USER, BY_STATUS}),
        ("count_waiting", (USER, 10_000, 100), {BY_STATUS}),
        ("count_waiting_users", (), {BY_STATUS}),
        ("measure_backlog", (100_000,), {BY_STATUS}),
        ("count_put_off", (USER, 10_000), {BY_STATUS, PUT_OFF}),
        ("running_requests_of_user", (USER,), {BY_STATUS}),
        ("purge_instances", (3600.0,), {BY_STATUS}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_no_hot_statement_reads_the_whole_table(
    planner: "asyncpg.Connection[Any]", query: str, args: tuple[object, ...], indexes: set[str]
) -> None:
    scans = await _scans(planner, query, *args)
    assert scans
    assert {scan.get("Index Name", scan["Node Type"]) for scan in scans} <= indexes
    # The primary key is good for one row at a time, never for a walk through the history in order of id.
    assert all("id = " in scan.get("Index Cond", "") for scan in scans if scan.get("Index Name") == BY_ID)


async def test_a_deep_page_of_the_history_begins_at_its_cursor(planner: "asyncpg.Connection[Any]") -> None:
    scans = await _scans(planner, "list_requests", USER, DEEP, None, None, None, None, 20, LATE)
    [page] = [scan for scan in scans if scan.get("Index Name") == BY_USER]
    condition = page["Index Cond"].replace("user_id", "")
    assert "id <" in condition
    assert "id >=" in condition


@pytest.mark.parametrize(
    ("query", "args", "indexes"),
    [
        ("claim_due_files", (100, 60.0, [ME], [ROW], True, 15.0), {"idx_files_due", "files_pkey"}),
        ("find_upload", (ROW, USER), {"files_pkey"}),
        ("find_output", (ROW, USER, 0), {"idx_files_outputs"}),
        ("find_inputs", (USER, [ROW]), {"files_pkey"}),
        ("attach_uploads", (USER, ME, [ROW], 60.0), {"files_pkey"}),
        ("store_outputs", ([ROW], [1]), {"files_pkey"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_no_statement_reads_all_files(
    planner: "asyncpg.Connection[Any]", query: str, args: tuple[object, ...], indexes: set[str]
) -> None:
    scans = await _scans(planner, query, *args, table="files")
    assert scans
    assert {scan.get("Index Name", scan["Node Type"]) for scan in scans} <= indexes


async def test_the_deletion_of_a_request_reads_no_table_of_files_whole(planner: "asyncpg.Connection[Any]") -> None:
    """Its trigger shows no plan, but the counters of this transaction tell how tables were read."""
    transaction = planner.transaction()
    await transaction.start()
    try:
        await planner.execute("DELETE FROM public.model_requests WHERE id = $1", ROW)
        [scans] = await planner.fetch(
            "SELECT sum(seq_scan) AS whole, sum(idx_scan) AS indexed FROM pg_stat_xact_user_tables"
            " WHERE relname IN ('files', 'file_uses')"
        )
    finally:
        await transaction.rollback()
    assert scans["whole"] == 0
    assert scans["indexed"] > 0


async def test_the_deletion_of_many_requests_asks_nothing_about_files_that_no_other_uses(
    planner: "asyncpg.Connection[Any]",
) -> None:
    """An account of 300,000 files goes in one statement: a call for each of them would be most of its time."""
    transaction = planner.transaction()
    await transaction.start()
    try:
        await planner.execute("SET LOCAL track_functions = 'all'")
        await planner.execute("INSERT INTO public.file_uses (file_id, request_id) VALUES ($1, $2)", THEIRS, OTHERS)
        await planner.execute("DELETE FROM public.model_requests WHERE user_id = $1", USER)
        calls = await planner.fetchval(
            "SELECT sum(calls) FROM pg_stat_xact_user_functions WHERE funcname = 'use_of_file'"
        )
        states = await planner.fetch("SELECT state, count(*) FROM public.files WHERE user_id = $1 GROUP BY 1", USER)
    finally:
        await transaction.rollback()
    assert calls == 1
    assert dict(map(tuple, states)) == {"deleting": 499, "stored": 1}
