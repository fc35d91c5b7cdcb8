"""What each statement does to a row, over every state that a row can be in."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.model_request import InstanceId, RequestId, UserId
from server.storage.queries import statements
from tests.rows import FINAL, STATUSES, Row, add_instance, add_row, add_user, connected, read_row

ME, OTHER = uuid4(), uuid4()
EPOCH = 3


@dataclass(frozen=True, slots=True)
class Table:
    """A database with one user, to fill with rows."""

    connection: "asyncpg.Connection[Any]"
    user_id: UserId

    async def add(self, row: Row | None = None) -> RequestId:
        return await add_row(self.connection, self.user_id, row)

    async def add_all(self, rows: list[Row]) -> dict[RequestId, Row]:
        return {await self.add(row): row for row in rows}

    async def run(self, query: str, *args: Any) -> dict[RequestId, asyncpg.Record]:
        """What a statement returns, by id."""
        return {row["id"]: row for row in await self.connection.fetch(statements()[query], *args)}

    async def read(self, request_id: RequestId) -> asyncpg.Record:
        return await read_row(self.connection, request_id)

    async def statuses(self) -> dict[RequestId, str]:
        rows = await self.connection.fetch("SELECT id, status FROM model_requests")
        return {row["id"]: row["status"] for row in rows}


@pytest.fixture
async def table(any_database: str) -> AsyncIterator[Table]:
    async with connected(any_database) as connection:
        yield Table(connection, await add_user(connection))


def _fenced_states() -> list[Row]:
    """Every status, owner and epoch around the fence (ME, EPOCH), asked to cancel or not."""
    return [
        Row(status, owner=owner, epoch=epoch, attempt=2, cancel_requested=cancel)
        for status, owner, epoch, cancel in product(STATUSES, (ME, OTHER, None), (EPOCH - 1, EPOCH), (False, True))
        if status != "processing" or owner is not None
    ]


def _passes_fence(row: Row) -> bool:
    return (row.status, row.owner, row.epoch) == ("processing", ME, EPOCH)


def _fence(ids: list[RequestId]) -> tuple[list[RequestId], list[UUID], list[int]]:
    return ids, [ME] * len(ids), [EPOCH] * len(ids)


async def test_an_outcome_is_written_only_through_its_fence(table: Table) -> None:
    rows = await table.add_all(_fenced_states())
    count = len(rows)
    written = await table.run(
        "record_outcomes",
        *_fence(list(rows)),
        ["completed"] * count,
        [b'{"output": "answer"}'] * count,
        [None] * count,
        [None] * count,
        [30] * count,
        [20] * count,
        [None] * count,
        ["org/model"] * count,
        [b'[["output", 6]]'] * count,
        [b'{"total_tokens": 30}'] * count,
        [b'{"status": 400}'] * count,
        [Decimal("0.000000000001")] * count,
    )
    assert set(written) == {request_id for request_id, row in rows.items() if _passes_fence(row)}
    expected = {request_id: "completed" if _passes_fence(row) else row.status for request_id, row in rows.items()}
    assert await table.statuses() == expected
    for request_id, told in written.items():
        row = await table.read(request_id)
        assert row["output_data"] == b'{"output": "answer"}'
        assert (row["usage"], row["upstream_error"]) == (b'{"total_tokens": 30}', b'{"status": 400}')
        assert (row["token_used"], row["token_count"], row["model"]) == (30, 20, "org/model")
        assert row["cost_usd"] == Decimal("0.000000000001")
        assert row["completed_at"] == told["completed_at"]


async def test_a_cancel_ends_what_waits_and_asks_for_the_end_of_what_runs(table: Table) -> None:
    stranger = await add_user(table.connection)
    rows = await table.add_all([Row(status, owner=ME, epoch=EPOCH) for status in STATUSES])
    for request_id, before in rows.items():
        assert not await table.run("cancel_request", request_id, stranger)
        told = await table.run("cancel_request", request_id, table.user_id)
        row = await table.read(request_id)
        assert bool(told) == (before.status not in FINAL)
        assert row["status"] == ("cancelled" if before.status == "pending" else before.status)
        assert row["cancel_requested"] == (before.status not in FINAL)
        assert (row["completed_at"] is not None) == (row["status"] in FINAL)


async def test_a_request_is_deleted_by_its_user_only(table: Table) -> None:
    stranger = await add_user(table.connection)
    rows = await table.add_all([Row(status, owner=ME, epoch=EPOCH) for status in STATUSES])
    for request_id in rows:
        assert not await table.run("delete_request", request_id, stranger)
    assert set(await table.statuses()) == set(rows)
    for request_id in rows:
        assert set(await table.run("delete_request", request_id, table.user_id)) == {request_id}
    assert not await table.statuses()


async def test_a_release_gives_back_row_and_attempt_only_through_its_fence(table: Table) -> None:
    rows = await table.add_all(_fenced_states())
    count = len(rows)
    released = await table.run(
        "release_requests",
        *_fence(list(rows)),
        [60.0] * count,
        ["MODEL_ERROR"] * count,
        ["busy"] * count,
        [b'{"status": 429}'] * count,
    )
    assert set(released) == {request_id for request_id, row in rows.items() if _passes_fence(row)}
    statuses = await table.statuses()
    for request_id, before in rows.items():
        after = "cancelled" if before.cancel_requested else "pending"
        assert statuses[request_id] == (after if _passes_fence(before) else before.status)
    [given_back] = [await table.read(released_id) for released_id in released if not rows[released_id].cancel_requested]
    assert (given_back["owner"], given_back["epoch"], given_back["attempt"]) == (None, EPOCH, 1)
    assert (given_back["error_code"], given_back["error_msg"]) == ("MODEL_ERROR", "busy")
    assert given_back["upstream_error"] == b'{"status": 429}'
    assert given_back["started_at"] is None
    claimed = await table.run("claim_pending", OTHER, 100, UUID(int=0), 9, 0, [])
    assert claimed.keys().isdisjoint(released)  # not before its time


async def test_a_release_never_takes_the_attempt_below_zero(table: Table) -> None:
    request_id = await table.add(Row("processing", owner=ME, epoch=EPOCH, attempt=0))
    await table.run("release_requests", *_fence([request_id]), [0.0], [None], [None], [None])
    assert (await table.read(request_id))["attempt"] == 0


async def test_a_cancelled_row_that_is_released_ends_without_an_error_and_says_when(table: Table) -> None:
    request_id = await table.add(Row("processing", owner=ME, epoch=EPOCH, attempt=1, cancel_requested=True))
    released = await table.run("release_requests", *_fence([request_id]), [5.0], ["MODEL_ERROR"], ["busy"], [b"{}"])
    row = await table.read(request_id)
    assert row["status"] == "cancelled"
    assert (row["error_code"], row["error_msg"], row["upstream_error"]) == (None, None, None)
    assert released[request_id]["completed_at"] == row["completed_at"]


async def test_an_outcome_that_matched_nothing_is_told_why(table: Table) -> None:
    rows = await table.add_all(_fenced_states())
    gone = RequestId(uuid4())
    ids = [*rows, gone]
    fates = {
        request_id: row["status"] for request_id, row in (await table.run("classify_outcomes", *_fence(ids))).items()
    }

    def expected(row: Row) -> str:
        if row.status not in FINAL:
            return "fenced"
        return "mine" if (row.owner, row.epoch) == (ME, EPOCH) else "finished_elsewhere"

    assert fates == {request_id: expected(row) for request_id, row in rows.items()} | {gone: "gone"}


async def _owners(table: Table) -> dict[str, InstanceId]:
    return {
        "live": await add_instance(table.connection),
        "expired": await add_instance(table.connection, lease_s=-0.1),
        "unknown": InstanceId(uuid4()),
        "known dead": await add_instance(table.connection),
    }


@pytest.mark.parametrize(("may_judge", "postmaster_age_s"), [(True, 0.0), (False, 0.0), (True, 1e9)])
async def test_rescue_takes_rows_of_dead_owners(table: Table, may_judge: bool, postmaster_age_s: float) -> None:  # noqa: FBT001
    owners = await _owners(table)
    rows = await table.add_all(
        [
            Row(status, owner=owner, epoch=EPOCH, attempt=attempt, cancel_requested=cancel)
            for status, owner, attempt, cancel in product(STATUSES, owners.values(), (1, 5), (False, True))
        ]
    )
    judges = may_judge and postmaster_age_s == 0
    dead = {owners["known dead"]} | ({owners["expired"], owners["unknown"]} if judges else set())

    def expected(row: Row) -> str:
        if row.status != "processing" or row.owner not in dead:
            return row.status
        return "cancelled" if row.cancel_requested else "failed" if row.attempt == 5 else "pending"

    rescued = await table.run("rescue_orphans", [owners["known dead"]], may_judge, postmaster_age_s, 5, 2, 1000)
    assert set(rescued) == {id_ for id_, row in rows.items() if row.status == "processing" and row.owner in dead}
    assert await table.statuses() == {request_id: expected(row) for request_id, row in rows.items()}
    for request_id in rescued:
        row = await table.read(request_id)
        assert (row["owner"], row["epoch"]) == (None, EPOCH)  # only a claim raises the epoch
        assert (row["error_code"] == "SERVER_ERROR") == (row["status"] == "failed")


async def test_claim_takes_due_rows_that_are_neither_cancelled_nor_suspect(table: Table) -> None:
    rows = await table.add_all(
        [
            Row(status, owner=OTHER, epoch=EPOCH, attempt=attempt, cancel_requested=cancel, run_in_s=run_in_s)
            for status, attempt, cancel, run_in_s in product(STATUSES, (0, 1, 2), (False, True), (-1.0, 60.0))
        ]
    )
    claimed = await table.run("claim_pending", ME, 1000, UUID(int=0), 2, 0, [])
    assert set(claimed) == {
        request_id
        for request_id, row in rows.items()
        if row.status == "pending" and row.attempt < 2 and not row.cancel_requested and row.run_in_s < 0
    }
    for request_id, record in claimed.items():
        row = await table.read(request_id)
        assert (row["status"], row["owner"], row["epoch"]) == ("processing", ME, EPOCH + 1)
        assert row["attempt"] == rows[request_id].attempt + 1 == record["attempt"]
        assert 590 < record["deadline_left_s"] <= 600
        assert row["started_at"] is not None


@pytest.mark.parametrize(
    ("query", "state", "args"),
    [
        ("claim_pending", Row(error_code="MODEL_ERROR", error_msg="busy"), (ME, 10, UUID(int=0), 2, 0, [])),
        ("claim_quarantined", Row(error_code="MODEL_ERROR", error_msg="busy", attempt=2), (ME, 1)),
        (
            "reclaim_own",
            Row("processing", owner=ME, error_code="MODEL_ERROR", error_msg="busy", started_ago_s=20.0),
            (ME, [], 10.0, 2, 10),
        ),
    ],
)
async def test_whoever_takes_a_row_up_learns_its_last_error(
    table: Table, query: str, state: Row, args: tuple[Any, ...]
) -> None:
    request_id = await table.add(state)
    taken = (await table.run(query, *args))[request_id]
    assert (taken["error_code"], taken["error_msg"]) == ("MODEL_ERROR", "busy")


async def test_suspects_are_claimed_in_groups_that_shrink_with_their_crashes(table: Table) -> None:
    rows = await table.add_all(
        [
            Row(status, owner=OTHER, epoch=EPOCH, attempt=attempt, cancel_requested=cancel, run_in_s=run_in_s)
            for status, attempt, cancel, run_in_s in product(
                STATUSES, (1, 2, 2, 2, 3, 3, 4), (True, False), (60.0, -1.0)
            )
        ]
    )
    suspects = [
        request_id
        for request_id, row in rows.items()
        if row.status == "pending" and row.attempt >= 2 and not row.cancel_requested and row.run_in_s < 0
    ]
    left = sorted(suspects, key=lambda request_id: rows[request_id].attempt)
    for size in (2, 1, 1, 1, 1):  # two of the three with two crashes fit into a group of 2, and then its quarters
        group = await table.run("claim_quarantined", ME, 2)
        assert set(group) == set(left[:size])
        for request_id in group:
            row = await table.read(request_id)
            assert (row["owner"], row["epoch"], row["attempt"]) == (ME, EPOCH + 1, rows[request_id].attempt)
        left = left[size:]
    assert not left
    assert not await table.run("claim_quarantined", ME, 2)


async def test_a_suspect_spends_one_attempt_when_it_starts_and_only_if_it_is_still_ours(table: Table) -> None:
    request_id = await table.add(Row("processing", owner=ME, epoch=EPOCH, attempt=2))
    for owner, epoch in ((OTHER, EPOCH), (ME, EPOCH + 1)):
        assert not await table.run("start_quarantined", [request_id], [owner], [epoch], [3])
    for _ in range(2):  # the first reply may have been lost
        assert list(await table.run("start_quarantined", [request_id], [ME], [EPOCH], [3])) == [request_id]
    assert (await table.read(request_id))["attempt"] == 3


@pytest.mark.parametrize(("attempt", "pause_s"), [(1, 0), (2, 1), (3, 2), (6, 16), (7, 30), (40, 30)])
async def test_a_rescued_row_pauses_longer_with_every_crash(table: Table, attempt: int, pause_s: float) -> None:
    request_id = await table.add(Row("processing", owner=OTHER, attempt=attempt))
    is_old_enough = False  # to judge others, which a known dead owner does not need
    await table.run("rescue_orphans", [OTHER], is_old_enough, 0.0, 50, 2, 10)
    row = await table.read(request_id)
    now = await table.connection.fetchval("SELECT clock_timestamp()")
    assert pause_s - 1 < (row["run_at"] - now).total_seconds() <= pause_s


async def test_expiry_ends_overdue_rows_and_keeps_their_last_error(table: Table) -> None:
    rows = await table.add_all(
        [
            Row(status, owner=ME, deadline_in_s=deadline_in_s, error_code=code, error_msg=message)
            for status, deadline_in_s, (code, message) in product(
                STATUSES, (10.0, -10.0, -40.0), ((None, None), ("MODEL_ERROR", "The model is busy."))
            )
        ]
    )
    expired = await table.run("expire_requests", 30.0, None, 1000)
    overdue = {("pending", -10.0), ("pending", -40.0), ("processing", -40.0)}
    assert set(expired) == {id_ for id_, row in rows.items() if (row.status, row.deadline_in_s) in overdue}
    for request_id in expired:
        row, before = await table.read(request_id), rows[request_id]
        assert row["status"] == "failed"
        assert row["error_msg"].startswith("Not finished by its deadline")
        assert row["error_code"] == (before.error_code or "SERVER_ERROR")
        assert before.error_msg is None or row["error_msg"].endswith(before.error_msg)


async def test_what_expires_for_want_of_a_provider_says_so(table: Table) -> None:
    pending = await table.add(Row(deadline_in_s=-1))
    running = await table.add(Row("processing", owner=ME, deadline_in_s=-60))
    await table.run("expire_requests", 30.0, "It answers with status 503.", 10)
    row = await table.read(pending)
    assert row["error_code"] == "MODEL_ERROR"
    assert row["error_msg"].endswith("The model provider does not answer. It answers with status 503.")
    assert (await table.read(running))["error_msg"].endswith("the model was still answering.")


async def test_an_outcome_after_expiry_is_not_taken_for_the_one_that_stands(table: Table) -> None:
    request_id = await table.add(Row("processing", owner=ME, epoch=EPOCH, deadline_in_s=-60))
    await table.run("expire_requests", 30.0, None, 10)
    told = await table.run("classify_outcomes", *_fence([request_id]))
    assert told[request_id]["status"] == "finished_elsewhere"


async def test_cancellation_that_was_asked_for_ends_pending_rows_only(table: Table) -> None:
    rows = await table.add_all(
        [Row(status, owner=ME, cancel_requested=cancel) for status, cancel in product(STATUSES, (False, True))]
    )
    [ended] = await table.run("finalise_cancelled", 1000)
    assert rows[ended] == Row("pending", owner=ME, cancel_requested=True)
    row = await table.read(ended)
    assert row["status"] == "cancelled"
    assert row["completed_at"] is not None


async def test_adoption_takes_own_rows_that_memory_does_not_hold(table: Table) -> None:
    states = list(product(STATUSES, (ME, OTHER), (1.0, 20.0)))
    rows = await table.add_all(
        [Row(status, owner=owner, epoch=EPOCH, attempt=1, started_ago_s=ago_s) for status, owner, ago_s in states]
    )
    held = await table.add(Row("processing", owner=ME, epoch=EPOCH, started_ago_s=20.0))
    adopted = await table.run("reclaim_own", ME, [held], 10.0, 2, 1000)
    [request_id] = adopted
    assert (rows[request_id].status, rows[request_id].owner, rows[request_id].started_ago_s) == ("processing", ME, 20.0)
    row = await table.read(request_id)
    assert (row["owner"], row["epoch"], row["attempt"]) == (ME, EPOCH + 1, 1)
    assert adopted[request_id]["epoch"] == EPOCH + 1
    assert not await table.run("reclaim_own", ME, [held], 10.0, 2, 1000)  # it is young again
