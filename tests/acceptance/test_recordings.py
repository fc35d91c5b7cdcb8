"""Each recorded exchange of every task goes through the whole server and comes out as an independent reader has it."""

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from server.inference import breaker
from server.inference.circuits import TokenRefusals
from tests.acceptance.conftest import Api, Start, events_of
from tests.fakes.event_source import Told, final_of, joined
from tests.fakes.huggingface import Answer, FakeHuggingFace, Received, json_answer, replay
from tests.fakes.reader import Expectation, read
from tests.fakes.tapes import Record, all_exchanges, tape, task_exchanges
from tests.fakes.task_reader import NOT_OFFERED, is_inference, read_task
from tests.fixtures.results import FLAC, JPEG

_SHORT_DEADLINE_S = 8
"""For what is transient: it goes back to the backlog until then, as the recording never gets better."""
_DEADLINE_S = 30
_MARK = re.compile(rb"record (\d+)\.")
_STRANGERS = re.compile(rb"https://(?:v3\.fal\.media|replicate\.delivery|api\.us1\.bfl\.ai|cdn\.example)/")
"""Whose files the recordings name; here they are the fake's own."""


def _data_url(head: bytes, text: str) -> str:
    """A file of the kind that these first bytes say."""
    return f"data:;base64,{base64.b64encode(head + text.encode()).decode()}"


def _body(record: Record, number: int) -> dict[str, Any]:
    """A create for the record's task, whose input says which record is the answer to it."""
    mark = f"record {number}."
    task = record["task"].removesuffix("-stream")
    image = {"image": _data_url(b"\x89PNG\r\n\x1a\n", mark)}
    inputs: dict[str, dict[str, Any]] = {
        "error": {"prompt": mark},
        "chat-completion": {"prompt": mark},
        "text-generation": {"prompt": mark},
        "text-to-image": {"prompt": mark},
        "question-answering": {"question": mark, "context": "c"},
        "table-question-answering": {"question": mark, "table": {"a": ["1"]}},
        "sentence-similarity": {"source_sentence": mark, "sentences": ["a"]},
        "automatic-speech-recognition": {"audio": _data_url(b"fLaC", mark)},
        "audio-classification": {"audio": _data_url(b"fLaC", mark)},
        **dict.fromkeys(("image-to-image", "image-classification", "object-detection", "image-segmentation"), image),
        "image-to-text": image,
    }
    body = {"model_type": "text2text" if task == "error" else task, "input_data": inputs.get(task, {"text": mark})}
    needs_labels = task == "zero-shot-classification"
    return body | ({"parameters": {"candidate_labels": ["a", "b"]}} if needs_labels else {})


def _is_text(record: Record) -> bool:
    return record in all_exchanges()


def _expected(record: Record) -> Expectation:
    return read(record) if _is_text(record) else read_task(record)


def _answer(records: list[Record], received: Received) -> Answer:
    """The recorded answer to what is asked; or the file, or the state of the job, that such an answer named."""
    if received.method == "POST":
        match = _MARK.search(received.raw)
        assert match is not None, received
        return _with_own_addresses(replay(records[int(match[1])]), received)
    origin = f"http://{received.headers['Host']}"
    if "result" in received.path:
        return json_answer({"status": "Ready", "result": {"sample": f"{origin}/made.jpg"}})
    if "predictions" in received.path:
        return json_answer({"status": "succeeded", "output": f"{origin}/made.jpg", "error": None})
    made = FLAC if received.path.endswith(".wav") else JPEG
    return Answer(200, {"Content-Type": "application/octet-stream"}, (made,))


def _with_own_addresses(answer: Answer, received: Received) -> Answer:
    origin = f"http://{received.headers['Host']}/".encode()
    return Answer(answer.status, answer.headers, (_STRANGERS.sub(origin, answer.body),)).split_awkwardly()


async def _problems(api: Api, record: Record, item: dict[str, Any]) -> list[str]:
    """What of the stored object is not what the recording says."""
    expected = _expected(record)
    output = dict(item["output_data"] or {})
    found: dict[str, tuple[Any, Any]] = {}
    if not expected.is_ok:
        found["status"] = item["status"], "failed"
        found["error_code"] = item["error_code"], "MODEL_ERROR"
        has_words = (expected.words or "The model provider") in (item["error_msg"] or "")
        found["words"] = has_words, True
    else:
        found["status"] = item["status"], "completed"
        found["error_msg"] = item["error_msg"], None
        found["token_used"] = item["token_used"], expected.token_used
        found["token_count"] = item["token_count"], expected.token_count
        found |= _text_of(output, expected) if _is_text(record) else await _result_of(api, item, output, expected)
    return [f"{name}: {is_!r} is not {wanted!r}"[:500] for name, (is_, wanted) in found.items() if is_ != wanted]


def _text_of(output: Mapping[str, Any], expected: Expectation) -> dict[str, tuple[Any, Any]]:
    names = tuple(call["function"]["name"] for call in output.get("tool_calls", ()))
    return {
        "output": (output.get("output"), expected.text),
        "reasoning": (output.get("reasoning"), expected.reasoning),
        "tool_calls": (names, expected.tool_names),
    }


async def _result_of(
    api: Api, item: Mapping[str, Any], output: dict[str, Any], expected: Expectation
) -> dict[str, tuple[Any, Any]]:
    output.pop("provider", None)
    stored = output.pop("files", [])
    is_sound = item["model_type"] == "text-to-speech"
    made = [("audio/flac", FLAC) if is_sound else ("image/jpeg", JPEG)]
    wanted = list(expected.files) if expected.fetch is None else made
    files = [
        (file["content_type"], (await api.get(f"/api/requests/{item['id']}/files/{number}")).body)
        for number, file in enumerate(stored)
    ]
    return {"data": (output, expected.data or {}), "files": (files, wanted)}


def _id_of(events: list[Told]) -> str:
    return str(final_of(events).data["id"])


def _told_wrongly(events: list[Told], stored: Mapping[str, Any]) -> list[str]:
    """What a reader of the stream was told that is not what is stored."""
    final = final_of(events).data
    output = final["output_data"] or {}
    told = {
        "the end": (final, stored[final["id"]]),
        "output": (joined(events), output.get("output", "")),
        "reasoning": (joined(events, "reasoning"), output.get("reasoning", "")),
        "arguments": (
            joined(events, "tool_call"),
            "".join(call["function"]["arguments"] for call in output.get("tool_calls", ())),
        ),
    }
    return [f"{name}: {is_!r} is not {wanted!r}"[:500] for name, (is_, wanted) in told.items() if is_ != wanted]


async def _run(start: Start, records: list[Record]) -> dict[str, list[str]]:
    """All of them at once; what went wrong, by the record's name."""
    async with FakeHuggingFace(default=lambda received: _answer(records, received)) as upstream:
        server = await start(
            inference_backend="huggingface",
            hf_base_url=upstream.url,
            text_models="org/model",
            max_retries=0,
            concurrency=1000,
        )
        api = await server.sign_up()

        async def stream(number: int, record: Record) -> list[Told]:
            deadline_s = _SHORT_DEADLINE_S if _expected(record).is_transient else _DEADLINE_S
            body = {**_body(record, number), "deadline_s": deadline_s}
            headers = {"Accept": "text/event-stream"}
            async with events_of(api, "/api/requests", method="POST", json=body, headers=headers) as source:
                return await source.all(60)

        streams = await asyncio.gather(*(stream(number, record) for number, record in enumerate(records)))
        stored = {item["id"]: item for item in (await api.get("/api/requests?limit=1000")).json}
        found = {
            record["name"]: _told_wrongly(events, stored) + await _problems(api, record, stored[_id_of(events)])
            for record, events in zip(records, streams, strict=True)
        }
    counts = Counter((record["task"], record["response"]["status"]) for record in records)
    for (task, status), count in sorted(counts.items()):
        print(f"{task:<30} {status}  {count:>3}")
    return {name: problems for name, problems in found.items() if problems}


@pytest.fixture(autouse=True)
def _patient_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are tried, however many fail, and whatever was said of the token before."""
    monkeypatch.setattr(breaker, "THRESHOLD", 1_000_000)
    monkeypatch.setattr(TokenRefusals, "find", lambda *_: None)


async def test_every_exchange_of_text_is_stored_as_it_was_recorded(start: Start) -> None:
    assert await _run(start, all_exchanges()) == {}


async def test_every_answer_of_the_other_tasks_is_stored_as_it_was_recorded(start: Start) -> None:
    assert await _run(start, task_exchanges()) == {}


def test_no_recording_is_left_out_without_a_reason() -> None:
    tried = {json.dumps(record) for record in (*all_exchanges(), *task_exchanges())}
    left = [record for record in tape() if json.dumps(record) not in tried]
    reasons = {True: "a page that was fetched, no answer of a model"}
    counts = Counter(
        (record["task"], NOT_OFFERED.get(record["task"]) or reasons[not is_inference(record)]) for record in left
    )
    for (task, reason), count in sorted(counts.items()):
        print(f"{task:<30} {count:>3}  not offered: {reason}")
    assert len(left) + len(tried) >= len(tape())
