"""Images in the answer of a chat: kept as files, shown in OpenAI's shape, whole and as a stream (row A6)."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.conftest import Api, Start
from tests.acceptance.openai_upstream import start_online
from tests.fakes.huggingface import Answer, FakeHuggingFace, chat_answer, event, json_answer
from tests.fakes.media import PNG, SAMPLES

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Draw a cat."}]}
JPEG = SAMPLES["jpeg (JFIF)"].data
LARGE = PNG + bytes(range(256)) * 20 * 1024
"""More than an event of text may have, and than one piece of a socket."""


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


def data_url(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def streamed(*deltas: dict[str, Any]) -> Answer:
    pieces = [event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    end = chat_answer(usage=(3, 1290))
    return Answer(end.status, end.headers, (*pieces, *end.pieces))


def whole(message: dict[str, Any]) -> Answer:
    return json_answer({"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]})


FORMS = {
    "a delta": streamed({"content": "Here: "}, {"images": [image(data_url(PNG))]}),
    "two deltas": streamed({"images": [image(data_url(PNG))]}, {"images": [image(data_url(JPEG, "image/jpeg"))]}),
    "repeated": streamed({"images": [image(data_url(PNG))]}, {"images": [image(data_url(PNG))], "content": "Here: "}),
    "a message": whole({"content": "Here: ", "images": [image(data_url(PNG)), image(data_url(JPEG))]}),
    "null text": whole({"content": None, "images": [{"image_url": data_url(PNG)}]}),
    "parts": whole({"content": [{"type": "text", "text": "Here: "}, image(data_url(PNG))]}),
    "large": streamed({"images": [image(data_url(LARGE))]}),
}
IMAGES = {"two deltas": (PNG, JPEG), "a message": (PNG, JPEG), "large": (LARGE,)}
SILENT = {"two deltas", "null text", "large"}


@pytest.mark.parametrize("form", FORMS)
async def test_a6_images_of_an_answer_are_its_files(online: Api, upstream: FakeHuggingFace, form: str) -> None:
    upstream.answer(FORMS[form])
    output = (await online.create()).json["output_data"]
    assert output["output"] == ("" if form in SILENT else "Here: ")
    files = [(await online.get(file["url"])) for file in output["files"]]
    assert [file.body for file in files] == list(IMAGES.get(form, (PNG,)))
    assert files[0].headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("form", ["a delta", "two deltas", "large"])
async def test_a6_openais_clients_get_them_as_data_urls(online: Api, upstream: FakeHuggingFace, form: str) -> None:
    upstream.answer(FORMS[form], FORMS[form])
    message = (await online.post(PATH, ASK)).json["choices"][0]["message"]
    types = ("image/png", "image/jpeg")
    urls = [data_url(data, kind) for data, kind in zip(IMAGES.get(form, (PNG,)), types, strict=False)]
    assert [entry["image_url"]["url"] for entry in message["images"]] == urls
    reply = await online.post(PATH, {**ASK, "stream": True})
    *events, done, _ = reply.body.split(b"\n\n")
    choices = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events]
    assert [choice["delta"]["images"] for choice in choices if "images" in choice["delta"]] == [message["images"]]
    assert (choices[-1]["finish_reason"], done) == ("stop", b"data: [DONE]")


async def test_a6_an_image_at_an_address_is_fetched(online: Api, upstream: FakeHuggingFace) -> None:
    address = image(f"{upstream.url}/made/cat.png")
    picture = Answer(200, {"Content-Type": "image/png"}, (PNG,))
    upstream.answer(streamed({"content": "Here: "}, {"images": [address]}), picture)
    request = (await online.create()).json
    assert (request["status"], request["token_count"]) == ("completed", 1290)
    output = request["output_data"]
    assert (output["output"], output["finish_reason"], output["provider"]) == ("Here: ", "stop", "fake")
    assert (await online.get(output["files"][0]["url"])).body == PNG


async def test_a6_an_image_that_cannot_be_fetched_leaves_a_partial_answer(
    online: Api, upstream: FakeHuggingFace
) -> None:
    address = image(f"{upstream.url}/made/cat.png")
    upstream.answer(streamed({"content": "Here: "}, {"images": [address]}), json_answer({"error": "gone"}, status=410))
    request = (await online.create()).json
    assert request["status"] == "failed"
    assert (request["output_data"]["output"], request["output_data"]["partial"]) == ("Here: ", True)
    assert request["token_count"] == 1290


async def test_a6_an_image_that_is_none_fails_and_keeps_the_text(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(streamed({"content": "Here: "}, {"images": [image("data:text/html;base64,PGI+")]}))
    request = (await online.create()).json
    assert request["status"] == "failed"
    assert request["output_data"] == {"output": "Here: ", "partial": True, "provider": "fake"}


@pytest.mark.parametrize("size", [100, 300 * 1024])
async def test_a6_a_turn_with_images_can_be_sent_back(online: Api, upstream: FakeHuggingFace, size: int) -> None:
    earlier = {"role": "assistant", "content": "Here: ", "images": [image(data_url(PNG + b"x" * size))]}
    upstream.answer(chat_answer("Nice."))
    ask = {**ASK, "messages": [*ASK["messages"], earlier, {"role": "user", "content": "Thanks."}]}
    assert (await online.post(PATH, ask)).status == 200
