"""Each recorded exchange of a text task goes through the whole server and is stored as an independent reader has it."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from server.inference import breaker
from server.inference.circuits import TokenRefusals
from tests.acceptance.conftest import Api, Reply, Start
from tests.fakes.huggingface import Answer, FakeHuggingFace, Received, replay
from tests.fakes.reader import read
from tests.fakes.tapes import Record, all_exchanges

_SHORT_DEADLINE_S = 4
"""For what is transient: it goes back to the backlog until then, as the recording never gets better."""


def _prompt_of(received: Received) -> str:
    body = received.body
    return str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt", body.get("inputs")))


async def _generate(api: Api, number: int, record: Record) -> Reply:
    model_type = "text-generation" if record["task"].startswith("text-generation") else "text2text"
    deadline_s = _SHORT_DEADLINE_S if read(record).is_transient else 120
    return await api.create(str(number), model_type=model_type, deadline_s=deadline_s)


def _problems(record: Record, item: dict[str, Any]) -> list[str]:
    """What of the stored object is not what the recording says."""
    expected = read(record)
    output = item["output_data"] or {}
    found: dict[str, tuple[Any, Any]] = {}
    if expected.is_ok:
        found["status"] = item["status"], "completed"
        found["output"] = output.get("output"), expected.text
        found["reasoning"] = output.get("reasoning"), expected.reasoning
        found["token_used"] = item["token_used"], expected.token_used
        found["token_count"] = item["token_count"], expected.token_count
        names = tuple(call["function"]["name"] for call in output.get("tool_calls", ()))
        found["tool_calls"] = names, expected.tool_names
        found["error_msg"] = item["error_msg"], None
    else:
        found["status"] = item["status"], "failed"
        found["error_code"] = item["error_code"], "MODEL_ERROR"
        has_words = (expected.words or "The model provider") in item["error_msg"]
        found["words"] = has_words, True
    return [f"{name}: {is_!r} is not {wanted!r}" for name, (is_, wanted) in found.items() if is_ != wanted]


async def test_every_exchange_is_stored_as_it_was_recorded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    records = all_exchanges()
    # All are tried, however many fail, and whatever was said of the token before.
    monkeypatch.setattr(breaker, "THRESHOLD", len(records) * _SHORT_DEADLINE_S)
    monkeypatch.setattr(TokenRefusals, "standing", lambda *_: None)

    def respond(received: Received) -> Answer:
        return replay(records[int(_prompt_of(received))]).split_awkwardly()

    async with FakeHuggingFace(default=respond) as upstream:
        api = await (
            await start(
                inference_backend="huggingface",
                hf_base_url=upstream.url,
                text_models="org/model",
                max_retries=0,
                concurrency=256,
            )
        ).sign_up()
        replies = await asyncio.gather(*(_generate(api, number, record) for number, record in enumerate(records)))
        stored = {item["id"]: item for item in (await api.get("/api/requests?limit=1000")).json}
    problems = {
        record["name"]: found
        for record, reply in zip(records, replies, strict=True)
        if (found := _problems(record, stored[reply.json["id"]]))
    }
    counts = Counter((record["task"], record["response"]["status"]) for record in records)
    for (task, status), count in sorted(counts.items()):
        print(f"{task:<24} {status}  {count:>3}")
    assert not problems
    assert all(reply.status == 200 for reply in replies)
