"""What the shell spares upstream: calls that are known to fail, and retries in an outage. Counted at the fake."""

import pytest

from server.inference.breaker import Breaker
from server.inference.circuits import THRESHOLD, ModelCircuits, TokenRefusals
from server.inference.resilience import RetryBudget
from tests.fakes.clock import Clock
from tests.fakes.huggingface import Answer, Received, chat_answer, error_answer, json_answer
from tests.integration.upstream.generations import MODELS, Client, Connect


class NeverOpen(Breaker):
    """An outage in which nobody sees that it is one: every request is still called for."""

    def fail(self, reason: str) -> None:
        pass


def only_the_second(received: Received) -> Answer:
    return error_answer(503) if received.model == MODELS[0] else chat_answer("fine")


async def test_a_model_that_keeps_failing_is_skipped_and_tried_now_and_then(connect: Connect) -> None:
    clock = Clock()
    client = connect(circuits=ModelCircuits(clock=clock))
    client.fake.default = only_the_second
    while len([one for one in client.fake.calls if one.model == MODELS[0]]) < THRESHOLD:
        assert (await client.complete(*MODELS)).model == MODELS[1]
    before = len(client.fake.calls)
    for _ in range(10):
        assert (await client.complete(*MODELS)).model == MODELS[1]
    assert len(client.fake.calls) == before + 10
    clock.now += 11
    client.fake.default = lambda _: chat_answer("fine")
    assert (await client.complete(*MODELS)).model == MODELS[0]
    assert (await client.complete(*MODELS)).model == MODELS[0]


async def test_a_model_that_is_gone_costs_one_call(client: Client) -> None:
    gone = json_answer({"error": {"message": "x", "code": "model_not_supported"}}, status=400)
    client.fake.default = lambda received: gone if received.model == MODELS[0] else chat_answer("fine")
    for _ in range(5):
        assert (await client.complete(*MODELS)).model == MODELS[1]
    assert [received.model for received in client.fake.calls] == [MODELS[0], *[MODELS[1]] * 5]


async def test_a_model_that_fails_alone_is_still_asked(client: Client) -> None:
    client.fake.default = lambda _: error_answer(503)
    for _ in range(THRESHOLD):
        await client.fail(MODELS[0])
    client.fake.default = lambda _: chat_answer("back")
    await client.complete(MODELS[0])


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_token_that_was_refused_is_not_shown_again_at_once(connect: Connect, status: int) -> None:
    clock = Clock()
    client = connect(refusals=TokenRefusals(clock=clock))
    client.fake.default = lambda _: error_answer(status, "no")
    first = await client.fail()
    for _ in range(20):
        assert await client.fail() == first
    assert len(client.fake.calls) == 1
    clock.now += 30
    client.fake.default = lambda _: chat_answer("paid")
    await client.complete()
    await client.complete()
    assert len(client.fake.calls) == 3


async def test_no_credits_for_one_model_leave_a_free_one_working(client: Client) -> None:
    client.fake.default = lambda received: error_answer(402) if received.model == "org/paid" else chat_answer("free")
    await client.fail("org/paid")
    await client.complete("org/free")
    await client.fail("org/paid")
    assert [received.model for received in client.fake.calls] == ["org/paid", "org/free"]


async def test_a_refused_token_is_no_call_that_the_breaker_knows_of(client: Client) -> None:
    client.fake.default = lambda _: error_answer(401)
    await client.fail()
    answered_at = client.upstream.breaker.answered_at
    await client.fail()
    assert client.upstream.breaker.answered_at == answered_at


@pytest.mark.parametrize("answer", [error_answer(503), error_answer(429), Answer(200, {}, (b"data: [DONE]\n\n",))])
async def test_an_outage_makes_at_most_a_tenth_more_calls(connect: Connect, answer: Answer) -> None:
    saved = 20
    client = connect(breaker=NeverOpen(), budget=RetryBudget(capacity=saved, per_second=0))
    client.fake.default = lambda _: answer
    generations = 400
    for _ in range(generations):
        assert (await client.fail()).transient
    retries = len(client.fake.calls) - generations
    print(f"{generations} generations in an outage: {retries} retries, {saved} of them saved up before")
    assert retries <= saved + generations / 10


async def test_in_an_outage_that_is_seen_there_are_no_retries_at_all(connect: Connect) -> None:
    client = connect(budget=RetryBudget(capacity=20, per_second=0))
    client.fake.default = lambda _: error_answer(503)
    while not client.upstream.breaker.is_open:
        await client.fail()
    before = len(client.fake.calls)
    for _ in range(10):
        await client.fail()
    assert len(client.fake.calls) == before + 10


@pytest.mark.parametrize(("estimate", "pause_s"), [(3.0, 3.3), (0.5, 0.55), (8, 8.5)])
async def test_a_model_that_is_loading_is_waited_for(client: Client, estimate: float, pause_s: float) -> None:
    loading = json_answer({"error": "Model org/first is currently loading", "estimated_time": estimate}, status=503)
    client.fake.answer(loading, chat_answer("loaded"))
    await client.complete()
    assert client.sleep.pauses == [pytest.approx(pause_s)]


async def test_a_model_that_loads_for_long_waits_in_the_backlog(client: Client) -> None:
    client.fake.answer(json_answer({"error": "Model is currently loading", "estimated_time": 20.0}, status=503))
    failed = await client.fail()
    assert failed.transient
    assert failed.retry_after_s == 20
    assert client.sleep.pauses == []


async def test_calls_of_a_model_are_spaced_as_the_operator_says(connect: Connect) -> None:
    client = connect(rate_per_minute=60)
    client.fake.default = lambda _: chat_answer("fine")
    for _ in range(9):
        await client.complete(MODELS[0])
    assert client.sleep.pauses == pytest.approx([*[0] * 6, 1, 2, 3], abs=0.5)
    await client.complete(MODELS[1])
    assert client.sleep.pauses[-1] == 0, "each model has a pace of its own"


async def test_who_would_wait_long_for_a_turn_does_so_in_the_backlog(connect: Connect) -> None:
    client = connect(rate_per_minute=6)  # one at once, then one every ten seconds
    client.fake.default = lambda _: chat_answer("fine")
    await client.complete(MODELS[0])
    for _ in range(3):
        failed = await client.fail(*MODELS)
        assert failed.transient
        assert failed.retry_after_s == pytest.approx(10, abs=0.5)
    assert client.sleep.pauses == [0]
    assert len(client.fake.calls) == 1
    assert client.upstream.breaker.outage is None


async def test_a_turn_that_comes_after_the_deadline_is_left_to_others(connect: Connect) -> None:
    client = connect(rate_per_minute=30)
    client.fake.default = lambda _: chat_answer("fine")
    for _ in range(3):
        await client.complete(MODELS[0])
    assert (await client.fail(MODELS[0], timeout_s=1)).transient
    await client.complete(MODELS[0])
    assert client.sleep.pauses == pytest.approx([0, 0, 0, 2], abs=0.5)
