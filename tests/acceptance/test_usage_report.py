"""`GET /api/usage` and `cost_usd`: what was used and what it cost, by day and model."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.acceptance.conftest import Api, Reply, Start, created
from tests.acceptance.openai_upstream import start_online
from tests.acceptance.test_usage import COUNTED, answer, counts, growing
from tests.fakes.event_source import final_of
from tests.fakes.huggingface import End, FakeHuggingFace, chat_answer, error_answer, json_answer
from tests.fixtures.document import DOCUMENT
from tests.rows import connected

PATH = "/api/usage"
PRICES = {"org/model": {"input": 1, "cached": 0.1, "output": 10}, "org/other": {"input": 2, "output": 20}}
COUNTED_COST = 0.001035  # 2 * 1 + 30 * 0.1 + 103 * 10, of a million
NOTHING: dict[str, Any] = {
    "completed": 0, "failed": 0, "cancelled": 0, "input_tokens": 0, "output_tokens": 0, "cached_tokens": 0,
    "reasoning_tokens": 0, "total_tokens": 0, "unmetered": 0, "unpriced": 0, "cost_usd": None,
}  # fmt: skip

BY_BOTH = [("2026-11-03", "b", 4, 0.3), ("2026-11-04", "a", 2, 0.1), ("2026-11-04", None, 8, None)]


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace, tmp_path: Path) -> Api:
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    return await start_online(start, upstream, prices=prices, allowed_models="org/other")


def check(reply: Reply) -> Any:
    """The body, as the document describes it."""
    assert reply.status == 200, reply.body
    described = DOCUMENT["paths"][PATH]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(described | {"components": DOCUMENT["components"]}).validate(reply.json)
    return reply.json


async def spend(database: str, user_id: str | None, day: date, model: str, *, tokens: int, cost: str | None) -> None:
    """As if a request had ended on that day."""
    async with connected(database) as connection:
        await connection.execute(
            "INSERT INTO usage_daily (user_id, day, model, completed, token_used, cost_usd)"
            " VALUES ($1, $2, $3, 1, $4, $5::text::numeric)",
            UUID(user_id),
            day,
            model,
            tokens,
            cost,
        )


async def test_every_end_of_a_request_is_in_the_totals_and_the_costs(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(
        answer(COUNTED),
        chat_answer("hi", usage=None),
        growing(counts(5, 1), counts(5, 2), end=End.CUT),
        error_answer(400),
        answer(counts(7, 3)),
    )
    for _ in range(4):
        await online.create()
    await online.create(model="org/other")
    history = (await online.get("/api/requests")).json
    assert [item["cost_usd"] for item in reversed(history)] == [COUNTED_COST, None, 0.000025, None, 0.000074]
    report = check(await online.get(PATH))
    today = datetime.now(UTC).date().isoformat()
    own = {
        "completed": 2, "failed": 2, "cancelled": 0, "input_tokens": 37, "output_tokens": 105, "cached_tokens": 30,
        "reasoning_tokens": 94, "total_tokens": 142, "unmetered": 1, "unpriced": 1, "cost_usd": 0.00106,
    }  # fmt: skip
    other = NOTHING | {
        "completed": 1, "input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "cost_usd": 0.000074,
    }  # fmt: skip
    assert report["data"] == [
        {"day": today, "model": "org/model", **own},
        {"day": today, "model": "org/other", **other},
    ]
    assert report["total"] == {name: own[name] + other[name] for name in own} | {"cost_usd": 0.001134}
    assert report["limits"] == []


async def test_a_cost_is_the_same_in_every_view(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(answer(COUNTED), answer(COUNTED))
    waited = (await online.create()).json
    async with created(online) as source:
        streamed = final_of(await source.all()).data
    one = (await online.get(f"/api/requests/{waited['id']}")).json
    history = (await online.get("/api/requests")).json
    assert [item["cost_usd"] for item in (waited, streamed, one, *history)] == [COUNTED_COST] * 5


async def test_a_cost_is_that_of_the_provider_that_the_listing_names(start: Start) -> None:
    pricing = {"input": 0.6, "output": 2.2}
    listing = json_answer({"data": [{"id": "org/model", "providers": [{"provider": "fake", "pricing": pricing}]}]})
    async with FakeHuggingFace(listing=listing) as fake:
        api = await start_online(start, fake)
        named = chat_answer("hi", usage=(5, 2))
        fake.answer(named, named, replace(named, headers={"Content-Type": "text/event-stream"}))
        unlisted = (await api.create()).json["cost_usd"]
        await api.get("/api/models")
        costs = [(await api.create()).json["cost_usd"] for _ in range(2)]
    assert unlisted is None
    assert costs == [0.0000074, None]


async def test_deleted_requests_stay_counted(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(answer(COUNTED))
    request = (await online.create()).json
    before = check(await online.get(PATH))["total"]
    assert (await online.send("DELETE", f"/api/requests/{request['id']}")).status == 204
    assert check(await online.get(PATH))["total"] == before
    assert before["total_tokens"] == 135


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", BY_BOTH),
        ("&group_by=day,model", BY_BOTH),
        ("&group_by=day", [("2026-11-03", 4, 0.3), ("2026-11-04", 10, 0.1)]),
        ("&group_by=model", [("a", 2, 0.1), ("b", 4, 0.3), (None, 8, None)]),
    ],
)
async def test_totals_are_by_day_and_model(api: Api, database: str, query: str, rows: list[tuple[Any, ...]]) -> None:
    spent = ((2, "a", 1, "1"), (3, "b", 4, "0.3"), (4, "a", 2, "0.1"), (4, "", 8, None), (5, "a", 16, "1"))
    for day, model, tokens, cost in spent:
        await spend(database, api.user_id, date(2026, 11, day), model, tokens=tokens, cost=cost)
    report = check(await api.get(f"{PATH}?from=2026-11-03&to=2026-11-04{query}"))
    names = ("day", "model", "total_tokens", "cost_usd")
    assert [tuple(row[name] for name in names if name in row) for row in report["data"]] == rows
    assert (report["total"]["total_tokens"], report["total"]["cost_usd"]) == (14, 0.4)


async def test_sums_are_exact(api: Api, database: str) -> None:
    for day in range(1, 11):
        await spend(database, api.user_id, date(2026, 11, day), "a", tokens=1, cost="0.100000000001")
    report = await api.get(f"{PATH}?from=2026-11-01&to=2026-11-10&group_by=model")
    assert b'"cost_usd":1.00000000001}]' in report.body


async def test_by_default_it_is_the_last_30_days(api: Api, database: str) -> None:
    today = datetime.now(UTC).date()
    for ago, tokens in ((0, 1), (29, 2), (30, 4)):
        await spend(database, api.user_id, today - timedelta(days=ago), "a", tokens=tokens, cost=None)
    assert check(await api.get(PATH))["total"]["total_tokens"] == 3


async def test_a_user_sees_nothing_of_others(api: Api, database: str) -> None:
    other = await api.sign_up()
    await spend(database, api.user_id, datetime.now(UTC).date(), "a", tokens=1, cost="1")
    assert check(await other.get(PATH)) == {"data": [], "total": NOTHING, "limits": []}
    assert (await Api(api.client, api.app).get(PATH)).status == 401


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("from=2026-13-01", "from", "must be a day such as 2026-11-23"),
        ("to=yesterday", "to", "must be a day such as 2026-11-23"),
        ("from=2026-11-02&to=2026-11-01", "from", "must not be after to"),
        ("from=2025-01-01&to=2026-11-01", "from", "must be less than 366 days before to"),
        ("group_by=user", "group_by", "must be day, model, or both with a comma between them"),
        ("group_by=", "group_by", "must be day, model, or both with a comma between them"),
        ("to=2026-11-01&to=2026-11-02", "to", "must be given once"),
        ("limit=1", "limit", "is not a known parameter"),
    ],
)
async def test_a_wrong_parameter_is_named(api: Api, query: str, field: str, message: str) -> None:
    reply = await api.get(f"{PATH}?{query}")
    assert reply.status == 422
    assert reply.json["errors"] == [{"field": field, "message": message}]


async def test_the_first_days_of_the_calendar_are_a_period(api: Api) -> None:
    assert check(await api.get(f"{PATH}?to=0001-01-02"))["data"] == []


async def test_an_answer_is_bounded(api: Api, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.requests.usage.MAX_ROWS", 1)
    today = datetime.now(UTC).date()
    for model in ("a", "b"):
        await spend(database, api.user_id, today, model, tokens=1, cost=None)
    assert (await api.get(PATH)).status == 422
    assert (await api.get(f"{PATH}?group_by=day")).status == 200


async def test_what_did_not_change_is_not_sent_again(api: Api, database: str) -> None:
    first = await api.get(PATH)
    again = await api.get(PATH, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    await api.create()
    assert (await api.get(PATH, headers={"If-None-Match": first.headers["ETag"]})).status == 200


async def test_limits_show_what_is_left(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=5)).sign_up()
    [limit] = check(await api.get(PATH))["limits"]
    assert limit == {"name": "requests_per_minute", "limit": 5, "used": 0, "remaining": 5, "resets_at": None}
    await api.create()
    [limit] = check(await api.get(PATH))["limits"]
    assert (limit["used"], limit["remaining"]) == (1, 4)
    left_s = (datetime.fromisoformat(limit["resets_at"]) - datetime.now(UTC)).total_seconds()
    assert 8 < left_s <= 13
