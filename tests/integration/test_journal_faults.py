"""The journal when replies are lost, the database is away, or its own run ends in the middle of a flush."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server.actors import journal as journal_module
from server.actors import write_queue as lanes
from server.actors.writes import Accepted, WriteStatus
from server.errors import Unavailable
from server.storage.database import DatabaseAway
from tests.fakes.wire import Wire
from tests.integration.journals import Desk, final, open_desk, released, run_journal, settle
from tests.rows import Row, add_row
from tests.signals import until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between two tries, so short that a test need not wait for them."""
    monkeypatch.setattr(journal_module, "_BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(journal_module, "_BACKOFF_CAP_S", 0.01)


@pytest.fixture
async def idle(database: str) -> AsyncIterator[Desk]:
    """A desk whose journal nobody runs yet."""
    async with open_desk(database) as desk:
        yield desk


@pytest.fixture
async def desk(idle: Desk) -> AsyncIterator[Desk]:
    async with run_journal(idle.journal):
        yield idle


async def test_an_accept_whose_reply_was_lost_is_one_row(desk: Desk) -> None:
    desk.wire.lose_replies = 2
    assert isinstance(await desk.journal.accept(desk.new()), Accepted)
    assert desk.wire.batches("accept_requests") == [1, 1, 1]
    assert await desk.count() == 1


async def test_an_accept_with_a_key_whose_reply_was_lost_is_no_replay_of_itself(desk: Desk) -> None:
    desk.wire.lose_replies = 1
    row = desk.new(key="order-1", fingerprint=b"one")
    assert isinstance(await desk.journal.accept(row), Accepted)
    assert await desk.count() == 1


async def test_an_outcome_whose_reply_was_lost_is_known_as_mine(desk: Desk) -> None:
    request_id = await desk.running()
    desk.wire.lose_replies = 1
    recorded = await desk.journal.record(final(request_id))
    assert recorded.status is WriteStatus.MINE
    assert recorded.counts
    usage = await desk.connection.fetch("SELECT completed, token_used FROM usage_daily")
    assert [tuple(day) for day in usage] == [(1, 3)]


async def test_a_release_whose_reply_was_lost_happens_once(desk: Desk) -> None:
    row = Row("processing", owner=final(desk.new().id).owner, epoch=1, attempt=2)
    request_id = await add_row(desk.connection, desk.user_id, row)
    desk.wire.lose_replies = 1
    await desk.journal.release(released(request_id))
    [stored] = await desk.connection.fetch("SELECT status, attempt FROM model_requests")
    assert tuple(stored) == ("pending", 1)


async def test_accepts_give_up_while_the_database_is_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ACCEPT_TIMEOUT_S", 0.05)
    desk.wire.is_cut = True
    with pytest.raises(Unavailable, match="does not answer") as refusal:
        await desk.journal.accept(desk.new())
    assert refusal.value.headers == {"Retry-After": "2"}


async def test_newcomers_are_refused_at_once_when_the_database_has_been_away_for_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "PATIENCE_S", 0.0)
    desk.wire.is_cut = True
    patient = asyncio.create_task(desk.journal.accept(desk.new()))
    await desk.wire.wait_refused(2)
    with pytest.raises(Unavailable, match="not available"):
        await desk.journal.accept(desk.new())
    desk.wire.is_cut = False
    assert isinstance(await patient, Accepted)
    assert isinstance(await desk.journal.accept(desk.new()), Accepted)


async def test_accepts_are_taken_again_after_an_outage_in_which_everyone_gave_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "PATIENCE_S", 0.0)
    desk.wire.is_cut = True
    with monkeypatch.context() as short:
        short.setattr(journal_module, "ACCEPT_TIMEOUT_S", 0.05)
        with pytest.raises(Unavailable):
            await desk.journal.accept(desk.new())
    desk.wire.is_cut = False
    await _accept_within(desk, 5.0)
    assert desk.journal.is_ready


async def test_a_journal_without_work_notices_that_its_connection_is_lost_and_opens_another(desk: Desk) -> None:
    assert desk.journal.is_ready
    desk.wire.is_cut = True
    [pid] = await _backends(desk)
    await desk.connection.fetch("SELECT pg_terminate_backend($1)", pid)
    await desk.wire.wait_refused(3)
    assert not desk.journal.is_ready
    desk.wire.is_cut = False
    async with asyncio.timeout(5):
        await desk.wire.wait_sent(1)
    assert desk.wire.batches("check_writes") == [0]
    assert await _backends(desk) != [pid]
    assert desk.journal.is_ready


async def _backends(desk: Desk) -> list[int]:
    """The journal's connections, seen from the database."""
    rows = await desk.connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return [row["pid"] for row in rows]


async def test_a_journal_without_work_writes_now_and_then(idle: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "CHECK_INTERVAL_S", 0.01)
    async with run_journal(idle.journal):
        await idle.wire.wait_sent(2)
    assert {sent.query for sent in idle.wire.sent} == {"check_writes"}


@pytest.mark.parametrize("obstacle", ["REVOKE", "read only"])
async def test_readiness_follows_the_last_write(desk: Desk, obstacle: str) -> None:
    """The heartbeat may still write; what counts is whether a row can be inserted."""
    lock = "CREATE TRIGGER no BEFORE INSERT ON model_requests EXECUTE FUNCTION nothing_is_inserted()"
    failing = "RAISE SQLSTATE '25006'" if obstacle == "read only" else "RAISE SQLSTATE '42501'"
    await desk.connection.execute(
        f"CREATE FUNCTION nothing_is_inserted() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {failing}; END$$; {lock}"
    )
    accept = asyncio.create_task(desk.journal.accept(desk.new()))
    await until(lambda: not desk.journal.is_ready)
    await desk.connection.execute("DROP TRIGGER no ON model_requests")
    [reply] = await asyncio.gather(accept, return_exceptions=True)
    assert isinstance(reply, Accepted if obstacle == "read only" else asyncpg.InsufficientPrivilegeError)
    await until(lambda: desk.journal.is_ready)


async def _accept_within(desk: Desk, seconds: float) -> None:
    """Try as a client would, until it is accepted."""

    async def is_accepted() -> bool:
        try:
            return isinstance(await desk.journal.accept(desk.new()), Accepted)
        except Unavailable:
            return False

    await until(is_accepted, within_s=seconds)


async def test_accepts_that_were_given_up_are_never_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.wire.is_cut = True
    with monkeypatch.context() as short:
        short.setattr(journal_module, "ACCEPT_TIMEOUT_S", 0.05)
        given_up = await asyncio.gather(*(desk.journal.accept(desk.new()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(reply, Unavailable) for reply in given_up)
    desk.wire.is_cut = False
    assert isinstance(await desk.journal.accept(desk.new()), Accepted)
    assert desk.wire.batches("accept_requests") == [1]
    assert await desk.count() == 1


async def test_an_accept_that_was_given_up_behind_a_flush_is_never_sent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = await desk.running()
    desk.wire.hold()
    outcome = asyncio.create_task(desk.journal.record(final(request_id)))
    await desk.wire.wait_sent(1)
    with monkeypatch.context() as short:
        short.setattr(journal_module, "ACCEPT_TIMEOUT_S", 0.01)
        with pytest.raises(Unavailable):
            await desk.journal.accept(desk.new())
    desk.wire.release_waiting()
    await outcome
    await desk.journal.wait_flushed()
    assert desk.wire.batches("accept_requests") == []


async def test_outcomes_wait_for_the_database_however_long_it_is_away(desk: Desk) -> None:
    ended, given_back = await desk.running(), await desk.running()
    desk.wire.is_cut = True
    outcome = asyncio.create_task(desk.journal.record(final(ended)))
    release = asyncio.create_task(desk.journal.release(released(given_back)))
    await desk.wire.wait_refused(10)
    assert not desk.journal.is_ready
    assert not outcome.done()
    assert not release.done()
    desk.wire.is_cut = False
    assert [(await outcome).status, (await release).status] == [WriteStatus.WRITTEN, WriteStatus.WRITTEN]
    assert desk.journal.is_ready
    assert (await desk.status(ended), await desk.status(given_back)) == ("completed", "pending")


async def test_outcomes_are_written_after_the_server_closed_the_connection(desk: Desk) -> None:
    first, second = await desk.running(), await desk.running()
    await desk.journal.record(final(first))
    await desk.connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert (await desk.journal.record(final(second))).counts


async def test_a_statement_that_nobody_answers_is_sent_again(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_desk(database) as desk:
        monkeypatch.setattr(desk.journal._connection, "_timeout_s", 0.2)
        async with run_journal(desk.journal):
            desk.wire.hold()
            accept = asyncio.create_task(desk.journal.accept(desk.new()))
            await desk.wire.wait_sent(2)
            desk.wire.release_waiting()
            assert isinstance(await accept, Accepted)
            assert await desk.count() == 1


@pytest.mark.parametrize("end", ["cancel", "crash"])
async def test_a_run_that_ends_in_a_flush_loses_nothing(idle: Desk, end: str) -> None:
    ended, given_back = await idle.running(), await idle.running()
    work = [
        asyncio.create_task(idle.journal.record(final(ended))),
        asyncio.create_task(idle.journal.release(released(given_back))),
        *(asyncio.create_task(idle.journal.accept(idle.new())) for _ in range(3)),
    ]
    if end == "crash":
        idle.wire.break_next = RuntimeError("a bug")
    else:
        idle.wire.hold()
    async with run_journal(idle.journal) as run:
        if end == "crash":
            with pytest.raises(RuntimeError, match="a bug"):
                await run
        else:
            await idle.wire.wait_sent(1)
    late = asyncio.create_task(idle.journal.accept(idle.new()))
    await settle(late)
    assert not any(task.done() for task in work)
    idle.wire.release_waiting()
    async with run_journal(idle.journal):
        await asyncio.gather(*work, late)
        await idle.journal.wait_flushed()
    assert (await idle.status(ended), await idle.status(given_back)) == ("completed", "pending")
    assert await idle.count() == 6


async def test_a_run_that_ends_after_half_a_flush_sends_only_the_rest_again(idle: Desk) -> None:
    ended = await idle.running()
    outcome = asyncio.create_task(idle.journal.record(final(ended)))
    accept = asyncio.create_task(idle.journal.accept(idle.new()))

    def hold_the_accept(query: str) -> None:
        if query == "record_outcomes":
            idle.wire.hold()

    idle.wire.on_statement = hold_the_accept
    async with run_journal(idle.journal):
        await idle.wire.wait_sent(2)
        assert (await outcome).status is WriteStatus.WRITTEN
    idle.wire.release_waiting()
    async with run_journal(idle.journal):
        assert isinstance(await accept, Accepted)
    assert [sent.query for sent in idle.wire.sent] == [
        "record_outcomes",
        "accept_requests",
        "accept_requests",
        "read_back_accepts",
    ]
    assert await idle.count() == 2


async def test_a_batch_too_large_for_a_slow_line_passes_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement with more than two rows is never answered in time; each half of it is sent on its own."""
    transmit = Wire.transmit

    async def slow(wire: Wire, connection: Any, text: str, args: tuple[Any, ...]) -> Any:
        if len(args[0]) > 2:
            raise DatabaseAway("no answer within 10 s", is_slow=True)
        return await transmit(wire, connection, text, args)

    monkeypatch.setattr(Wire, "transmit", slow)
    rows = [desk.new() for _ in range(9)]
    replies = await asyncio.gather(*(desk.journal.accept(row) for row in rows))
    assert all(isinstance(reply, Accepted) for reply in replies)
    assert await desk.count() == 9


async def test_a_batch_is_bounded_in_bytes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_BATCH_BYTES", 1000)
    big = b'{"prompt": "' + b"x" * 900 + b'"}'
    await asyncio.gather(*(desk.journal.accept(desk.new(input_data=big)) for _ in range(4)))
    assert desk.wire.batches("accept_requests") == [1, 1, 1, 1]


async def test_a_long_lock_never_costs_an_outcome(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_CONTENTION_TRIES", 2)
    monkeypatch.setattr(journal_module, "_BACKOFF_CAP_S", 0.01)
    ended = await desk.running()
    tries = 0
    transmit = Wire.transmit

    async def locked(wire: Wire, connection: Any, text: str, args: tuple[Any, ...]) -> Any:
        nonlocal tries
        tries += 1
        if tries < 6:
            raise asyncpg.LockNotAvailableError("lock timeout")
        return await transmit(wire, connection, text, args)

    monkeypatch.setattr(Wire, "transmit", locked)
    assert (await desk.journal.record(final(ended))).counts
    assert await desk.status(ended) == "completed"


async def test_one_outcome_that_cannot_be_written_now_holds_up_nobody(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_PARKED_S", 0.01)
    bad, good = await desk.running(), await desk.running()
    await desk.connection.execute(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.id = '{bad}' THEN RAISE EXCEPTION 'not now'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON model_requests FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    waiting = asyncio.create_task(desk.journal.record(final(bad)))
    assert (await desk.journal.record(final(good))).counts
    assert isinstance(await desk.journal.accept(desk.new()), Accepted)
    assert not waiting.done()
    await desk.connection.execute("DROP TRIGGER refuse ON model_requests")
    assert (await waiting).counts


async def test_one_row_under_two_epochs_in_one_batch_counts_once(desk: Desk) -> None:
    request_id = await desk.running()
    await desk.connection.execute("UPDATE model_requests SET epoch = 2 WHERE id = $1", request_id)
    stale, current = await asyncio.gather(
        desk.journal.record(final(request_id)), desk.journal.record(final(request_id, epoch=2))
    )
    assert (stale.counts, current.counts) == (False, True)
