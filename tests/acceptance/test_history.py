"""The history: newest first, in pages, filtered, and never anybody else's."""

import re
from typing import Any

import orjson
import pytest

from server.requests.history import MAX_PAGE_BYTES
from tests.acceptance.conftest import Api, Reply, Start


def _next(reply: Reply) -> str | None:
    match = re.fullmatch(r'<([^>]+)>; rel="next"', reply.headers.get("Link", ""))
    return match[1] if match else None


async def _pages(api: Api, path: str) -> list[list[Any]]:
    pages = []
    url: str | None = path
    while url is not None:
        reply = await api.get(url)
        assert reply.status == 200, reply.body
        pages.append(reply.json)
        url = _next(reply)
    return pages


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 100])
async def test_pages_cover_everything_once_newest_first(api: Api, limit: int) -> None:
    created = [(await api.create(f"number {number}")).json["id"] for number in range(7)]
    pages = await _pages(api, f"/api/requests?limit={limit}")
    assert [item["id"] for page in pages for item in page] == created[::-1]
    assert all(len(page) == limit for page in pages[:-1])


async def test_a_new_request_does_not_shift_the_pages(api: Api) -> None:
    created = [(await api.create(f"number {number}")).json["id"] for number in range(4)]
    first = await api.get("/api/requests?limit=2")
    await api.create("later")
    second = await api.get(_next(first) or "")
    assert [item["id"] for item in first.json + second.json] == created[::-1]


async def test_filters_hold_over_the_pages(api: Api) -> None:
    for number in range(3):
        await api.create(f"number {number}")
        await api.create(f"number {number}", model="offline/no-credits")
    pages = await _pages(api, "/api/requests?limit=2&status=failed")
    assert [item["status"] for page in pages for item in page] == ["failed"] * 3


async def test_filters_by_model_type_and_time(api: Api) -> None:
    first = (await api.create("first")).json
    second = (await api.create("second", model_type="text-generation")).json
    listed = (await api.get("/api/requests?model_type=text-generation")).json
    assert [item["id"] for item in listed] == [second["id"]]
    after = (await api.get("/api/requests", params={"created_after": first["created_at"]})).json
    assert [item["id"] for item in after] == [second["id"]]
    before = (await api.get("/api/requests", params={"created_before": second["created_at"]})).json
    assert [item["id"] for item in before] == [first["id"]]


@pytest.mark.parametrize("name", ["chat-completion", "text2text", "chat"])
async def test_around_a_filter_by_one_name_of_a_model_type_finds_all_names(api: Api, name: str) -> None:
    made = [(await api.create("x", model_type=other)).json["id"] for other in ("text2text", "chat-completion", "chat")]
    await api.create("other", model_type="text-generation")
    listed = (await api.get(f"/api/requests?model_type={name}")).json
    assert [item["id"] for item in listed] == made[::-1]
    assert [item["model_type"] for item in listed] == ["chat", "chat-completion", "text2text"]


async def test_a_time_that_is_too_far_away_is_refused_as_that(api: Api) -> None:
    reply = await api.get("/api/requests?created_after=0001-01-01T00:00:00Z")
    assert reply.json["errors"] == [{"field": "created_after", "message": "must be a time of the years 1970 to 9000"}]


async def test_another_users_cursor_shows_only_ones_own(api: Api) -> None:
    other = await api.sign_up()
    mine = (await api.create("mine")).json["id"]
    theirs = (await other.create("theirs")).json["id"]
    assert [item["id"] for item in (await api.get(f"/api/requests?cursor={theirs}")).json] == [mine]


async def test_a_page_ends_early_when_it_grows_too_large(api: Api) -> None:
    prompt = "x" * 150_000
    for _ in range(30):
        await api.create(prompt)
    pages = await _pages(api, "/api/requests?limit=1000")
    sizes = [len(orjson.dumps(page)) for page in pages]
    assert sum(len(page) for page in pages) == 30
    assert len(pages) > 1
    assert max(sizes) < MAX_PAGE_BYTES * 1.01


async def test_s9_references_begin_with_the_public_url(start: Start) -> None:
    api = await (await start(public_url="https://example.com/ai/")).sign_up()
    for path in ("/api/requests", "/requests"):
        body = {"model_type": "text2text", "input_data": {"prompt": "hello"}}
        created = await api.post(path, body, headers={"Prefer": "respond-async"})
        assert created.headers["Location"] == f"https://example.com/ai{path}/{created.json['id']}"
    page = await api.get("/api/requests?limit=1")
    assert page.headers["Link"].startswith("<https://example.com/ai/api/requests?limit=1&cursor=")
    chat = await api.post("/v1/chat/completions", {"model": "default", "messages": [{"role": "user", "content": "hi"}]})
    assert chat.headers["Location"].startswith("https://example.com/ai/api/requests/")
