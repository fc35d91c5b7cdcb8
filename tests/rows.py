"""Rows of the database for tests: what a test does not mention has a harmless value."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg

from server.model_request import InstanceId, RequestId, UserId, mint_id
from server.storage.database import Database

_INSERT_ROW = """
INSERT INTO public.model_requests (
    id, user_id, status, model_type, input_data, owner, epoch, attempt, cancel_requested, error_code, error_msg,
    run_at, deadline_at, started_at, completed_at
)
VALUES (
    $1, $2, $3, 'text2text', '{"prompt": "hello"}', $4, $5, $6, $7, $8, $9,
    clock_timestamp() + make_interval(secs => $10),
    clock_timestamp() + make_interval(secs => $11),
    CASE WHEN $3 = 'processing' THEN clock_timestamp() - make_interval(secs => $12) END,
    CASE WHEN $3 IN ('completed', 'failed', 'cancelled') THEN clock_timestamp() END
)
"""
_INSERT_USER = "INSERT INTO auth.users (id, email, encrypted_password) VALUES ($1, $2, '-')"
_INSERT_INSTANCE = """
INSERT INTO public.instances (id, lease_until, host, pid)
VALUES ($1, clock_timestamp() + make_interval(secs => $2), 'test', 1)
"""
_READ_ROW = "SELECT * FROM public.model_requests WHERE id = $1"

STATUSES = ("pending", "processing", "completed", "failed", "cancelled")
FINAL = ("completed", "failed", "cancelled")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection as the server makes them."""
    connection = await Database(url).connect()
    try:
        yield connection
    finally:
        connection.terminate()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `model_requests`; the times are seconds from now, by the database's clock."""

    status: str = "pending"
    owner: UUID | None = None
    epoch: int = 0
    attempt: int = 0
    cancel_requested: bool = False
    error_code: str | None = None
    error_msg: str | None = None
    run_in_s: float = -1.0
    deadline_in_s: float = 600.0
    started_ago_s: float = 1.0


async def add_user(connection: "asyncpg.Connection[Any]", user_id: UUID | None = None) -> UserId:
    """An account to own rows."""
    user_id = user_id or uuid4()
    await connection.execute(_INSERT_USER, user_id, f"{user_id}@example.com")
    return UserId(user_id)


async def add_users(connection: "asyncpg.Connection[Any]", count: int) -> list[UserId]:
    """Accounts in the order in which claims go round."""
    return [await add_user(connection, UUID(int=number << 64)) for number in range(1, count + 1)]


async def add_row(connection: "asyncpg.Connection[Any]", user_id: UUID, row: Row | None = None) -> RequestId:
    """Insert a row and return its id; later rows have greater ids."""
    row = row or Row()
    request_id = mint_id()
    await connection.execute(
        _INSERT_ROW,
        request_id,
        user_id,
        row.status,
        row.owner,
        row.epoch,
        row.attempt,
        row.cancel_requested,
        row.error_code,
        row.error_msg,
        row.run_in_s,
        row.deadline_in_s,
        row.started_ago_s,
    )
    return request_id


async def add_instance(connection: "asyncpg.Connection[Any]", *, lease_s: float = 60.0) -> InstanceId:
    """An instance whose lease ends in `lease_s` seconds; it ended already where that is negative."""
    instance_id = uuid4()
    await connection.execute(_INSERT_INSTANCE, instance_id, lease_s)
    return InstanceId(instance_id)


async def read_row(connection: "asyncpg.Connection[Any]", request_id: UUID) -> asyncpg.Record:
    """The row as it stands; it must be there."""
    [row] = await connection.fetch(_READ_ROW, request_id)
    return cast("asyncpg.Record", row)
