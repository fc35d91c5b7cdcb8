"""The upstream of the client scenarios: it answers each call by what the call contains."""

import base64
import json
from dataclasses import replace
from typing import Any

from tests.acceptance.openai_upstream import deltas_answer
from tests.fakes.huggingface import Answer, Received, chat_answer, json_answer

WORDS = ("Hello ", "wörld, ", "日本", "語 ", "👩‍👩‍👧.")
TEXT = "".join(WORDS)
PERSON = {"name": "Ada", "age": 36}
VECTORS = [[0.25, 0.5, -0.125], [1.0, 2.0, 3.0]]
PLACE = {"place": "Oslo"}
MEASURED = "7 °C"
WEATHER = "It is 7 °C in Oslo."
PAUSE_S = 0.05
"""Between the pieces of a text: pieces that come together are passed on together."""
TOO_LONG = "This model's maximum context length is 8192 tokens."


def respond(received: Received) -> Answer:
    """An answer in the shape that providers stream."""
    if "messages" not in received.body:
        return _embeddings()
    messages = received.body["messages"]
    if "This is too long." in _text_of(messages[-1]):
        error = {"message": TOO_LONG, "type": "invalid_request_error", "code": "context_length_exceeded"}
        return json_answer({"error": error}, status=400)
    if (received.body.get("response_format") or {}).get("type", "text") != "text":
        return chat_answer('{"name": "A', 'da", "age"', ": 36}")
    if tools := {tool["function"]["name"]: tool["function"] for tool in received.body.get("tools") or ()}:
        return _answer_with_tools(messages, tools)
    if image := _image_of(messages[-1]):
        return chat_answer("A PNG of ", f"{len(image)} bytes.")
    return replace(chat_answer(*WORDS), pause_s=PAUSE_S)


def _answer_with_tools(messages: list[Any], tools: dict[str, Any]) -> Answer:
    """A tool with an age is a way to structured output; `weather` is called once."""
    if typed := next((name for name, tool in tools.items() if "age" in tool["parameters"]["properties"]), None):
        return _call(typed, PERSON)
    if any(MEASURED in _text_of(message) for message in messages):
        return _second_answer(messages, tools)
    return _call("weather", PLACE)


def _embeddings() -> Answer:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(VECTORS)]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return json_answer({"object": "list", "data": data, "model": "org/model", "usage": usage})


def _call(name: str, arguments: dict[str, Any]) -> Answer:
    """A tool call whose arguments come in two pieces."""
    text = json.dumps(arguments)
    head: dict[str, Any] = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in (text[:5], text[5:])]
    return deltas_answer(*({"tool_calls": [piece]} for piece in (head, *pieces)), finish="tool_calls")


def _second_answer(messages: list[Any], tools: dict[str, Any]) -> Answer:
    """The answer to the result of `weather`; 422 if the replay does not have the call and its result in order."""
    if "final_answer" in tools:  # smolagents replays calls and results as text, and wants a call as its answer
        return _call("final_answer", {"answer": WEATHER})
    *_, turn, result = messages
    is_replayed = (
        turn["role"] == "assistant"
        and [(call["id"], json.loads(call["function"]["arguments"])) for call in turn["tool_calls"]]
        == [("call_1", PLACE)]
        and (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    )
    return chat_answer("It is ", "7 °C in Oslo.") if is_replayed else json_answer({"error": "bad replay"}, status=422)


def _text_of(message: Any) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _image_of(message: Any) -> bytes:
    content = message.get("content")
    urls = [part["image_url"]["url"] for part in content if "image_url" in part] if isinstance(content, list) else []
    return base64.b64decode(urls[0].removeprefix("data:image/png;base64,")) if urls else b""
