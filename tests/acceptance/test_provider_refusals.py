"""A provider's refusal keeps its meaning on `/v1`, whole and streamed: status, type and code of every recorded one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.inference import breaker
from server.inference.circuits import TokenRefusals
from server.routes import openai
from tests.acceptance.conftest import Api, Reply, Start
from tests.acceptance.openai_upstream import start_online
from tests.fakes.huggingface import (
    Answer,
    FakeHuggingFace,
    Received,
    body_of,
    chat_answer,
    error_answer,
    event,
    json_answer,
    replay,
)
from tests.fakes.reader import read
from tests.fakes.tapes import Record, all_exchanges, task_exchanges
from tests.fakes.task_reader import read_task

PATH = "/v1/chat/completions"
REFUSED = "invalid_request_error"
CONTEXT = "This model's maximum context length is 8192 tokens."
DEADLINE_S = 8
"""For outages, which are tried again until then."""
KINDS = {"validation": 400, "template_error": 400, "overloaded": 429}
MODEL_CODES = {"model_not_found", "model_not_supported"}
TOKEN = "hf_a1B2c3D4e5F6g7H8i9J0k1L2m3"


@pytest.fixture(autouse=True)
def _patient_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are tried, however many fail, and whatever was said of the token before."""
    monkeypatch.setattr(breaker, "THRESHOLD", 1_000_000)
    monkeypatch.setattr(TokenRefusals, "find", lambda *_: None)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


async def ask(api: Api, prompt: str = "hello", *, path: str = PATH, **fields: Any) -> Reply:
    content = {"input": prompt} if path.endswith("embeddings") else {"messages": [{"role": "user", "content": prompt}]}
    return await api.post(path, {"model": "default", **content, **fields})


def error_of(reply: Reply) -> tuple[int, str, str | None, str | None]:
    error = reply.json["error"]
    return reply.status, error["type"], error["code"], error["param"]


def failures() -> list[Record]:
    """All recorded errors and the fixtures of the same forms, of text and of the other tasks."""
    tasks = [record for record in task_exchanges() if record["response"]["status"] != 200]
    return [record for record in all_exchanges() if not read(record).is_ok] + [
        record for record in tasks if not read_task(record).is_ok
    ]


def expected(record: Record) -> tuple[int, str, str | None]:
    """Status, type and code on `/v1`, from the recording alone."""
    status, body = record["response"]["status"], body_of(record).decode("utf-8", "replace")
    try:
        document = json.loads(body.removeprefix("data:").partition("\n\n")[0])
    except ValueError:
        document = {}
    inner = document.get("error") if isinstance(document, dict) else None
    fields = {**(document if isinstance(document, dict) else {}), **(inner if isinstance(inner, dict) else {})}
    code = next((fields[name] for name in ("code", "error_type", "reason") if isinstance(fields.get(name), str)), None)
    if status == 200:
        status = fields.get("http_status_code") or KINDS.get(str(code), 500)
    is_input_fault = fields.get("error") == "unknown error" and "warnings" in fields
    if status in {404, 410} or code in MODEL_CODES or "Model not supported by provider" in str(inner):
        return 404, REFUSED, "model_not_found"
    if status in {400, 413, 422} or is_input_fault:
        return 400, REFUSED, code
    if status == 429:
        return 429, "rate_limit_error", "rate_limit_exceeded"
    if status in {401, 402, 403}:
        return 502, "api_error", "model_error"
    is_transient = (read if record in all_exchanges() else read_task)(record).is_transient
    return (504, "api_error", "model_timeout") if is_transient else (502, "api_error", "model_error")


async def _last_error(api: Api, number: int) -> tuple[int, str, str | None]:
    """The error of a streamed call: of its status, or of its last event."""
    reply = await ask(api, f"record {number}.", stream=True)
    if reply.status != 200:
        return reply.status, *error_of(reply)[1:3]
    last = json.loads(reply.body.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]
    return 200, last["type"], last["code"]


async def test_a10_every_recorded_failure_keeps_its_meaning(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "HOLD_S", 60.0)
    records = failures()
    assert len(records) > 40

    def answer(received: Received) -> Answer:
        content = received.body["messages"][0]["content"]
        return replay(records[int(content.removeprefix("record ").removesuffix("."))])

    async with FakeHuggingFace(default=answer) as upstream:
        settings = {"max_wait_s": DEADLINE_S, "deadline_s": DEADLINE_S, "max_retries": 0, "concurrency": 1000}
        api = await start_online(start, upstream, **settings)
        plain = asyncio.gather(*(ask(api, f"record {number}.") for number in range(len(records))))
        streamed = asyncio.gather(*(_last_error(api, number) for number in range(len(records))))
        replies, ends = await plain, await streamed
        stored = {item["id"]: item for item in (await api.get("/api/requests?limit=1000")).json}
    problems = []
    for record, reply, end in zip(records, replies, ends, strict=True):
        wanted, found = expected(record), error_of(reply)[:3]
        row = stored[reply.headers["Location"].rpartition("/")[2]]
        statuses = {wanted[0], 200} if read(record).text or "cut" in record["name"] else {wanted[0]}
        if found != wanted or end[1:] != wanted[1:] or end[0] not in statuses:
            problems.append(f"{record['name']}: {found}, {end}, not {wanted}")
        status = (row["upstream_error"] or {}).get("status")
        is_kept = status == wanted[0] if wanted[0] < 500 else status not in {400, 404, 413, 429}
        if row["error_code"] != "MODEL_ERROR" or not is_kept:
            problems.append(f"{record['name']}: stored as {row['error_code']}, {row.get('upstream_error')}")
    assert not problems


@pytest.mark.parametrize("path", [PATH, "/v1/embeddings"])
@pytest.mark.parametrize(
    ("status", "error", "wanted"),
    [
        (400, {"message": CONTEXT, "code": "context_length_exceeded"}, (400, REFUSED, "context_length_exceeded", None)),
        (400, {"message": CONTEXT, "code": 400, "param": "messages"}, (400, REFUSED, None, "messages")),
        (413, {"message": CONTEXT, "code": "too_large"}, (413, REFUSED, "too_large", None)),
        (422, {"message": CONTEXT, "code": "bad_schema"}, (400, REFUSED, "bad_schema", None)),
        (400, {"message": CONTEXT, "code": "content_filter"}, (400, REFUSED, "content_filter", None)),
        (403, {"message": "Your model requires moderation", "code": 403}, (400, REFUSED, "content_filter", None)),
        (451, {"message": CONTEXT}, (400, REFUSED, None, None)),
        (404, {"message": CONTEXT}, (404, REFUSED, "model_not_found", "model")),
        (400, {"message": "x", "code": "model_not_found"}, (404, REFUSED, "model_not_found", "model")),
        (401, {"message": "x", "code": "invalid_api_key"}, (502, "api_error", "model_error", None)),
        (402, {"message": "x", "code": "no_credits"}, (502, "api_error", "model_error", None)),
        (403, {"message": "x", "code": "forbidden"}, (502, "api_error", "model_error", None)),
        (405, {"message": "x"}, (502, "api_error", "model_error", None)),
    ],
)
async def test_a10_a_refusal_is_answered_at_once_with_the_providers_code(
    start: Start, upstream: FakeHuggingFace, path: str, status: int, error: dict[str, Any], wanted: tuple[Any, ...]
) -> None:
    upstream.default = lambda _: json_answer({"error": error}, status=status)
    api = await start_online(start, upstream, embedding_models="org/model")
    reply = await ask(api, path=path)
    assert error_of(reply) == wanted
    assert error["message"] in reply.json["error"]["message"]
    assert len(upstream.calls) == 1
    row = (await api.get(reply.headers["Location"])).json
    assert (row["status"], row["error_code"]) == ("failed", "MODEL_ERROR")
    if wanted[0] < 500:
        assert row["upstream_error"]["status"] == wanted[0]
    if wanted[2] not in {"model_error", "model_not_found", None}:
        assert row["upstream_error"]["code"] == wanted[2]


async def test_a10_a_refusal_in_the_middle_of_a_stream_is_an_event_with_its_meaning(
    start: Start, upstream: FakeHuggingFace
) -> None:
    error = {"error": {"message": CONTEXT, "code": "context_length_exceeded", "status": 400}}
    begun = chat_answer("Once ", finish=None, usage=None, done=False)
    upstream.answer(Answer(200, begun.headers, (*begun.pieces, event(error))))
    api = await start_online(start, upstream)
    reply = await ask(api, stream=True)
    *_, last, end = reply.body.split(b"\n\n")
    assert (reply.status, end) == (200, b"")
    found = json.loads(last.removeprefix(b"data: "))["error"]
    assert (found["type"], found["code"]) == (REFUSED, "context_length_exceeded")


@pytest.mark.parametrize("stream", [False, True])
async def test_a10_a_rate_limit_says_when_to_come_back(
    start: Start, upstream: FakeHuggingFace, *, stream: bool
) -> None:
    upstream.default = lambda _: error_answer(429, "Slow down.", headers={"Retry-After": "7"})
    api = await start_online(start, upstream, max_wait_s=1, deadline_s=1, max_retries=0)
    reply = await ask(api, stream=stream)
    assert error_of(reply)[:3] == (429, "rate_limit_error", "rate_limit_exceeded")
    assert reply.headers["Retry-After"] == "7"
    assert "x-should-retry" not in reply.headers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
async def test_a10_no_answer_quotes_the_token(start: Start, upstream: FakeHuggingFace, status: int) -> None:
    error = {"message": f"{TOKEN} and Bearer {TOKEN}", "code": TOKEN, "param": TOKEN, "type": TOKEN}
    upstream.default = lambda _: json_answer({"error": error}, status=status, headers={"x-error-message": TOKEN})
    api = await start_online(start, upstream, hf_api_token=TOKEN, max_wait_s=1, max_retries=0)
    reply = await ask(api)
    row = await api.get(reply.headers["Location"])
    assert reply.status >= 400
    assert TOKEN.encode() not in reply.body + row.body
    assert row.json["status"] == "failed"
