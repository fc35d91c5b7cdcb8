"""Rates, backlogs, and what a client is told of them."""

import asyncio
import re
from contextlib import AsyncExitStack
from uuid import UUID

import orjson
import pytest

from server.errors import Unavailable
from server.http import keys
from server.http import server as http_server
from server.http.connections import Connections
from server.http.server import Runner
from server.model_request import UserId
from tests.acceptance.conftest import PASSWORD, Api, Start
from tests.signals import until


async def test_every_answer_shows_what_is_left(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=5)).sign_up()
    for remaining in (4, 3, 2):
        reply = await api.create()
        assert reply.headers["RateLimit-Policy"] == '"create";q=5;w=60'
        assert re.fullmatch(rf'"create";r={remaining};t=\d+', reply.headers["RateLimit"])
    assert (await api.get("/api/requests")).headers["RateLimit-Policy"] == '"read";q=50;w=60'


async def test_beyond_the_rate_a_waiting_create_is_429(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=2)).sign_up()
    assert [(await api.create()).status for _ in range(3)] == [200, 200, 429]
    reply = await api.create()
    assert reply.json["code"] == "RATE_LIMITED"
    assert 1 <= int(reply.headers["Retry-After"]) <= 31
    assert reply.headers["RateLimit"].startswith('"create";r=0;')


async def _use_up(api: Api) -> None:
    """The limit, and what is added to it within a moment."""
    limiter, user_id = api.app[keys.CREATE_LIMITER], UserId(UUID(api.user_id))
    while (verdict := await limiter.check(user_id)) is not None and verdict.allowed:
        pass
    for _ in range(3):
        await limiter.reserve(user_id)


async def test_beyond_the_rate_who_does_not_wait_is_queued_and_starts_later(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=60)).sign_up()
    await _use_up(api)
    delayed = await api.create_async("queued")
    assert (delayed.status, delayed.json["status"]) == (202, "pending")
    assert (await api.create("impatient")).status == 429
    final = await api.get(f"/api/requests/{delayed.json['id']}?wait=10")
    assert final.json["status"] == "completed"


async def test_a_start_that_was_put_off_and_came_to_nothing_delays_nobody(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=1)).sign_up()
    assert (await api.create()).status == 200
    gone = {"model_type": "image-classification", "input_data": {"image": str(UUID(int=1))}}
    for _ in range(3):
        assert (await api.post("/api/requests", gone, headers={"Prefer": "respond-async"})).status == 422
    assert int((await api.create_async()).headers["Retry-After"]) <= 60


async def test_one_users_rate_is_not_anothers(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=1)).sign_up()
    other = await api.sign_up()
    assert [(await api.create()).status, (await api.create()).status, (await other.create()).status] == [200, 429, 200]


async def test_a_full_backlog_of_a_user_answers_429_and_inserts_nothing(start: Start) -> None:
    api = await (await start(concurrency=1, max_backlog_per_user=2)).sign_up()
    replies = [await api.create_async(model="offline/slow-20s") for _ in range(4)]
    assert [reply.status for reply in replies] == [202, 202, 202, 429]
    assert int(replies[-1].headers["Retry-After"]) >= 1
    assert len((await api.get("/api/requests")).json) == 3


async def test_a_full_backlog_answers_503_to_whoever_holds_most_and_admits_who_holds_nothing(start: Start) -> None:
    api = await (await start(concurrency=1, max_backlog=4)).sign_up()
    other = await api.sign_up()
    replies = [await api.create_async(model="offline/slow-20s") for _ in range(6)]
    assert [reply.status for reply in replies] == [202] * 5 + [503]
    assert replies[-1].json["code"] == "SERVER_ERROR"
    assert int(replies[-1].headers["Retry-After"]) >= 1
    statuses = [(await other.create_async()).status for _ in range(6)]
    assert (statuses[0], statuses[-1]) == (202, 503)
    assert len((await api.get("/api/requests")).json) == 5


async def test_requests_that_are_put_off_have_a_limit_of_their_own_and_take_no_place(start: Start) -> None:
    api = await start(concurrency=1, max_backlog=30, max_backlog_per_user=20, rate_limit_per_minute=1)
    many = [await api.sign_up() for _ in range(3)]
    for user in many:
        replies = [await user.create_async(model="offline/slow-20s") for _ in range(4)]
        assert [reply.status for reply in replies[:2]] == [202, 202]
    assert {reply.status for reply in replies[2:]} == {429}
    assert int(replies[-1].headers["Retry-After"]) >= 1
    assert "beyond your rate" in replies[-1].json["detail"]
    late = await api.sign_up()
    assert [(await late.create_async()).status for _ in range(3)] == [202, 202, 429]


async def test_sign_ins_are_limited_by_address_before_any_hash(start: Start) -> None:
    api = await start(auth_rate_limit_per_minute=3)
    body = {"email": "nobody@example.com", "password": PASSWORD}
    statuses = [(await api.post("/auth/signin", body)).status for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP"])
async def test_no_header_of_a_stranger_changes_the_address(start: Start, header: str) -> None:
    api = await start(auth_rate_limit_per_minute=2)
    body = {"email": "nobody@example.com", "password": PASSWORD}
    statuses = [
        (await api.post("/auth/signin", body, headers={header: f"203.0.113.{number}"})).status for number in range(4)
    ]
    assert statuses == [401, 401, 429, 429]


async def test_a_trusted_proxy_speaks_for_its_clients(start: Start) -> None:
    api = await start(auth_rate_limit_per_minute=1, trusted_proxies="127.0.0.0/8,::1")
    body = {"email": "nobody@example.com", "password": PASSWORD}

    async def sign_in(forwarded: str) -> int:
        return (await api.post("/auth/signin", body, headers={"X-Forwarded-For": forwarded})).status

    assert await sign_in("203.0.113.1") == 401
    assert await sign_in("203.0.113.2") == 401
    assert await sign_in("198.51.100.9, 203.0.113.1") == 429


async def test_health_is_not_limited(api: Api) -> None:
    assert {(await api.get("/health")).status for _ in range(50)} == {200}


async def test_a_retry_is_answered_whatever_the_limits_say(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=2)).sign_up()
    headers = {"Idempotency-Key": "retried"}
    first = await api.create(headers=headers)
    assert [(await api.create()).status for _ in range(2)] == [200, 429]
    again = await api.create(headers=headers)
    assert (again.status, again.json) == (200, first.json)


async def test_a_retry_is_the_same_request_after_a_change_of_settings(start: Start) -> None:
    before, after = await start(deadline_s=600), await start(deadline_s=500)
    user = await before.sign_up()
    headers = {"Idempotency-Key": "over a deploy"}
    first = await user.create(headers=headers)
    again = await Api(after.client, after.app, user.token).create(headers=headers)
    assert (again.status, again.json["id"]) == (200, first.json["id"])


async def test_a_start_that_was_put_off_says_when_to_look(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=6)).sign_up()
    replies = [await api.create_async() for _ in range(9)]
    assert [reply.status for reply in replies] == [202] * 9
    assert int(replies[-1].headers["Retry-After"]) > 20


async def test_while_the_backlog_is_full_who_was_refused_is_refused_without_a_look_and_retries_are_answered(
    start: Start,
) -> None:
    api = await (await start(concurrency=1, max_backlog=1)).sign_up()
    key = {"Idempotency-Key": "again", "Prefer": "respond-async"}
    first = await api.create("first", headers=key, model="offline/slow-2s")
    await api.create_async("second", model="offline/slow-2s")
    refused = await api.create_async("third")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "15")
    with pytest.raises(Unavailable):
        api.app[keys.REQUESTS].admission.require_chance(UserId(UUID(api.user_id)))
    api.app[keys.REQUESTS].admission.require_chance(UserId(UUID(int=1)))
    refused = await api.send("POST", "/api/requests", data=b"not looked at")
    assert refused.status == 503
    again = await api.create("first", headers=key, model="offline/slow-2s")
    assert (again.status, again.json["id"]) == (202, first.json["id"])


def _places(api: Api, limit: int) -> Connections:
    """Those of the server, of which so many are left for ordinary connections; the test's own client has one."""
    runner = api.client.server.runner
    assert isinstance(runner, Runner)
    runner.places._limit = limit
    return runner.places


async def _answer_to(api: Api, path: str) -> tuple[bytes, bytes]:
    """Head and body of what a new connection is told, to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


async def test_one_connection_too_many_is_told_to_come_back_and_health_checks_are_answered(api: Api) -> None:
    request = await api.create_async(model="offline/slow-2s")
    places = _places(api, 3)
    async with asyncio.TaskGroup() as group:
        path = f"/api/requests/{request.json['id']}"
        waiters = [group.create_task(api.get(path, params={"wait": "60"})) for _ in range(3)]
        await until(lambda: len(api.app[keys.REQUESTS].subscriptions) >= 3)
        head, body = await _answer_to(api, "/api/requests")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 2" in head
        assert b"\r\nConnection: close" in head
        assert orjson.loads(body)["code"] == "SERVER_ERROR"
        for path in ("/health", "/health/live", "/health/ready"):
            head, _ = await _answer_to(api, path)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: close" in head
    assert {waiter.result().json["status"] for waiter in waiters} == {"completed"}
    assert len(places) == 3
    assert (await api.get("/health/live")).status == 200  # open connections stay open


async def test_one_connection_too_many_takes_the_place_of_an_idle_one(api: Api) -> None:
    assert api.client.port is not None
    _places(api, 3)
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
            stack.callback(writer.close)
            writer.write(b"GET /api/requests HTTP/1.1\r\n")  # its head never ends
            streams.append(reader)
        async with asyncio.timeout(10):
            assert await streams[0].read() == b""
        assert (await api.get("/health/live")).status == 200


async def test_a_first_request_has_less_time_than_a_later_one(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "FIRST_REQUEST_S", 0.3)
    async with AsyncExitStack() as stack:
        readers = []
        for request in (b"", b"GET /health HTTP/1.1\r\nHost:", b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
            stack.callback(writer.close)
            writer.write(request)
            readers.append(reader)
        async with asyncio.timeout(10):
            assert [await reader.read() for reader in readers[:2]] == [b"", b""]
            head = await readers[2].readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not readers[2].at_eof()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await readers[2].readuntil(b"never")
