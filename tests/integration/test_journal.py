"""The journal on a real database: batches, bad rows and idempotency keys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from server.actors import journal as journal_module
from server.actors import write_queue as lanes
from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.writes import Accepted, NewRequest, Replayed, WriteStatus
from server.errors import Unavailable
from server.storage.database import Database, DedicatedConnection
from tests.integration.journals import ME, Desk, final, open_desk, released, run_journal, settle
from tests.rows import read_row

KEY: dict[str, Any] = {"key": "order-1", "fingerprint": b"one"}


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_desk(database) as desk, run_journal(desk.journal):
        yield desk


def _accept(desk: Desk, *rows: NewRequest) -> "list[asyncio.Task[Accepted | Replayed]]":
    return [asyncio.create_task(desk.journal.accept(row)) for row in rows]


async def _all_at_once(desk: Desk, *rows: NewRequest) -> list[Any]:
    """The replies, or errors, of accepts that stand in one batch."""
    return await asyncio.gather(*_accept(desk, *rows), return_exceptions=True)


async def test_an_idle_journal_writes_at_once(desk: Desk) -> None:
    for _ in range(3):
        assert isinstance(await desk.journal.accept(desk.new()), Accepted)
    assert desk.wire.batches("accept_requests") == [1, 1, 1]


async def test_what_comes_during_a_flush_is_one_batch(desk: Desk) -> None:
    desk.wire.hold()
    first = _accept(desk, desk.new())
    await desk.wire.wait_sent(1)
    others = _accept(desk, *(desk.new() for _ in range(20)))
    await settle(*others)
    desk.wire.release_waiting()
    await asyncio.gather(*first, *others)
    assert desk.wire.batches("accept_requests") == [1, 20]


async def test_a_batch_has_a_limit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_BATCH_ROWS", 4)
    await _all_at_once(desk, *(desk.new() for _ in range(10)))
    assert desk.wire.batches("accept_requests") == [4, 4, 2]


async def test_what_ends_is_written_before_what_begins(desk: Desk) -> None:
    ended, given_back = await desk.running(), await desk.running()
    await asyncio.gather(
        desk.journal.accept(desk.new()),
        desk.journal.release(released(given_back)),
        desk.journal.record(final(ended)),
    )
    assert [sent.query for sent in desk.wire.sent] == ["record_outcomes", "release_requests", "accept_requests"]
    assert (await desk.status(ended), await desk.status(given_back)) == ("completed", "pending")


async def test_an_accepted_row_is_committed_as_it_was_given(desk: Desk) -> None:
    born_running, lined_up = desk.new(), desk.new(owner=None, delay_s=30.0, model="org/model")
    replies = await _all_at_once(desk, born_running, lined_up)
    one, two = await read_row(desk.connection, born_running.id), await read_row(desk.connection, lined_up.id)
    assert replies == [Accepted(row["created_at"], row["deadline_at"]) for row in (one, two)]
    assert (one["status"], one["owner"], one["epoch"], one["attempt"]) == ("processing", ME, 1, 1)
    assert (two["status"], two["owner"], two["epoch"], two["attempt"]) == ("pending", None, 0, 0)
    assert (two["run_at"] - two["created_at"]).total_seconds() == 30
    assert (two["deadline_at"] - two["run_at"]).total_seconds() == 600  # a row that is put off has its full time
    assert (one["input_data"], two["model"]) == (b'{"prompt": "hello"}', "org/model")


async def test_a_row_that_is_refused_does_not_harm_the_others(desk: Desk) -> None:
    rows = [desk.new() for _ in range(9)]
    bad = desk.new(user_id=uuid4())
    *good, refused = await _all_at_once(desk, *rows[:4], *rows[4:], bad)
    assert all(isinstance(reply, Accepted) for reply in good)
    assert isinstance(refused, asyncpg.ForeignKeyViolationError)
    assert await desk.count() == 9


async def test_an_outcome_that_is_refused_does_not_harm_the_others(desk: Desk) -> None:
    ids = [await desk.running() for _ in range(4)]
    bad = await desk.running()
    outcomes = [final(request_id) for request_id in ids] + [final(bad, output_data=b'{"output": "\\u0000"}')]
    *good, refused = await asyncio.gather(*map(desk.journal.record, outcomes), return_exceptions=True)
    assert [getattr(reply, "status", None) for reply in good] == [WriteStatus.WRITTEN] * 4
    assert isinstance(refused, asyncpg.UntranslatableCharacterError)
    assert await desk.status(bad) == "processing"  # for its generator to fail it with words of its own


async def test_outcomes_are_told_what_became_of_them(desk: Desk) -> None:
    mine, fenced = await desk.running(), await desk.running()
    written = await desk.journal.record(final(mine))
    replies = await asyncio.gather(
        desk.journal.record(final(mine)),
        desk.journal.record(final(fenced, epoch=9)),
        desk.journal.record(final(desk.new().id)),
    )
    assert [reply.status for reply in replies] == [WriteStatus.MINE, WriteStatus.FENCED, WriteStatus.GONE]
    assert replies[0].completed_at == written.completed_at == (await read_row(desk.connection, mine))["completed_at"]
    assert [reply.counts for reply in (written, *replies)] == [True, True, False, False]


async def test_one_key_twice_in_a_batch_inserts_once(desk: Desk) -> None:
    first, second, other_body = desk.new(**KEY), desk.new(**KEY), desk.new(key=KEY["key"], fingerprint=b"two")
    replies = await _all_at_once(desk, other_body, second, first)  # the order of ids decides, not that of arrival
    assert isinstance(replies[2], Accepted)
    assert replies[:2] == [Replayed(first.id, is_same_body=False), Replayed(first.id, is_same_body=True)]
    assert await desk.count() == 1


async def test_a_key_that_is_taken_gives_the_earlier_request(desk: Desk) -> None:
    first = desk.new(**KEY)
    await desk.journal.accept(first)
    replies = await _all_at_once(desk, desk.new(**KEY), desk.new(key=KEY["key"], fingerprint=b"two"), desk.new())
    assert replies[:2] == [Replayed(first.id, is_same_body=True), Replayed(first.id, is_same_body=False)]
    assert isinstance(replies[2], Accepted)
    assert await desk.count() == 2


async def test_a_key_belongs_to_its_user(desk: Desk) -> None:
    [stranger] = await desk.connection.fetch(
        "INSERT INTO auth.users (id, email, encrypted_password) VALUES (gen_random_uuid(), 'x@example.com', '-')"
        " RETURNING id"
    )
    replies = await _all_at_once(desk, desk.new(**KEY), desk.new(user_id=stranger["id"], **KEY))
    assert all(isinstance(reply, Accepted) for reply in replies)


async def test_a_key_is_free_again_after_a_day(desk: Desk) -> None:
    await desk.journal.accept(desk.new(**KEY))
    await desk.connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")
    second = desk.new(key=KEY["key"], fingerprint=b"two")
    assert isinstance(await desk.journal.accept(second), Accepted)
    assert await desk.journal.accept(desk.new(key=KEY["key"], fingerprint=b"two")) == Replayed(second.id, True)  # noqa: FBT003


async def test_a_key_answers_after_its_request_was_deleted(desk: Desk) -> None:
    first = desk.new(**KEY)
    await desk.journal.accept(first)
    await desk.connection.execute("DELETE FROM model_requests")
    assert await desk.journal.accept(desk.new(**KEY)) == Replayed(first.id, is_same_body=True)


async def test_a_refused_row_leaves_its_key_free(desk: Desk) -> None:
    bad, good = desk.new(input_data=b'{"prompt": "\\u0000"}', **KEY), desk.new(**KEY)
    replies = await _all_at_once(desk, bad, good)
    assert isinstance(replies[0], asyncpg.UntranslatableCharacterError)
    assert isinstance(replies[1], Accepted)


async def test_two_instances_race_for_a_key_and_one_wins(database: str, desk: Desk) -> None:
    rival = Journal(DedicatedConnection(Database(database).connect), lease=Lease())
    async with run_journal(rival):
        for number in range(20):
            key = {"key": f"race-{number}", "fingerprint": b"same"}
            ours, theirs = desk.new(**key), desk.new(**key)
            replies = await asyncio.gather(desk.journal.accept(ours), rival.accept(theirs))
            winner, loser = (ours, replies[1]) if isinstance(replies[0], Accepted) else (theirs, replies[0])
            assert loser == Replayed(winner.id, is_same_body=True)
    assert await desk.count() == 20


async def test_too_many_accepts_are_refused_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_WAITING_BYTES", 2 * desk.new().size)
    desk.wire.hold()
    in_flight = _accept(desk, desk.new())
    await desk.wire.wait_sent(1)
    waiting = _accept(desk, *(desk.new() for _ in range(3)))
    await settle(*waiting)
    with pytest.raises(Unavailable, match="overloaded"):
        await desk.journal.accept(desk.new())
    desk.wire.release_waiting()
    await asyncio.gather(*in_flight, *waiting)
    assert await desk.count() == 4


async def test_flushed_means_that_everything_is_written(desk: Desk) -> None:
    desk.wire.hold()
    accepts = _accept(desk, desk.new())
    await desk.wire.wait_sent(1)
    flushed = asyncio.create_task(desk.journal.wait_flushed())
    await settle(flushed)
    assert not flushed.done()
    desk.wire.release_waiting()
    await flushed
    assert all(accept.done() for accept in accepts)
