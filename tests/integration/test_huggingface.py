"""The shell against a real server: what is retried and what is not, in which time, and what becomes of connections."""

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import unused_port

from server.errors import Code
from server.inference.events import Call, Delta, Event, Failed, Fault, Segment, Started, Task
from server.inference.huggingface import HuggingFace
from server.inference.resilience import RetryBudget
from server.model_request import Completed, Usage
from tests.fakes.huggingface import (
    Answer,
    End,
    FakeHuggingFace,
    Received,
    body_of,
    chat_answer,
    error_answer,
    json_answer,
    replay,
)
from tests.fakes.huggingface import event as sse
from tests.fakes.reader import read
from tests.fakes.tapes import exchanges

TOKEN = "hf_thisIsTheServersOwnToken1234"
PROMPT = "a secret prompt"
MODELS = ("org/first", "org/second")


class Sleeper:
    """Takes the place of sleep: notes the pauses, and does not wait."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Client:
    """The upstream under test, with the fake behind it."""

    def __init__(self, fake: FakeHuggingFace, **options: Any) -> None:
        self.fake = fake
        self.sleep = Sleeper()
        defaults: dict[str, Any] = {"base_url": fake.url, "token": TOKEN, "timeout_s": 5, "max_retries": 3}
        self.upstream = HuggingFace(
            **(defaults | {"connections": 4, "sleep": self.sleep, "jitter": lambda _low, high: high} | options)
        )

    async def run(self, *models: str, timeout_s: float = 30, task: Task = Task.CHAT_COMPLETION) -> list[Event]:
        call = Call(task, models or MODELS[:1], {"prompt": PROMPT}, {})
        async with contextlib.aclosing(self.upstream.generate(call, timeout_s=timeout_s)) as events:
            return [event async for event in events]

    async def complete(self, *models: str, **options: Any) -> Completed:
        last = (await self.run(*models, **options))[-1]
        assert isinstance(last, Completed), last
        return last

    async def fail(self, *models: str, **options: Any) -> Failed:
        last = (await self.run(*models, **options))[-1]
        assert isinstance(last, Failed), last
        assert last.code is Code.MODEL_ERROR
        return last


Connect = Callable[..., Client]


@pytest.fixture
async def fake() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def connect(fake: FakeHuggingFace) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def connect(**options: Any) -> Client:
        clients.append(Client(fake, **options))
        return clients[-1]

    yield connect
    for client in clients:
        await client.upstream.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


# What goes well


async def test_a_stream_becomes_deltas_and_a_completion(client: Client) -> None:
    client.fake.answer(chat_answer("Rain", " falls."))
    started, *deltas, completed = await client.run()
    assert started == Started("org/first", "fake")
    assert deltas == [Delta("Rain"), Delta(" falls.")]
    output = {"output": "Rain falls.", "finish_reason": "stop", "provider": "fake"}
    assert completed == Completed(output, Usage(5, 2), "org/first")


async def test_deltas_come_as_they_are_sent(client: Client) -> None:
    client.fake.answer(Answer(200, {"Content-Type": "text/event-stream"}, chat_answer("a").pieces[:2], end=End.STALL))
    async with contextlib.aclosing(client.upstream.generate(call(), timeout_s=30)) as events:
        assert await anext(events) == Started("org/first")
        assert await anext(events) == Delta("a")


async def test_the_call_has_the_token_and_names_itself(client: Client) -> None:
    client.fake.answer(chat_answer("a"))
    await client.run()
    [received] = client.fake.calls
    assert received.path == "/v1/chat/completions"
    assert received.headers["Authorization"] == f"Bearer {TOKEN}"
    assert received.headers["User-Agent"].startswith("ai-sdk-server/")
    assert received.headers["Accept-Encoding"] == "identity"
    assert received.body["messages"] == [{"role": "user", "content": PROMPT}]


async def test_raw_generation_is_asked_for_as_a_completion(client: Client) -> None:
    client.fake.answer(json_answer({"choices": [{"index": 0, "text": " and so on", "finish_reason": "length"}]}))
    completed = await client.complete(task=Task.TEXT_GENERATION)
    assert completed.output_data["output"] == " and so on"
    assert client.fake.calls[0].path == "/v1/completions"


async def test_without_a_token_none_is_sent(connect: Connect) -> None:
    client = connect(token=None)
    client.fake.answer(chat_answer("a"))
    await client.complete()
    assert "Authorization" not in client.fake.calls[0].headers


async def test_the_connection_is_used_again(client: Client) -> None:
    client.fake.answer(chat_answer("a"), json_answer({"choices": [{"message": {"content": "b"}}]}), chat_answer("c"))
    for _ in range(3):
        await client.complete()
    assert len(client.fake.connections) == 1


@pytest.mark.parametrize("record", exchanges())
async def test_an_exchange_means_the_same_over_a_real_connection(record: dict[str, Any], connect: Connect) -> None:
    expected = read(record)
    client = connect(max_retries=0)
    client.fake.answer(replay(record).split_awkwardly() if len(body_of(record)) < 5000 else replay(record))
    last = (await client.run())[-1]
    if expected.is_ok:
        assert isinstance(last, Completed)
        assert last.output_data["output"] == expected.text
        assert last.usage == Usage(expected.token_used, expected.token_count)
    else:
        assert isinstance(last, Failed)
        assert last.transient == expected.is_transient
        assert (expected.words or "The model provider") in last.message


# What is tried again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_outage_is_tried_again_and_the_user_sees_one_success(client: Client, status: int) -> None:
    client.fake.answer(error_answer(status), chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"
    assert client.sleep.pauses == [0.5]


async def test_an_outage_that_lasts_is_transient_and_bounded(client: Client) -> None:
    client.fake.default = lambda _: error_answer(503, "overloaded")
    failed = await client.fail()
    assert failed.transient
    assert failed.message == "The model provider cannot answer at the moment (503): overloaded."
    assert len(client.fake.calls) == 4
    assert client.sleep.pauses == [0.5, 1.0, 2.0]


async def test_no_retries_are_made_where_none_are_wanted(connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.default = lambda _: error_answer(503)
    assert (await client.fail()).transient
    assert len(client.fake.calls) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 413, 422])
async def test_a_refusal_is_not_tried_again(client: Client, status: int) -> None:
    client.fake.default = lambda _: error_answer(status, "so it is")
    failed = await client.fail()
    assert not failed.transient
    assert "so it is" in failed.message
    assert len(client.fake.calls) == 1


@pytest.mark.parametrize("body", [b"data: [DONE]\n\n", b"", b"null", b"<html>away</html>", b'{"choices": ['])
async def test_a_success_that_is_none_is_tried_again(client: Client, body: bytes) -> None:
    client.fake.answer(Answer(200, {"Content-Type": "text/event-stream"}, (body,)), chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_an_answer_that_breaks_before_any_text_is_tried_again(client: Client, end: End) -> None:
    broken = Answer(200, {"Content-Type": "text/event-stream"}, chat_answer().pieces[:1], end=end)
    client.fake.answer(broken, chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"


async def test_a_document_that_breaks_off_is_tried_again_and_never_stored(client: Client) -> None:
    client.fake.answer(Answer(200, {}, (b'{"choices":[{"message":{"content":"ha',), end=End.CUT), chat_answer("whole"))
    assert (await client.complete()).output_data["output"] == "whole"


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_text_that_breaks_off_is_partial_and_not_tried_again(client: Client, end: End) -> None:
    client.fake.answer(Answer(200, {}, chat_answer("half", " an", " answer").pieces[:3], pause_s=0.02, end=end))
    *events, failed = await client.run()
    assert isinstance(failed, Failed)
    assert not failed.transient
    assert failed.output_data == {"output": "half an", "partial": True}
    assert failed.model == "org/first"
    assert [event.text for event in events if isinstance(event, Delta)] == ["half", " an"]
    assert len(client.fake.calls) == 1


async def test_an_error_in_the_stream_before_any_text_is_judged_like_a_status(client: Client) -> None:
    pieces = (chat_answer().pieces[0], sse({"error": {"message": "overloaded", "code": 503}}))
    client.fake.answer(Answer(200, {}, pieces), chat_answer("fine"))
    assert [type(event) for event in await client.run()] == [Started, Delta, Completed]


@pytest.mark.parametrize(("header", "pause_s"), [("2", 2.2), ("0", 0.0), ("-5", 0.5), ("soon", 0.5)])
async def test_retry_after_is_honoured(client: Client, header: str, pause_s: float) -> None:
    client.fake.answer(error_answer(429, headers={"Retry-After": header}), chat_answer("fine"))
    await client.complete()
    assert client.sleep.pauses == [pytest.approx(pause_s)]


@pytest.mark.parametrize("header", ["60", "1e9", "Fri, 31 Dec 2100 00:00:00 GMT"])
async def test_a_long_retry_after_is_for_the_backlog(client: Client, header: str) -> None:
    client.fake.default = lambda _: error_answer(429, headers={"Retry-After": header})
    failed = await client.fail()
    assert failed.transient
    assert failed.retry_after_s is not None
    assert 60 <= failed.retry_after_s <= 600
    assert client.sleep.pauses == []


async def test_a_pause_longer_than_the_time_left_is_not_begun(client: Client) -> None:
    client.fake.default = lambda _: error_answer(429, headers={"Retry-After": "3"})
    assert (await client.fail(timeout_s=2)).retry_after_s == 3
    assert client.sleep.pauses == []


async def test_an_empty_budget_leaves_no_retries(connect: Connect) -> None:
    client = connect(budget=RetryBudget(capacity=1, per_second=0))
    client.fake.default = lambda _: error_answer(503)
    for _ in range(5):
        await client.fail()
    assert len(client.fake.calls) == 6


# The chain of models


@pytest.mark.parametrize(
    "gone",
    [
        error_answer(404, "Not Found"),
        error_answer(410),
        error_answer(400, "Model not supported by provider hf-inference"),
        json_answer({"error": {"message": "x", "code": "model_not_supported"}}, status=400),
    ],
)
async def test_a_model_that_is_gone_makes_way_for_the_next(client: Client, gone: Answer) -> None:
    client.fake.answer(gone, chat_answer("fine"))
    completed = await client.complete(*MODELS)
    assert completed.model == "org/second"
    assert [received.model for received in client.fake.calls] == list(MODELS)
    assert client.sleep.pauses == [0.0]


async def test_a_provider_that_keeps_failing_makes_way_for_the_next_model(client: Client) -> None:
    def respond(received: Received) -> Answer:
        return error_answer(429) if received.model == "org/first" else chat_answer("fine")

    client.fake.default = respond
    assert (await client.complete(*MODELS)).model == "org/second"
    assert len(client.fake.calls) == 3


async def test_a_chain_of_which_nothing_is_left_fails_for_good(client: Client) -> None:
    client.fake.default = lambda _: error_answer(404, "Not Found")
    failed = await client.fail(*MODELS)
    assert not failed.transient
    assert failed.model == "org/second"


async def test_an_impossible_model_is_not_asked_for(connect: Connect) -> None:
    client = connect(base_url="https://router.huggingface.co")
    failed = await client.fail("../..")
    assert not failed.transient
    assert "organisation/name" in failed.message


# Time


async def test_an_upstream_that_never_answers_is_given_up(connect: Connect) -> None:
    client = connect(timeout_s=1, max_retries=1)  # enough for the connection of the first try, on a busy machine too
    client.fake.default = lambda _: Answer(end=End.STALL, is_silent=True)
    failed = await client.fail()
    assert failed.transient
    assert failed.message == "The model did not answer within 1 s."
    assert len(client.fake.calls) == 2


async def test_the_deadline_of_the_request_comes_before_that_of_a_try(client: Client) -> None:
    client.fake.default = lambda _: Answer(end=End.STALL, is_silent=True)
    started = asyncio.get_running_loop().time()
    failed = await client.fail(timeout_s=0.5)
    assert asyncio.get_running_loop().time() - started < 5
    assert failed.transient
    assert len(client.fake.calls) == 1


async def test_an_answer_that_stalls_is_given_up_after_the_gap(connect: Connect) -> None:
    client = connect(gap_s=0.1)
    client.fake.answer(Answer(200, {}, chat_answer("half").pieces[:2], end=End.STALL))
    failed = await client.fail()
    assert failed.message == "The model did not go on with its answer within 0.1 s."
    assert failed.output_data == {"output": "half", "partial": True}
    assert not failed.transient


async def test_the_first_byte_may_take_longer_than_the_gap(connect: Connect) -> None:
    client = connect(gap_s=0.05)
    client.fake.answer(Answer(200, {}, chat_answer("late").pieces, delay_s=0.2))
    assert (await client.complete()).output_data["output"] == "late"


async def test_a_drip_does_not_outlive_the_time_of_a_try(connect: Connect) -> None:
    client = connect(timeout_s=0.3)
    client.fake.answer(Answer(200, {}, chat_answer(*["drop "] * 500).pieces, pause_s=0.02))
    failed = await client.fail()
    assert failed.message == "The model did not finish its answer within 0.3 s."
    assert failed.output_data is not None
    assert failed.output_data["output"].startswith("drop drop ")


async def test_a_stream_whose_end_is_known_is_not_waited_for(connect: Connect) -> None:
    client = connect(gap_s=20)
    client.fake.answer(Answer(200, {}, chat_answer("a").pieces, end=End.STALL))
    async with asyncio.timeout(2):
        await client.complete()


# Connections


async def test_a_kept_connection_that_has_gone_is_replaced_at_once(client: Client) -> None:
    gone = Answer(is_silent=True, end=End.CUT)
    client.fake.answer(chat_answer("a"), gone, chat_answer("b"))
    await client.complete()
    assert (await client.complete()).output_data["output"] == "b"
    assert client.sleep.pauses == [0.0]
    assert len(client.fake.connections) == 2


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_who_always_hangs_up_is_an_outage(client: Client, end: End) -> None:
    client.fake.default = lambda _: Answer(is_silent=True, end=end)
    failed = await client.fail()
    assert failed.transient
    assert "closed the connection" in failed.message
    assert len(client.fake.calls) == 5


async def test_leaving_early_closes_the_connection(client: Client) -> None:
    client.fake.answer(Answer(200, {}, chat_answer("a").pieces[:2], end=End.STALL))
    events = client.upstream.generate(call(), timeout_s=30)
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(2):
        await client.fake.abandoned.wait()


async def test_a_cancelled_generation_closes_the_connection(client: Client) -> None:
    client.fake.answer(Answer(end=End.STALL, is_silent=True))
    generation = asyncio.create_task(client.run())
    await client.fake.called.wait()
    generation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await generation
    async with asyncio.timeout(2):
        await client.fake.abandoned.wait()


async def test_nobody_there_is_an_outage(connect: Connect) -> None:
    failed = await connect(base_url=f"http://127.0.0.1:{unused_port()}").fail()
    assert failed.transient
    assert failed.message == "The model provider could not be reached."


async def test_an_unknown_name_is_an_outage(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    failed = await connect(base_url="http://models.invalid").fail()
    assert failed.transient
    assert failed.message == "The model provider's address could not be found."


async def test_another_protocol_is_an_outage_and_not_a_crash(connect: Connect) -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        failed = await connect(base_url=f"http://127.0.0.1:{port}", max_retries=1).fail()
    assert failed.transient
    assert failed.message == "The model provider's answer was not valid HTTP."


async def test_a_server_without_tls_is_not_spoken_to_in_the_clear(connect: Connect, fake: FakeHuggingFace) -> None:
    failed = await connect(base_url=fake.url.replace("http:", "https:"), max_retries=0).fail()
    assert failed.transient
    assert failed.message == "A secure connection to the model provider could not be made."
    assert fake.received == []


async def test_a_redirect_is_not_followed_with_the_token(client: Client) -> None:
    async with FakeHuggingFace() as other:
        client.fake.answer(error_answer(307, headers={"Location": f"{other.url}/v1/chat/completions"}))
        failed = await client.fail()
        assert not failed.transient
        assert other.received == []


async def test_compressed_garbage_is_an_outage(client: Client) -> None:
    garbage = Answer(200, {"Content-Encoding": "gzip"}, (b"this is no gzip",))
    client.fake.answer(garbage, chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"


async def test_a_bomb_is_not_unpacked_into_memory(client: Client) -> None:
    bomb = gzip.compress(b"[" + b" " * 40_000_000)
    client.fake.answer(Answer(200, {"Content-Encoding": "gzip"}, (bomb,)))
    failed = await client.fail()
    assert not failed.transient
    assert "larger" in failed.message


# A server of one's own that is asked for its models


def call(*models: str) -> Call:
    return Call(Task.CHAT_COMPLETION, models or MODELS[:1], {"prompt": PROMPT}, {})


async def run_own(client: Client) -> Event:
    own = Call(Task.CHAT_COMPLETION, (), {"prompt": PROMPT}, {})
    return [event async for event in client.upstream.generate(own, timeout_s=5)][-1]


async def test_the_first_model_of_a_server_is_its_default_and_asked_for_once(client: Client) -> None:
    client.fake.models = ["llama3.2:latest", "other"]
    client.fake.default = lambda _: chat_answer("fine")
    outcomes = await asyncio.gather(*(run_own(client) for _ in range(5)))
    assert {outcome.model for outcome in outcomes if isinstance(outcome, Completed)} == {"llama3.2:latest"}
    assert [received.method for received in client.fake.received].count("GET") == 1


async def test_a_server_that_lists_nothing_is_asked_without_a_model(client: Client) -> None:
    client.fake.answer(chat_answer("fine"))
    assert isinstance(await run_own(client), Completed)
    assert "model" not in client.fake.calls[0].body


async def test_a_server_without_any_model_says_so(client: Client) -> None:
    client.fake.models = []
    failed = await run_own(client)
    assert isinstance(failed, Failed)
    assert not failed.transient
    assert "no model" in failed.message


async def test_a_default_that_is_gone_is_asked_for_again(client: Client) -> None:
    client.fake.models = ["old"]
    client.fake.answer(chat_answer("fine"), error_answer(404, "model 'old' not found"), chat_answer("fine"))
    await run_own(client)
    assert isinstance(await run_own(client), Failed)
    client.fake.models = ["new"]
    outcome = await run_own(client)
    assert isinstance(outcome, Completed)
    assert outcome.model == "new"


async def test_a_server_that_is_away_is_asked_again_when_it_is_back(connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.listing = Answer(503)
    failed = await run_own(client)
    assert isinstance(failed, Failed)
    assert failed.transient
    client.fake.listing, client.fake.models = None, ["back"]
    client.fake.answer(chat_answer("fine"))
    outcome = await run_own(client)
    assert isinstance(outcome, Completed)
    assert outcome.model == "back"


# The check


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (json_answer({"error": {"message": "x", "code": "model_not_found"}}, status=400), None),
        (error_answer(401, "Invalid credentials in Authorization header"), Fault.TOKEN_REFUSED),
        (error_answer(402, "You have depleted your credits"), Fault.NO_CREDITS),
        (error_answer(403, "No permissions on behalf of user jo"), Fault.NO_PERMISSION),
        (error_answer(502), Fault.UNEXPECTED),
        (error_answer(422), Fault.UNEXPECTED),
        (Answer(is_silent=True, end=End.CUT), Fault.UNREACHABLE),
    ],
)
async def test_the_router_is_checked_by_a_call_that_costs_nothing(
    client: Client, answer: Answer, fault: Fault | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.inference.huggingface.is_router", lambda _: True)
    client.fake.answer(answer)
    check = await client.upstream.check()
    assert (check.fault, check.is_ok) == (fault, fault is None)
    assert check.detail.endswith(".")
    assert client.fake.calls[0].body["max_tokens"] == 1


async def test_a_server_of_one_s_own_is_checked_by_its_models(client: Client) -> None:
    client.fake.models = ["llama3.2:latest"]
    check = await client.upstream.check()
    assert check.is_ok
    assert "llama3.2:latest" in check.detail
    assert client.fake.calls == []


async def test_an_address_without_models_is_a_fault_with_a_remedy(client: Client) -> None:
    check = await client.upstream.check()
    assert check.fault is Fault.UNEXPECTED
    assert "HF_BASE_URL" in check.detail
    client.fake.models = []
    assert "has no model" in (await client.upstream.check()).detail


async def test_an_unreachable_server_is_a_fault_with_a_remedy(connect: Connect) -> None:
    check = await connect(base_url=f"http://127.0.0.1:{unused_port()}").upstream.check()
    assert check.fault is Fault.UNREACHABLE
    assert "HF_BASE_URL" in check.detail


# Secrets


async def test_neither_token_nor_prompt_is_ever_logged_or_shown(client: Client) -> None:
    quoting = f"Bad key {TOKEN} for the input {PROMPT}"
    client.fake.answer(error_answer(503, quoting), error_answer(401, quoting))
    with structlog.testing.capture_logs() as logs:
        failed = await client.fail()
    assert TOKEN not in failed.message
    assert [entry["event"] for entry in logs] == ["upstream_retry"]
    assert not any(secret in json.dumps(logs) for secret in (TOKEN, PROMPT))


async def test_reasoning_comes_in_its_own_segment(client: Client) -> None:
    thought = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    client.fake.answer(Answer(200, {}, (thought, *chat_answer("ah").pieces)))
    events = await client.run()
    assert Delta("hm", Segment.REASONING) in events


async def test_closing_an_upstream_that_was_never_used_is_nothing() -> None:
    upstream = HuggingFace(base_url="http://127.0.0.1:1", token=None, timeout_s=1, max_retries=0, connections=1)
    await upstream.close()
