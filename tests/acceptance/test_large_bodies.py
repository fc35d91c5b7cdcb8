"""Bodies of megabytes: files inside them are stored while they arrive, and reach the model as they were sent."""

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from server.errors import Unavailable
from server.http import keys
from server.http.bodies import MAX_DEPTH
from server.requests.admission import Admission
from tests.acceptance.conftest import Api, Reply, Start
from tests.acceptance.openai_upstream import start_online
from tests.acceptance.test_uploads import objects_of, rows
from tests.fakes.huggingface import Answer, FakeHuggingFace, chat_answer
from tests.fakes.media import PNG, WAV
from tests.signals import until

MIB = 1024 * 1024


def noise(number: int, size: int) -> bytes:
    return Random(number).randbytes(size)  # noqa: S311 - the same in every run


PHOTO = PNG + noise(1, 15_000_000)
PICTURE = PNG + noise(2, 200_000)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace(default=lambda _: chat_answer("Seen.")) as fake:
        yield fake


@pytest.fixture
async def api(start: Start, upstream: FakeHuggingFace, tmp_path: Path) -> Api:
    return await start_online(start, upstream, data_dir=tmp_path)


def data_url(content: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{b64encode(content).decode()}"


def photo_message(content: bytes = PICTURE, text: str = "What is this?") -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(content)}}
    return {"role": "user", "content": [{"type": "text", "text": text}, image]}


async def post(api: Api, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    return await api.post(path, data=data, headers={"Content-Type": "application/json"} | (headers or {}))


async def ask(api: Api, *messages: Any, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    body = {"model": "org/model", "messages": list(messages), **fields}
    return await post(api, "/v1/chat/completions", body, headers)


async def create(api: Api, *messages: Any, headers: dict[str, str] | None = None) -> Reply:
    body = {"model_type": "chat", "input_data": {"messages": list(messages)}}
    return await post(api, "/api/requests", body, headers)


async def left(api: Api, database: str) -> tuple[list[Any], list[str]]:
    """The files that there still are: their rows and their objects, after a turn of the collector."""
    await api.app[keys.ENGINE].collector.tick()
    return await rows(database), await objects_of(api)


async def count_rows(database: str) -> int:
    return len(await rows(database))


async def until_true(look: Callable[[], Awaitable[Any]], *, equals: Any) -> None:
    """Wait until `look` gives this. Nothing tells when the database does."""
    async with asyncio.timeout(10):
        while await look() != equals:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("way", [ask, create])
async def test_a_photo_of_15_mb_reaches_the_model_as_it_was_sent(
    api: Api, upstream: FakeHuggingFace, database: str, way: Any
) -> None:
    reply = await way(api, photo_message(PHOTO))
    assert reply.status == 200, reply.body
    [call] = upstream.calls
    assert int(call.headers["Content-Length"]) == len(call.raw)
    sent = call.body["messages"][0]["content"][1]["image_url"]["url"]
    assert sent == data_url(PHOTO)
    [file] = await rows(database)
    assert (file["size"], file["content_type"]) == (len(PHOTO), "image/png")
    [stored] = (await api.get("/api/requests")).json
    assert len(json.dumps(stored)) < 2000
    [_, part] = stored["input_data"]["messages"][0]["content"]
    assert part["image_url"]["url"] == f"file:{file['id']}"
    assert (await api.get(f"/api/files/{file['id']}")).body == PHOTO
    assert (await api.send("DELETE", f"/api/requests/{stored['id']}")).status == 204
    assert await left(api, database) == ([], [])


async def test_a_body_in_chunks_of_unknown_length_is_taken(api: Api, upstream: FakeHuggingFace) -> None:
    body = json.dumps({"model": "org/model", "messages": [photo_message()]}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_007):
            yield body[start : start + 10_007]

    reply = await api.post("/v1/chat/completions", data=pieces(), headers={"Content-Type": "application/json"})
    assert reply.status == 200, reply.body
    assert upstream.calls[0].body["messages"][0] == photo_message()


async def test_sound_and_documents_reach_the_model_as_they_were_sent(api: Api, upstream: FakeHuggingFace) -> None:
    """Small ones stay in the body, large ones go through the store."""
    for padding in (b"", bytes(100_000)):
        sound, document = WAV + padding, b"%PDF-1.7\n" + padding
        parts = [
            {"type": "input_audio", "input_audio": {"data": b64encode(sound).decode(), "format": "wav"}},
            {"type": "file", "file": {"file_data": data_url(document, "application/pdf"), "filename": "a.pdf"}},
        ]
        reply = await ask(api, {"role": "user", "content": parts})
        assert reply.status == 200, reply.body
        assert upstream.calls[-1].body["messages"][0]["content"] == parts


async def test_a_recording_on_api_is_sent_as_bytes(api: Api, upstream: FakeHuggingFace) -> None:
    sound = WAV + noise(3, 2 * MIB)
    upstream.answer(Answer(200, {"Content-Type": "application/json"}, (b'{"text": "Hello."}',)))
    body = {"model_type": "speech-to-text", "input_data": {"inputs": data_url(sound, "audio/x-wav")}}
    reply = await post(api, "/api/requests", body)
    assert (reply.status, reply.json["status"]) == (200, "completed"), reply.body
    assert sound in upstream.calls[0].raw


async def test_many_pictures_of_one_conversation_are_kept_apart(api: Api, upstream: FakeHuggingFace) -> None:
    pictures = [PNG + noise(number, 70_000) for number in range(40)]
    reply = await ask(api, *map(photo_message, pictures))
    assert reply.status == 200, reply.body
    assert upstream.calls[0].body["messages"] == [photo_message(picture) for picture in pictures]


async def test_long_texts_and_long_conversations_are_taken(api: Api, upstream: FakeHuggingFace) -> None:
    for messages in (
        [{"role": "user", "content": "long " * 3 * MIB}],
        [{"role": role, "content": "short"} for role in ("user", "assistant") * 501],
        [{"role": "user", "content": [{"type": "text", "text": "x" * 300_000}]}],
    ):
        reply = await ask(api, *messages)
        assert reply.status == 200, reply.body[:500]
        assert upstream.calls[-1].body["messages"] == messages


async def test_a_data_url_in_a_text_stays_a_text(api: Api, upstream: FakeHuggingFace) -> None:
    message = {"role": "user", "content": data_url(PICTURE)}
    assert (await ask(api, message)).status == 200
    assert upstream.calls[0].body["messages"] == [message]


async def test_a_file_where_no_file_can_be_is_refused(api: Api, database: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {
        "role": "assistant",
        "content": "x",
        "tool_calls": [call | {"extra_content": {"google": {"inputs": data_url(PICTURE)}}}],
    }
    reply = await ask(api, {"role": "user", "content": "x"}, message)
    assert (reply.status, "64 KiB" in reply.body.decode()) == (400, True), reply.body
    assert await left(api, database) == ([], [])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (data_url(PICTURE)[:-3] + "*==", "must be whole base64"),
        (data_url(PICTURE, "audio/mpeg").replace(b64encode(PNG[:9]).decode(), "SUQz"), "must be an image file"),
        (data_url(WAV + bytes(100_000), "image/png"), "this one is audio/wav"),
        (data_url(b"<html>" + bytes(100_000), "text/html"), "this one is text/html"),
    ],
)
async def test_what_is_no_picture_is_refused_by_field_and_leaves_nothing(
    api: Api, database: str, wrong: str, says: str
) -> None:
    image = {"type": "image_url", "image_url": {"url": wrong}}
    good = photo_message()["content"][1]
    reply = await create(api, {"role": "user", "content": [good, image]})
    assert (reply.status, reply.json["code"]) == (422, "VALIDATION_ERROR")
    [error] = reply.json["errors"]
    assert error["field"] == "input_data.messages.0.content.1.image_url.url"
    assert says in error["message"]
    assert await left(api, database) == ([], [])


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_beyond_the_limit_is_413_and_leaves_nothing(
    start: Start, upstream: FakeHuggingFace, tmp_path: Path, database: str, *, is_announced: bool
) -> None:
    api = await start_online(start, upstream, data_dir=tmp_path, max_body_mb=1)
    body = json.dumps({"model": "m", "messages": [photo_message(), photo_message(PHOTO[: 2 * MIB])]}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65_536):
            yield body[at : at + 65_536]

    data = io.BytesIO(body) if is_announced else pieces()
    reply = await api.post("/v1/chat/completions", data=data, headers={"Content-Type": "application/json"})
    assert reply.status == 413
    assert "at most 1 MB (MAX_BODY_MB)" in reply.json["error"]["message"]
    assert await left(api, database) == ([], [])


async def test_a_file_beyond_the_quota_is_refused(start: Start, upstream: FakeHuggingFace, tmp_path: Path) -> None:
    api = await start_online(start, upstream, data_dir=tmp_path, upload_quota_mb=1)
    for content, status in ((PICTURE, 200), (PHOTO[:MIB], 429), (PICTURE, 200)):
        reply = await create(api, photo_message(content))
        assert reply.status == status, reply.body
    assert len(await objects_of(api)) == 2


async def test_a_retry_with_its_key_is_the_same_request_and_keeps_one_file(
    api: Api, upstream: FakeHuggingFace, database: str
) -> None:
    key = {"Idempotency-Key": "photo-1"}
    first = await create(api, photo_message(), headers=key)
    again = await create(api, photo_message(), headers=key)
    assert (first.status, again.status) == (200, 200)
    assert again.json["id"] == first.json["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await create(api, photo_message(PICTURE[:-1] + b"!"), headers=key)
    assert other.json["detail"].startswith("This Idempotency-Key was used with another body")
    assert [len(found) for found in await left(api, database)] == [1, 1]
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("cut", [0.3, 0.8])
async def test_a_client_that_leaves_in_the_middle_leaves_no_file(api: Api, database: str, cut: float) -> None:
    """In the middle of the first file, or of the second one."""
    body = json.dumps({"model": "m", "messages": [photo_message(PHOTO[:MIB]), photo_message(PHOTO[:MIB])]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(head.encode() + body[: int(len(body) * cut)])
    await writer.drain()
    collector = api.app[keys.ENGINE].collector

    await until_true(lambda: count_rows(database), equals=1 if cut < 0.5 else 2)
    writer.close()
    await until(lambda: not collector.arriving)
    await until_true(lambda: left(api, database), equals=([], []))


async def test_a_create_whose_fate_is_unknown_keeps_its_files(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_the_reply(*_: Any, **__: Any) -> Any:
        raise Unavailable("The reply was lost.", retry_after_s=1)

    monkeypatch.setattr(Admission, "admit", lose_the_reply)
    assert (await create(api, photo_message())).status == 503
    assert [len(found) for found in await left(api, database)] == [1, 1]


async def test_bodies_of_many_members_are_refused_before_they_are_parsed(api: Api) -> None:
    for body in (b"[" + b"{}," * MIB + b"{}]", b"[" * 100_000, b'{"a":[' + b"0," * 3 * MIB + b"0]}"):
        reply = await post(api, "/api/requests", body)
        assert reply.status in {400, 422}, reply.status
        assert "too many members" in reply.json["detail"] or f"nested more than {MAX_DEPTH}" in reply.json["detail"]
