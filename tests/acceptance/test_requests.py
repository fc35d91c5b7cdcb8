"""Creating, waiting, long-polling, replaying: the life of a model request as its owner sees it."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from server.errors import Unavailable
from server.http import keys
from server.model_request import UserId, mint_id
from server.routes import auth
from tests.acceptance.conftest import Api, Start
from tests.rows import connected
from tests.signals import until

_NOTE_DELETIONS = """
CREATE TABLE deletions (id serial, count bigint);

CREATE FUNCTION note_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deletions (count) SELECT count(*) FROM gone HAVING count(*) > 0;
    RETURN NULL;
END
$$;

CREATE TRIGGER note_deletions AFTER DELETE ON model_requests REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION note_deletions();
"""


async def test_respond_async_answers_202_at_once_with_where_to_look(api: Api) -> None:
    reply = await api.create_async(model="offline/slow-2s")
    assert reply.status == 202
    assert reply.headers["Preference-Applied"] == "respond-async"
    assert reply.headers["Location"] == f"/api/requests/{reply.json['id']}"
    assert reply.headers["Retry-After"] == "1"
    assert reply.json["status"] in {"pending", "processing"}
    assert reply.json["output_data"] is None


async def test_a_wait_that_ends_first_is_202_with_the_current_object(api: Api) -> None:
    reply = await api.create(headers={"Prefer": "wait=0"}, model="offline/slow-20s")
    assert (reply.status, reply.headers["Preference-Applied"]) == (202, "wait=0")
    reply = await api.get(f"/api/requests/{reply.json['id']}", headers={"Prefer": "wait=1"})
    assert (reply.status, reply.json["status"]) == (200, "processing")


async def test_a_wait_is_capped_and_the_cap_is_told(start: Start) -> None:
    api = await (await start(max_wait_s=0.2, default_wait_s=0.1)).sign_up()
    reply = await api.create(headers={"Prefer": "wait=60"}, model="offline/slow-20s")
    assert (reply.status, reply.headers["Preference-Applied"]) == (202, "wait=0.2")


async def test_what_was_accepted_is_answered_though_the_database_went_away(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("away", retry_after_s=1)

    monkeypatch.setattr(api.app[keys.REQUESTS].history, "get", away)
    reply = await api.create(headers={"Prefer": "wait=1"}, model="offline/slow-20s")
    assert (reply.status, reply.json["status"]) == (202, "processing")


async def test_without_a_preference_the_default_wait_holds(start: Start) -> None:
    api = await (await start(default_wait_s=0.1)).sign_up()
    reply = await api.create(model="offline/slow-20s")
    assert reply.status == 202
    assert "Preference-Applied" not in reply.headers


async def test_long_poll_returns_when_it_is_final(api: Api) -> None:
    created = await api.create_async(model="offline/slow-2s")
    reply = await api.get(f"/api/requests/{created.json['id']}?wait=30")
    assert (reply.status, reply.json["status"]) == (200, "completed")
    assert reply.headers["ETag"] == 'W/"1-completed"'


async def _leave(call: "asyncio.Task[Any]", api: Api) -> None:
    """Close the connection of a call once it waits."""
    watches = api.app[keys.REQUESTS].subscriptions._subscriptions
    await until(lambda: any(watch.is_waiting for group in watches.values() for watch in group))
    call.cancel()
    await asyncio.wait({call})


async def test_who_leaves_a_wait_makes_room_for_another(api: Api) -> None:
    """Long before the wait is over, be it a long-poll, a create or its repetition."""
    slow = {"model": "offline/slow-20s"}
    await _leave(asyncio.create_task(api.create(headers={"Idempotency-Key": "left"}, **slow)), api)
    await _leave(asyncio.create_task(api.create(headers={"Idempotency-Key": "left"}, **slow)), api)
    [item] = (await api.get("/api/requests")).json
    await _leave(asyncio.create_task(api.get(f"/api/requests/{item['id']}?wait=30")), api)
    await until(lambda: len(api.app[keys.REQUESTS].subscriptions) == 0)
    assert (await api.get(f"/api/requests/{item['id']}")).json["status"] == "processing"


async def test_if_none_match_of_an_unchanged_request_is_304(api: Api) -> None:
    created = await api.create()
    etag = created.headers["ETag"]
    reply = await api.get(f"/api/requests/{created.json['id']}", headers={"If-None-Match": etag})
    assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", etag)


async def test_a_long_poll_with_if_none_match_ends_unchanged_as_304(api: Api) -> None:
    created = await api.create_async(model="offline/slow-20s")
    path = f"/api/requests/{created.json['id']}"
    started = await api.get(f"{path}?wait=20", headers={"If-None-Match": '"0-pending"'})
    reply = await api.get(f"{path}?wait=0.2", headers={"If-None-Match": started.headers["ETag"]})
    assert reply.status == 304


@pytest.mark.parametrize(
    "form", ['W/"{}"', '"{}"', '"{}-gzip"', 'W/"{}-br"', '"x", "{}-zstd"', '"{}--gzip"', '"{};gzip"']
)
async def test_s4_a_long_poll_waits_with_the_tag_that_a_proxy_changed(api: Api, form: str) -> None:
    created = await api.create_async(model="offline/slow-20s")
    path = f"/api/requests/{created.json['id']}"
    await api.get(f"{path}?wait=20", headers={"If-None-Match": '"0-pending"'})
    started = asyncio.get_running_loop().time()
    reply = await api.get(f"{path}?wait=0.4", headers={"If-None-Match": form.format("1-processing")})
    assert (reply.status, reply.headers["ETag"]) == (304, 'W/"1-processing"')
    assert asyncio.get_running_loop().time() - started > 0.35


async def test_a_long_poll_with_if_none_match_ends_at_any_change(start: Start) -> None:
    api = await (await start(concurrency=1)).sign_up()
    await api.create_async(model="offline/slow-2s")
    waiting = await api.create_async("second", model="offline/slow-2s")
    assert waiting.json["status"] == "pending"
    reply = await api.get(f"/api/requests/{waiting.json['id']}?wait=20", headers={"If-None-Match": '"0-pending"'})
    assert (reply.status, reply.json["status"]) == (200, "processing")


async def test_what_waits_shows_its_place_in_the_queue(start: Start) -> None:
    api = await (await start(concurrency=1)).sign_up()
    replies = [await api.create_async(f"number {number}", model="offline/slow-20s") for number in range(4)]
    positions = [(await api.get(f"/api/requests/{reply.json['id']}")).json["queue_position"] for reply in replies]
    assert positions == [None, 0, 1, 2]
    assert [item["queue_position"] for item in (await api.get("/api/requests")).json] == [2, 1, 0, None]


async def test_everything_beyond_the_slots_waits_its_turn_and_completes(start: Start) -> None:
    api = await (await start(concurrency=2)).sign_up()
    replies = await asyncio.gather(*(api.create(f"number {number}") for number in range(40)))
    assert {reply.json["status"] for reply in replies} == {"completed"}
    assert len((await api.get("/api/requests?limit=1000")).json) == 40


async def test_an_idempotency_key_gives_the_same_request(api: Api) -> None:
    headers = {"Idempotency-Key": '"once"'}
    first = await api.create(headers=headers)
    again = await api.create(headers={"Idempotency-Key": "once"})
    assert (again.status, again.json) == (200, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_an_idempotency_key_with_another_body_is_a_conflict(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    await api.create("one", headers=headers)
    reply = await api.create("two", headers=headers)
    assert (reply.status, reply.json["code"]) == (422, "CONFLICT")


async def test_an_idempotency_key_belongs_to_its_user(api: Api) -> None:
    other = await api.sign_up()
    headers = {"Idempotency-Key": "once"}
    mine, theirs = await api.create(headers=headers), await other.create("something else", headers=headers)
    assert theirs.status == 200
    assert mine.json["id"] != theirs.json["id"]


async def test_a_hundred_concurrent_retries_make_one_request(api: Api) -> None:
    headers = {"Idempotency-Key": "stampede"}
    replies = await asyncio.gather(*(api.create(headers=headers) for _ in range(100)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.json["id"] for reply in replies}) == 1
    assert len((await api.get("/api/requests")).json) == 1


async def test_a_refused_create_does_not_use_up_its_key(api: Api) -> None:
    headers = {"Idempotency-Key": "fixed"}
    assert (await api.create("", headers=headers)).status == 422
    assert (await api.create("better", headers=headers)).status == 200


async def test_a_key_joins_a_request_that_still_runs(api: Api) -> None:
    headers = {"Idempotency-Key": "slow"}
    first = await api.create(headers=headers | {"Prefer": "respond-async"}, model="offline/slow-2s")
    again = await api.create(headers=headers, model="offline/slow-2s")
    assert (again.status, again.json["id"], again.json["status"]) == (200, first.json["id"], "completed")


@pytest.mark.parametrize(
    "request_id",
    ["00000000-0000-4000-8000-000000000000", "0197f000-0000-7000-8000-000000000000", "1", "x" * 36, "%00", "a%2fb"],
)
async def test_what_is_unknown_is_not_found(api: Api, request_id: str) -> None:
    reply = await api.get(f"/api/requests/{request_id}")
    assert (reply.status, reply.json["code"]) == (404, "NOT_FOUND")


async def test_what_is_not_yours_is_not_found_in_the_same_words(api: Api) -> None:
    stranger = await api.sign_up()
    created = await api.create()
    theirs = await stranger.get(f"/api/requests/{created.json['id']}?wait=30")
    unknown = await stranger.get(f"/api/requests/{mint_id()}?wait=30")
    assert theirs.status == unknown.status == 404
    assert theirs.json["detail"] == unknown.json["detail"]
    assert (await stranger.get("/api/requests")).json == []


async def test_a_request_that_ran_and_failed_is_200_with_its_reason(api: Api) -> None:
    reply = await api.create(model="offline/no-credits")
    assert (reply.status, reply.json["status"], reply.json["error_code"]) == (200, "failed", "MODEL_ERROR")
    assert "credits" in reply.json["error_msg"]


async def test_a_cut_off_answer_keeps_its_partial_text(api: Api) -> None:
    item = (await api.create(model="offline/truncated")).json
    assert item["status"] == "failed"
    assert item["output_data"]["partial"] is True
    assert item["output_data"]["output"].startswith("Offline model, not AI:")


async def test_an_outage_is_not_an_outcome(api: Api) -> None:
    """The model is loading when it is first asked: the request goes back to the backlog and then completes."""
    reply = await api.create(model="offline/loading-503")
    assert (reply.json["status"], reply.json["attempt"]) == ("completed", 1)
    assert reply.headers["ETag"] == 'W/"2-completed"'


async def test_a_deadline_ends_a_request_that_still_runs(api: Api) -> None:
    item = (await api.create(model="offline/slow-20s", deadline_s=1)).json
    assert (item["status"], item["error_code"]) == ("failed", "MODEL_ERROR")


async def test_a_deadline_ends_a_request_that_still_waits(start: Start) -> None:
    api = await (await start(concurrency=1)).sign_up()
    await api.create_async(model="offline/slow-20s")
    item = (await api.create("second", deadline_s=1)).json
    assert (item["status"], item["error_code"]) == ("failed", "SERVER_ERROR")
    assert "waiting for its turn" in item["error_msg"]


async def test_usage_is_what_the_model_said(api: Api) -> None:
    item = (await api.create("one two three")).json
    assert item["token_count"] == len(item["output_data"]["output"].split())
    assert item["token_used"] == item["token_count"] + 3


async def test_deleting_the_account_stops_what_runs_and_takes_everything_along(api: Api) -> None:
    created = await api.create_async(model="offline/slow-20s")
    await api.get(f"/api/requests/{created.json['id']}?wait=20", headers={"If-None-Match": '"0-pending"'})
    assert (await api.send("DELETE", "/auth/user")).status == 204
    assert len(api.app[keys.ENGINE].workload) == 0
    assert (await api.get("/auth/user")).status == 401
    assert (await api.get(f"/api/requests/{created.json['id']}")).status == 401
    reply = await api.create()
    assert (reply.status, reply.json["code"]) == (401, "AUTH_ERROR")


async def test_the_history_of_an_account_is_deleted_in_short_statements(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement for all of it would not end within its time, however often it is tried."""
    monkeypatch.setattr(auth, "_HISTORY_BATCH", 2)
    for _ in range(5):
        await api.create()
    await api.create_async(model="offline/slow-20s")
    other = await api.sign_up()
    await other.create()
    async with connected(database) as connection:
        await connection.execute(_NOTE_DELETIONS)
        assert (await api.send("DELETE", "/auth/user")).status == 204
        assert [row["count"] for row in await connection.fetch("SELECT count FROM deletions ORDER BY id")] == [
            2,
            2,
            1,
            1,
        ]
    assert len((await other.get("/api/requests")).json) == 1


async def test_a_body_for_which_there_is_no_room_is_refused_for_a_moment_and_nothing_is_accepted(api: Api) -> None:
    room = api.app[keys.BODY_MEMORY]
    with room.reserve(None, room.free // 2), room.reserve(UserId(UUID(int=1)), room.free):
        reply = await api.create_async("hello")
        assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "SERVER_ERROR", "1")
        assert (await api.get("/api/requests")).json == []
    assert (await api.create_async("hello")).status == 202


async def test_slow_bodies_of_one_user_leave_room_for_those_of_others(api: Api) -> None:
    """They are announced at full size, and only begun."""
    other = await api.sign_up()
    head = (
        f"POST /api/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {20 * 1024 * 1024}\r\n\r\n{{"
    )
    connections = [await asyncio.open_connection("127.0.0.1", api.client.port) for _ in range(140)]
    try:
        for _, writer in connections:
            writer.write(head.encode())
        refusal = await connections[-1][0].readuntil(b"\r\n\r\n")
        assert refusal.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: " in refusal
        assert (await other.create_async("hello")).status == 202
    finally:
        for _, writer in connections:
            writer.close()
