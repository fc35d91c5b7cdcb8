"""`edge_claim` and `edge_record`: the same fence as a server's, under a lease of their own."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.model_request import mint_id
from server.storage.queries import statements
from tests.rows import add_instance, add_user, connected

CLAIM = "SELECT * FROM public.edge_claim($1)"
RECORD = "SELECT public.edge_record($1, $2, $3, $4)"
Connection = Any


@pytest.fixture
async def user(any_database: str) -> UUID:
    async with connected(any_database) as connection:
        return await add_user(connection)


async def add(connection: Connection, user: UUID, **columns: Any) -> UUID:
    request_id = mint_id()
    values = {"status": "pending", "model_type": "text2text", "input_data": b'{"prompt": "x"}', **columns}
    names = ", ".join(values)
    places = ", ".join(f"${number}" for number in range(3, 3 + len(values)))
    await connection.execute(
        f"INSERT INTO model_requests (id, user_id, {names}) VALUES ($1, $2, {places})",  # noqa: S608
        request_id,
        user,
        *values.values(),
    )
    return request_id


async def rescue(connection: Connection) -> None:
    """As the sweeper of a server whose own lease lets it judge others."""
    may_judge_others = True
    await connection.fetch(statements()["rescue_orphans"], [], may_judge_others, 0.0, 8, 2, 100)


async def claim(connection: Connection, request_id: UUID) -> Any:
    return await connection.fetchrow(CLAIM, request_id)


async def row_of(connection: Connection, request_id: UUID) -> Any:
    return await connection.fetchrow("SELECT * FROM model_requests WHERE id = $1", request_id)


async def test_a_claim_takes_the_row_under_a_lease_of_its_own(any_database: str, user: UUID) -> None:
    async with connected(any_database) as connection:
        request_id = await add(connection, user, model="org/a")
        claimed = await claim(connection, request_id)
        assert (claimed["epoch"], claimed["model"], claimed["model_type"], claimed["input_data"]) == (
            1,
            "org/a",
            "text2text",
            b'{"prompt": "x"}',
        )
        assert 0 < claimed["deadline_s"] <= 600
        row = await row_of(connection, request_id)
        assert (row["status"], row["epoch"], row["attempt"]) == ("processing", 1, 1)
        lease = await connection.fetchval("SELECT lease_until > now() FROM instances WHERE id = $1", row["owner"])
        assert lease
        assert await connection.fetch(CLAIM, request_id) == [], "it is taken"
        assert await connection.fetch(statements()["claim_pending"], uuid4(), 10, UUID(int=0), 2, 0, []) == []
        await rescue(connection)
        assert (await row_of(connection, request_id))["status"] == "processing", "the sweeper leaves it alone"


async def test_an_outcome_is_taken_once(any_database: str, user: UUID) -> None:
    async with connected(any_database) as connection:
        request_id = await add(connection, user)
        epoch = (await claim(connection, request_id))["epoch"]
        assert not await connection.fetchval(RECORD, request_id, epoch + 1, "completed", b"{}")
        assert await connection.fetchval(RECORD, request_id, epoch, "completed", b'{"output": "a"}')
        assert await connection.fetchval(RECORD, request_id, epoch, "completed", b'{"output": "a"}'), "a lost reply"
        assert not await connection.fetchval(RECORD, request_id, epoch, "failed", None)
        row = await row_of(connection, request_id)
        assert (row["status"], row["output_data"]) == ("completed", b'{"output": "a"}')
        assert await connection.fetchval("SELECT sum(completed) FROM usage_daily") == 1
        assert await connection.fetchval("SELECT count(*) FROM instances") == 0


async def test_a_row_that_is_given_back_can_be_claimed_again(any_database: str, user: UUID) -> None:
    async with connected(any_database) as connection:
        request_id = await add(connection, user)
        epoch = (await claim(connection, request_id))["epoch"]
        assert await connection.fetchval(RECORD, request_id, epoch, "pending", None)
        row = await row_of(connection, request_id)
        assert (row["status"], row["owner"], row["attempt"], row["epoch"]) == ("pending", None, 0, 1)
        assert not await connection.fetchval(RECORD, request_id, epoch, "completed", b"{}")
        assert (await claim(connection, request_id))["epoch"] == 2


async def test_a_lease_that_ran_out_makes_an_orphan_whose_late_outcome_is_fenced(any_database: str, user: UUID) -> None:
    async with connected(any_database) as connection:
        request_id = await add(connection, user)
        epoch = (await claim(connection, request_id))["epoch"]
        await connection.execute("UPDATE instances SET lease_until = now() - interval '1 second'")
        await rescue(connection)
        assert (await row_of(connection, request_id))["status"] == "pending"
        [claimed] = await connection.fetch(statements()["claim_pending"], uuid4(), 10, UUID(int=0), 2, 0, [])
        assert claimed["epoch"] == 2
        assert not await connection.fetchval(RECORD, request_id, epoch, "completed", b"{}")


async def test_a_server_cannot_be_impersonated(any_database: str, user: UUID) -> None:
    """A row that a server runs is not recorded by this way, whoever knows its epoch."""
    async with connected(any_database) as connection:
        request_id = await add(connection, user)
        server = uuid4()
        await connection.execute(statements()["register_instance"], server, 15.0, "host", 1, "folder 1", None)
        [claimed] = await connection.fetch(statements()["claim_pending"], server, 10, UUID(int=0), 2, 0, [])
        assert not await connection.fetchval(RECORD, request_id, claimed["epoch"], "completed", b"{}")
        assert await connection.fetch(CLAIM, request_id) == []


@pytest.mark.parametrize("asked", [True, False])
async def test_cancelling_wins_over_giving_back(any_database: str, user: UUID, *, asked: bool) -> None:
    async with connected(any_database) as connection:
        request_id = await add(connection, user)
        epoch = (await claim(connection, request_id))["epoch"]
        await connection.execute("UPDATE model_requests SET cancel_requested = $1", asked)
        await connection.fetchval(RECORD, request_id, epoch, "pending", None)
        assert (await row_of(connection, request_id))["status"] == ("cancelled" if asked else "pending")


async def test_what_cannot_be_claimed_is_not(any_database: str, user: UUID) -> None:
    async with connected(any_database) as connection:
        cancelled = await add(connection, user, cancel_requested=True)
        overdue = await add(connection, user)
        await connection.execute(
            "UPDATE model_requests SET deadline_at = now() - interval '1 s' WHERE id = $1", overdue
        )
        for request_id in (cancelled, overdue, uuid4()):
            assert await connection.fetch(CLAIM, request_id) == []
        mine = await add(connection, user)
        assert await connection.fetch("SELECT * FROM edge_claim($1, $2)", mine, uuid4()) == []
        assert len(await connection.fetch("SELECT * FROM edge_claim($1, $2)", mine, user)) == 1
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await connection.fetchval(RECORD, mine, 1, "cancelled", None)


async def test_of_many_who_want_a_row_one_gets_it(any_database: str, user: UUID) -> None:
    async with connected(any_database) as connection:
        ids = [await add(connection, user) for _ in range(10)]
        # Only a database of some age lets a row be taken from an owner without a lease.
        young_s = "SELECT greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '15.5 s' - now()))"
        await asyncio.sleep(float(await connection.fetchval(young_s)))

    async def claim_as_function(request_id: UUID) -> list[UUID]:
        async with connected(any_database) as connection:
            return [request_id] if await connection.fetch(CLAIM, request_id) else []

    async def claim_as_server() -> list[UUID]:
        async with connected(any_database) as connection:
            server = await add_instance(connection)  # without a lease, its rows are anybody's
            rows = await connection.fetch(statements()["claim_pending"], server, 10, UUID(int=0), 2, 0, [])
            return [row["id"] for row in rows]

    functions = [claim_as_function(request_id) for request_id in ids for _ in range(2)]
    got = await asyncio.gather(*functions, claim_as_server(), claim_as_server())
    taken = [request_id for won in got for request_id in won]
    assert len(taken) == len(set(taken))
    async with connected(any_database) as connection:
        owners = await connection.fetch("SELECT status, epoch FROM model_requests")
    assert all((row["status"], row["epoch"]) in {("processing", 1), ("pending", 0)} for row in owners)
