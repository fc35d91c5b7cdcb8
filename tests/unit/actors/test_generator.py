"""The generator: every end of a call is recorded once, or the row goes back; the slot is free in any case."""

from datetime import timedelta
from decimal import Decimal

import asyncpg
import orjson
import pytest

from server import model_request as model_request_module
from server.actors.files import FileGone
from server.actors.generator import MAX_OUTAGE_PAUSE_S
from server.actors.subscription import View
from server.actors.writes import ReleasedRow, WriteResult, WriteStatus
from server.errors import Code, Invalid, Unavailable
from server.inference.events import (
    Completed,
    Delta,
    FileChunk,
    GenerationFailed,
    Listing,
    LiveModel,
    LiveProvider,
    Segment,
    Started,
    Task,
)
from server.model_request import Failed, FinalRow, Status, Usage
from tests.fakes.clock import Clock
from tests.fakes.journal import NOW
from tests.unit.actors.generators import Desk

DONE = Completed({"output": "Hi there"}, Usage(5, 2), "org/model")
PICTURE = FileChunk(b"png", 0, "image/png")


async def test_an_answer_is_recorded_once_as_it_came() -> None:
    desk = Desk(Started("org/model"), Delta("Hi "), Delta("there"), DONE)
    request = await desk.process(epoch=3)
    [row] = desk.journal.recorded
    assert row == FinalRow(
        id=request.id,
        owner=desk.lease.instance_id,
        epoch=3,
        status=Status.COMPLETED,
        output_data=b'{"output":"Hi there"}',
        error_code=None,
        error_msg=None,
        token_used=5,
        token_count=2,
        processing_time=row.processing_time,
        model="org/model",
        segments=None,
        usage=b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}',
    )
    assert timedelta(0) < row.processing_time < timedelta(seconds=10)
    assert desk.journal.released == []


async def test_an_answer_costs_what_its_provider_asks_and_a_partial_one_too() -> None:
    pricing = {"input": 1.0, "output": 10.0}
    for last in (DONE, GenerationFailed(Code.MODEL_ERROR, "cut", usage=DONE.usage, model="org/model")):
        desk = Desk(Started("org/model", "novita"), Delta("Hi there"), last)
        models = (LiveModel("org/model", (LiveProvider("novita", pricing=pricing),)),)
        desk.upstream.listed = Listing(NOW, is_stale=False, models=models)
        await desk.process()
        [row] = desk.journal.recorded
        assert row.cost_usd == Decimal("0.000023")


async def test_upstream_is_asked_with_the_request_and_the_time_that_is_left() -> None:
    desk = Desk(DONE)
    await desk.process(input_data=b'{"prompt":"Hello"}', parameters=b'{"temperature":0.5}', deadline_left_s=60.0)
    [call], [timeout_s] = desk.upstream.calls, desk.upstream.timeouts
    assert (call.task, call.models) == (Task.CHAT_COMPLETION, ("org/model",))
    assert (call.input_data, call.parameters) == ({"prompt": "Hello"}, {"temperature": 0.5})
    assert 55 < timeout_s <= 60


async def test_readers_see_the_run_begin_and_the_stored_object_at_its_end() -> None:
    desk = Desk(Delta("Hi there"), DONE)
    request = desk.claimed()
    with desk.subscriptions.follow(request.id) as follower, desk.feeds.open(request.user_id) as feed:
        await desk.process(request)
        view = follower.take_update()
        assert [change.status for change in await feed.wait(0)] == [Status.COMPLETED]
    assert view is not None
    assert (view.status, view.epoch) == (Status.COMPLETED, 1)
    assert orjson.loads(view.body or b"")["output_data"] == {"output": "Hi there"}


async def test_the_transcript_is_complete_and_whole_when_the_text_never_came_in_pieces() -> None:
    desk = Desk(Started("org/model"), DONE)
    request = desk.claimed()
    running = desk.workload.add(request)
    await desk.process(request)
    assert running.transcript.text_of(Segment.OUTPUT) == "Hi there"
    assert running.transcript.model == "org/model"
    assert running.transcript.is_complete
    assert running.transcript.is_kept


async def test_an_unusual_order_of_segments_is_recorded_with_the_answer() -> None:
    desk = Desk(Delta("Hi "), Delta("hm", Segment.REASONING), Delta("there"), DONE)
    await desk.process()
    assert desk.journal.recorded[0].segments == b'[["output",3],["reasoning",2],["output",5]]'


async def test_a_failure_is_recorded_with_what_there_is() -> None:
    desk = Desk(
        Delta("Hi "),
        GenerationFailed(
            Code.MODEL_ERROR,
            "It broke off.",
            output_data={"output": "Hi ", "partial": True},
            usage=Usage(4, 1),
            model="org/model",
        ),
    )
    await desk.process()
    [row] = desk.journal.recorded
    assert (row.status, row.error_code, row.error_msg) == ("failed", "MODEL_ERROR", "It broke off.")
    assert (row.token_used, row.token_count, row.model) == (4, 1, "org/model")
    assert desk.output_data == {"output": "Hi ", "partial": True}
    assert desk.journal.released == []


@pytest.mark.parametrize(
    ("retry_after_s", "left_s", "delay_s"),
    [
        (None, 600.0, 6.0),
        (10.0, 600.0, 15.0),
        (0.1, 600.0, 1.5),
        (1000.0, 600.0, MAX_OUTAGE_PAUSE_S),
        (10.0, 5.0, 5.0),
    ],
    ids=["without a hint", "never before upstream asked", "not at once", "capped", "never beyond the deadline"],
)
async def test_an_outage_sends_the_row_back_for_a_while(
    retry_after_s: float | None, left_s: float, delay_s: float
) -> None:
    desk = Desk(GenerationFailed(Code.MODEL_ERROR, "Overloaded.", transient=True, retry_after_s=retry_after_s))
    request = desk.claimed(deadline_left_s=left_s, epoch=2)
    with desk.subscriptions.follow(request.id) as follower:
        await desk.process(request)
        assert follower.take_update() == View(Status.PENDING, 2)
    [row] = desk.journal.released
    assert row == ReleasedRow(request.id, desk.lease.instance_id, 2, row.delay_s, "MODEL_ERROR", "Overloaded.")
    assert row.delay_s == pytest.approx(delay_s, abs=0.5)
    assert desk.journal.recorded == []


async def test_a_row_that_was_cancelled_while_it_went_back_is_told_as_cancelled() -> None:
    desk = Desk(GenerationFailed(Code.MODEL_ERROR, "Overloaded.", transient=True))
    desk.journal.release_result = WriteResult(WriteStatus.WRITTEN, NOW)
    request = desk.claimed()
    with desk.subscriptions.watch(request.id) as watch:
        await desk.process(request)
        assert await watch.wait(0) == View(Status.CANCELLED, 1)


async def test_an_outage_up_to_the_deadline_is_recorded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def go_on() -> None:
        clock.now += 601

    desk = Desk(go_on, GenerationFailed(Code.MODEL_ERROR, "Overloaded.", transient=True))
    request = desk.claimed(claimed_at=clock.now)
    monkeypatch.setattr(model_request_module, "time", clock)
    await desk.process(request)
    [row] = desk.journal.recorded
    assert (row.status, row.error_code) == ("failed", "MODEL_ERROR")
    assert row.error_msg == "Not finished by its deadline. Overloaded."
    assert desk.journal.released == []


@pytest.mark.parametrize(
    ("last_error", "code", "message"),
    [
        (None, "SERVER_ERROR", "Not finished by its deadline: it was still waiting for its turn."),
        (Failed(Code.MODEL_ERROR, "Away."), "MODEL_ERROR", "Not finished by its deadline. Away."),
    ],
    ids=["never run", "run before"],
)
async def test_what_is_overdue_fails_without_a_call(last_error: Failed | None, code: str, message: str) -> None:
    desk = Desk(DONE)
    await desk.process(deadline_left_s=0.0, last_error=last_error)
    [row] = desk.journal.recorded
    assert (row.status, row.error_code, row.error_msg) == ("failed", code, message)
    assert desk.upstream.calls == []


@pytest.mark.parametrize("end", [(), (ValueError("a bug"),)], ids=["no final event", "an exception"])
async def test_a_crash_of_the_call_is_recorded_as_a_fault_of_the_server(end: tuple[Exception, ...]) -> None:
    desk = Desk(Delta("Hi"), *end)
    await desk.process()
    [row] = desk.journal.recorded
    assert (row.status, row.error_code) == ("failed", "SERVER_ERROR")
    assert row.error_msg == "The server failed while running this request."
    assert desk.output_data == {"output": "Hi", "partial": True}


async def test_an_answer_that_the_database_refuses_becomes_a_failure() -> None:
    desk = Desk(DONE)
    desk.journal.errors.append(asyncpg.DataError("too large"))
    request = desk.claimed()
    with desk.subscriptions.watch(request.id) as watch:
        await desk.process(request)
        view = await watch.wait(0)
    refused, row = desk.journal.recorded
    assert refused.status == "completed"
    assert (row.status, row.error_code, row.error_msg) == ("failed", "SERVER_ERROR", "The answer could not be stored.")
    assert (row.output_data, row.model, row.token_used) == (None, "org/model", 5)
    assert view is not None
    assert view.status is Status.FAILED


@pytest.mark.parametrize("fate", list(WriteStatus))
async def test_only_an_outcome_that_stands_is_published(fate: WriteStatus) -> None:
    desk = Desk(DONE)
    desk.journal.result = WriteResult(fate, NOW)
    request = desk.claimed()
    with desk.subscriptions.watch(request.id) as watch:
        await desk.process(request)
        view = await watch.wait(0)
    assert (view is not None) == (fate in {WriteStatus.WRITTEN, WriteStatus.MINE})
    assert len(desk.journal.recorded) == 1


async def test_files_of_an_answer_are_in_its_output() -> None:
    desk = Desk(PICTURE, Completed({}, Usage(), "org/model"))
    await desk.process()
    assert desk.output_data == {"files": [{"content_type": "image/png", "size": 3}]}
    assert desk.files.output.discards == 0


async def test_files_of_an_answer_that_failed_are_discarded() -> None:
    desk = Desk(PICTURE, GenerationFailed(Code.MODEL_ERROR, "It broke off."))
    await desk.process()
    assert desk.files.output.discards == 1


async def test_an_input_file_that_is_gone_fails_the_request_without_a_call() -> None:
    desk = Desk(DONE)
    desk.files.input_error = FileGone("The file was deleted.")
    await desk.process()
    [row] = desk.journal.recorded
    assert (row.error_code, row.error_msg) == ("VALIDATION_ERROR", "The file was deleted.")
    assert desk.upstream.calls == []


async def test_a_store_that_is_away_sends_the_row_back() -> None:
    desk = Desk(PICTURE, DONE)
    desk.files.output.error = Unavailable("The storage is away.", retry_after_s=4)
    await desk.process()
    [row] = desk.journal.released
    assert (row.delay_s, row.error_code, row.error_msg) == (6.0, "SERVER_ERROR", "The storage is away.")
    assert desk.journal.recorded == []
    assert desk.files.output.discards == 1


async def test_a_file_that_the_store_refuses_fails_the_request() -> None:
    desk = Desk(PICTURE, DONE)
    desk.files.output.error = Invalid("It is too large.")
    await desk.process()
    [row] = desk.journal.recorded
    assert (row.error_code, row.error_msg) == (
        "VALIDATION_ERROR",
        "The model's answer could not be kept. It is too large.",
    )
    assert desk.files.output.discards == 1
