"""The test double: each model behaves as its name says, and none passes for AI."""

from typing import Any

import pytest

from server.catalog import OFFLINE_MODELS
from server.inference.events import Call, Delta, Failed, Started, Task
from server.inference.offline import INTRODUCTION, LONG_STREAM_WORDS, Offline
from server.model_request import Completed, Usage


class Sleeper:
    """Time that passes at once, and is added up."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    async def __call__(self, seconds: float) -> None:
        self.slept_s += seconds


async def run(model: str | None, prompt: str = "Hello you", *, offline: Offline | None = None, **options: Any) -> Any:
    """All events, and the seconds that passed."""
    sleeper = Sleeper()
    double = offline or Offline(sleep=sleeper)
    parameters = options.pop("parameters", {})
    input_data = options.pop("input_data", {"prompt": prompt})
    call = Call(Task.CHAT_COMPLETION, () if model is None else (model,), input_data, parameters)
    events = [event async for event in double.generate(call, timeout_s=options.pop("timeout_s", 60))]
    return events, sleeper.slept_s


@pytest.mark.parametrize("model", [None, "offline/echo"])
async def test_echo_says_what_it_is_and_quotes_the_prompt(model: str | None) -> None:
    events, seconds = await run(model)
    completed = events[-1]
    text = 'Offline model, not AI: you said "Hello you"'
    assert completed == Completed(
        {"output": text, "offline": True, "finish_reason": "stop"}, Usage(2 + 8, 8), "offline/echo"
    )
    assert events[0] == Started("offline/echo", "offline")
    assert "".join(event.text for event in events if isinstance(event, Delta)) == text
    assert seconds == 0


async def test_the_last_message_of_a_conversation_is_quoted() -> None:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi there"}]
    events, _ = await run("offline/echo", input_data={"messages": messages})
    assert '"Hi there"' in events[-1].output_data["output"]


async def test_a_huge_prompt_is_quoted_in_part() -> None:
    events, _ = await run("offline/echo", "word " * 40_000)
    assert len(events[-1].output_data["output"]) < 3000


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens"])
async def test_a_limit_of_tokens_is_kept_and_said(name: str) -> None:
    events, _ = await run("offline/echo", parameters={name: 3})
    assert events[-1].output_data == {"output": "Offline model, not", "offline": True, "finish_reason": "length"}
    assert events[-1].usage.token_count == 3


@pytest.mark.parametrize(("model", "seconds"), [("offline/slow-2s", 2), ("offline/slow-20s", 20)])
async def test_the_slow_ones_take_their_time(model: str, seconds: float) -> None:
    events, slept_s = await run(model)
    assert slept_s == seconds
    assert isinstance(events[-1], Completed)


async def test_too_little_time_ends_it_within_that_time() -> None:
    events, slept_s = await run("offline/slow-20s", timeout_s=5)
    assert slept_s == 5
    assert [event.message for event in events] == ["The model did not answer within 5 s."]


async def test_the_long_stream_comes_word_by_word() -> None:
    events, slept_s = await run("offline/long-stream")
    assert len([event for event in events if isinstance(event, Delta)]) > LONG_STREAM_WORDS
    assert slept_s > 5


async def test_the_loading_one_answers_when_it_is_asked_again() -> None:
    double = Offline(sleep=Sleeper())
    first, _ = await run("offline/loading-503", offline=double)
    again, _ = await run("offline/loading-503", offline=double)
    other, _ = await run("offline/loading-503", "another prompt", offline=double)
    assert first[-1].transient
    assert first[-1].retry_after_s > 0
    assert isinstance(again[-1], Completed)
    assert other[-1].transient


async def test_what_is_loading_is_remembered_within_bounds() -> None:
    double = Offline(sleep=Sleeper())
    for number in range(2500):
        await run("offline/loading-503", f"prompt {number}", offline=double)
    assert len(double._loading) <= 1000


async def test_no_credits_names_the_remedy_and_is_final() -> None:
    events, _ = await run("offline/no-credits")
    assert "buy credits" in events[-1].message
    assert not events[-1].transient


async def test_the_truncated_one_keeps_its_half_and_marks_it() -> None:
    events, _ = await run("offline/truncated")
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert not failed.transient
    assert failed.output_data is not None
    assert failed.output_data["partial"] is True
    assert failed.output_data["output"].startswith("Offline model")
    assert "finish_reason" not in failed.output_data


@pytest.mark.parametrize("model", OFFLINE_MODELS)
async def test_every_model_of_the_catalog_is_known_and_ends_in_exactly_one_way(model: str) -> None:
    events, _ = await run(model)
    assert [isinstance(event, (Completed, Failed)) for event in events] == [False] * (len(events) - 1) + [True]
    assert "no offline model" not in getattr(events[-1], "message", "")
    if isinstance(events[-1], Completed):
        assert events[-1].output_data["output"].startswith(INTRODUCTION)
        assert events[-1].output_data["offline"] is True


async def test_an_unknown_model_is_refused_for_good() -> None:
    events, _ = await run("offline/what")
    assert len(events) == 1
    assert not events[0].transient
    assert "offline/what" in events[0].message


async def test_it_is_always_there() -> None:
    double = Offline()
    assert (await double.check()).is_ok
    await double.close()
