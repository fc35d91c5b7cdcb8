"""The engine: ready only when the database can be used, and ended by what no restart mends."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from server import engine as engine_module
from server.actors import supervisor as supervisor_module
from server.actors.supervisor import MAX_RESTARTS, ActorFailed
from server.errors import CannotStart, Unavailable
from server.inference.breaker import THRESHOLD
from server.inference.events import Check, Completed, Delta, UpstreamFault
from server.lifecycle import Phase
from server.model_request import InstanceId, Usage, mint_id
from server.storage.database import DatabaseAway
from tests.fakes.statements import Rows
from tests.unit.engines import Desk

DONE = Completed({"output": "Hi there"}, Usage(5, 2), "org/model")
DEAD = InstanceId(mint_id())
UNREACHABLE = Check(UpstreamFault.UNREACHABLE, "Nothing answers.")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PREPARE_BACKOFF_CAP_S", 0.0)
    monkeypatch.setattr(supervisor_module, "_PAUSE_S", 0.0)


async def test_it_prepares_forgets_the_dead_and_registers_before_it_is_ready(tmp_path: Path) -> None:
    desk = Desk(tmp_path, predecessors=[DEAD])
    assert desk.lifecycle.phase is Phase.STARTING
    assert not desk.engine.has_database
    at_ready: list[str] = []
    ready = desk.lifecycle.ready

    def note() -> None:
        at_ready.extend(desk.statements.names)
        ready()

    desk.lifecycle.ready = note  # type: ignore[method-assign]
    async with desk.started() as engine:
        assert at_ready == ["prepare", "delete_instance", "register_instance", "check_reads", "check_writes"]
        assert desk.statements.args_of("delete_instance") == [(DEAD,)]
        assert desk.statements.args_of("register_instance")[0][0] == engine.lease.instance_id
        assert desk.lifecycle.accepts_work
        assert engine.has_database
        assert engine.lease.is_trusted


@pytest.mark.parametrize(
    "error",
    [DatabaseAway("no answer"), ConnectionRefusedError("refused"), Unavailable("away", retry_after_s=1)],
    ids=lambda error: type(error).__name__,
)
async def test_it_waits_for_a_database_that_is_away(tmp_path: Path, error: Exception) -> None:
    desk = Desk(tmp_path)
    reasons = []
    desk.prepare_errors.extend([error, error])
    prepare = desk.engine._prepare

    async def note() -> None:
        reasons.append(desk.lifecycle.reason)
        await prepare()

    desk.engine._prepare = note
    async with desk.started():
        assert reasons == ["the database is being prepared", *["the database cannot be used yet"] * 2]
        assert desk.lifecycle.reason == ""


async def test_it_waits_until_a_write_succeeds(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    phases: list[Phase] = []

    def check() -> Rows:
        phases.append(desk.lifecycle.phase)
        if len(phases) < 3:
            raise asyncpg.ReadOnlySQLTransactionError("a standby")
        return []

    desk.statements.answers["check_writes"] = lambda _: check()
    async with desk.started():
        assert phases == [Phase.STARTING] * 3


async def test_a_refused_password_ends_it_with_a_remedy(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.prepare_errors.append(asyncpg.InvalidPasswordError("no"))
    desk.engine.start()
    error = await desk.end()
    assert isinstance(error, CannotStart)
    assert "refuses this user or password" in str(error)
    assert not desk.lifecycle.accepts_work


async def test_a_bug_in_the_preparation_ends_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.prepare_errors.append(asyncpg.UndefinedTableError("a bug"))
    desk.engine.start()
    assert isinstance(await desk.end(), asyncpg.UndefinedTableError)


async def test_a_crashed_actor_is_restarted_and_the_work_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, DONE)
    desk.pool.crashes.extend([RuntimeError("a bug")] * MAX_RESTARTS)
    async with desk.started() as engine:
        assert desk.pool.runs == MAX_RESTARTS + 1
        desk.run()
        async with asyncio.timeout(10):
            await engine.slots.wait_idle()
        assert engine.task is not None
        assert not engine.task.done()
    assert desk.statements.names.count("record_outcomes") == 1


async def test_an_actor_beyond_its_restarts_ends_the_engine_and_all_other_actors(tmp_path: Path) -> None:
    desk = Desk(tmp_path, asyncio.Event())
    desk.pool.crashes.extend([RuntimeError("a bug")] * (MAX_RESTARTS + 1))
    desk.pool.gate = asyncio.Event()
    desk.engine.start()
    desk.run()
    await desk.upstream.is_waiting.wait()
    desk.pool.gate.set()
    error = await desk.end()
    assert isinstance(error, ExceptionGroup)
    failed, others = error.split(ActorFailed)
    assert failed is not None
    assert others is None
    assert desk.upstream.open_calls == 0
    assert "record_outcomes" not in desk.statements.names


async def test_the_state_of_upstream_is_what_was_found_after_readiness(tmp_path: Path) -> None:
    desk = Desk(tmp_path, inference_backend="huggingface", hf_api_token="hf_x")
    assert desk.engine.upstream_state is None
    desk.upstream.check_result = Check(UpstreamFault.TOKEN_REFUSED, "The token is refused.")
    async with desk.started() as engine:
        assert engine.upstream_state == desk.upstream.check_result


async def test_the_offline_double_is_not_checked(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.upstream.check_result = UNREACHABLE
    async with desk.started() as engine:
        assert engine.upstream_state is None


async def test_an_outage_counts_more_than_the_check_and_an_answer_after_it_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, inference_backend="huggingface", hf_api_token="hf_x")
    desk.upstream.check_result = UNREACHABLE
    async with desk.started() as engine:
        assert engine.upstream_state == UNREACHABLE
        for _ in range(THRESHOLD):
            desk.upstream.breaker.fail("timed out")
        assert engine.upstream_state == Check(UpstreamFault.UNREACHABLE, "It does not answer. timed out")
        desk.upstream.breaker.succeed()
        assert engine.upstream_state == Check(None, "It answers.")


async def test_the_database_is_away_from_a_failed_look_at_the_backlog_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    states: list[bool] = []
    has_asked = asyncio.Event()

    def survey() -> Rows:
        states.append(desk.engine.has_database)
        has_asked.set()
        raise ConnectionResetError("away")

    async with desk.started() as engine:
        desk.statements.answers["survey_backlog"] = survey
        for _ in range(2):
            has_asked.clear()
            engine.backlog.hint()
            async with asyncio.timeout(10):
                await has_asked.wait()
        assert states == [True, False]
        assert engine.journal.is_ready


async def test_the_text_of_a_run_is_found_by_its_epoch(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Delta("Hi "), asyncio.Event())
    async with desk.started() as engine:
        request = desk.run()
        await desk.upstream.is_waiting.wait()
        transcript = engine.find_transcript(request.id, 1)
        assert transcript is not None
        assert transcript.length == 3
        assert engine.find_transcript(request.id, 2) is not transcript
