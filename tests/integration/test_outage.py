"""What opens the breaker of the upstream, what closes it, and what it spares."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import unused_port

from server.inference.breaker import THRESHOLD
from server.inference.events import Call, Event, GenerationFailed, Task
from server.inference.huggingface import HuggingFace
from server.model_request import Completed
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, chat_answer, error_answer


async def _no_sleep(_seconds: float) -> None:
    return None


@pytest.fixture
async def fake() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[HuggingFace]:
    upstream = HuggingFace(
        base_url=url, token=None, timeout_s=5, max_retries=3, connections=4, sleep=_no_sleep, jitter=lambda low, _: low
    )
    try:
        yield upstream
    finally:
        await upstream.close()


async def _generate(upstream: HuggingFace) -> Event:
    call = Call(Task.CHAT_COMPLETION, ("org/model",), {"prompt": "hello"}, {})
    events = [event async for event in upstream.generate(call, timeout_s=30)]
    return events[-1]


async def _open(upstream: HuggingFace) -> None:
    while not upstream.breaker.is_open:
        last = await _generate(upstream)
        assert isinstance(last, GenerationFailed)
        assert last.transient


@pytest.mark.parametrize(
    "answer",
    [
        error_answer(503, "overloaded"),
        error_answer(500),
        Answer(is_silent=True, end=End.RESET),
        Answer(is_silent=True, end=End.CUT),
    ],
    ids=["503", "500", "reset", "cut"],
)
async def test_an_outage_opens_it_after_so_many_calls_and_ends_the_retries(
    fake: FakeHuggingFace, answer: Answer
) -> None:
    fake.default = lambda _: answer
    async with _connected(fake.url) as upstream:
        await _open(upstream)
        made = len(fake.calls)
        assert (
            THRESHOLD <= made <= THRESHOLD * 4 / 3 + 1
        )  # a connection that was kept too long is excused, once per call
        last = await _generate(upstream)  # the call of a probe
        assert isinstance(last, GenerationFailed)
        assert last.transient
        assert len(fake.calls) == made + 1


async def test_nobody_listening_is_an_outage() -> None:
    async with _connected(f"http://127.0.0.1:{unused_port()}") as upstream:
        await _open(upstream)
        assert "could not be reached" in (upstream.breaker.outage or "")


async def test_the_first_byte_of_an_answer_closes_it(fake: FakeHuggingFace) -> None:
    fake.default = lambda _: error_answer(503)
    async with _connected(fake.url) as upstream:
        await _open(upstream)
        fake.default = lambda _: chat_answer("back")
        assert isinstance(await _generate(upstream), Completed)
        assert not upstream.breaker.is_open


@pytest.mark.parametrize("status", [400, 401, 402, 404, 422, 429])
async def test_a_refusal_is_a_sign_of_life(fake: FakeHuggingFace, status: int) -> None:
    fake.default = lambda _: error_answer(status)
    async with _connected(fake.url) as upstream:
        for _ in range(THRESHOLD):
            await _generate(upstream)
        assert not upstream.breaker.is_open


async def test_the_reason_never_quotes_upstream(fake: FakeHuggingFace) -> None:
    fake.default = lambda _: error_answer(503, "canary: the prompt was hello")
    async with _connected(fake.url) as upstream:
        await _open(upstream)
        assert upstream.breaker.outage == "It answers with status 503."
