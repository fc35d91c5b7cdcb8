"""What upstream answers in the tests of `/v1`, and a server that asks it."""

from dataclasses import replace
from typing import Any

from tests.acceptance.conftest import Api, Start
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, chat_answer, event

WORDS = ("Grüße ", "👩‍👩‍👧 ", "and ", "日本", "語.")
TEXT = "".join(WORDS)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "at": {"type": "string"}}},
    },
}
STALLED = replace(chat_answer("Once ", "upon", finish=None, usage=None, done=False), end=End.STALL)
SILENT = Answer(is_silent=True, end=End.STALL)
BROKEN = replace(chat_answer("Once ", "upon", finish=None, usage=None, done=False), end=End.CUT, pause_s=0.05)


def deltas_answer(*deltas: dict[str, Any], finish: str | None = "stop") -> Answer:
    """A stream of such deltas."""
    end = chat_answer(finish=finish)
    pieces = tuple(event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas)
    return Answer(200, end.headers, pieces + end.pieces[1:])


def tool_answer(*, call_id: str | None = "fc_1") -> Answer:
    """A call of `weather` in pieces, after a thought, and a second one without arguments."""
    first: dict[str, Any] = {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    if call_id is not None:
        first["id"] = call_id
    return deltas_answer(
        {"reasoning": "Oslo, then."},
        {"tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"place": "Os'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'lo"}'}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "fc_2", "type": "function", "function": {"name": "now", "arguments": "{}"}}
            ]
        },
        finish="tool_calls",
    )


async def start_online(start: Start, upstream: FakeHuggingFace, **settings: Any) -> Api:
    """A signed-in user of a server that asks this upstream."""
    given = {"inference_backend": "huggingface", "hf_base_url": upstream.url, "text_models": "org/model"}
    return await (await start(**(given | settings))).sign_up()
