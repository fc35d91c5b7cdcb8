"""Two servers on one database: any of them answers for what the other runs."""

import asyncio

import pytest

from server.actors.heartbeat import LEASE_TTL_S, Lease
from server.http import keys
from tests.acceptance.conftest import Api, Start
from tests.fakes.huggingface import FakeHuggingFace, chat_answer


def _at(other: Api, user: Api) -> Api:
    """The same user, at another instance."""
    return Api(other.client, other.app, user.token, user.user_id)


async def test_a_token_of_one_is_valid_at_the_other(start: Start) -> None:
    here, there = await start(), await start()
    user = await here.sign_up()
    assert (await _at(there, user).get("/auth/user")).json["id"] == user.user_id


async def test_a_long_poll_at_one_sees_what_the_other_runs(start: Start) -> None:
    here, there = await start(), await start()
    user = await here.sign_up()
    created = await user.create_async(model="offline/slow-2s")
    reply = await _at(there, user).get(f"/api/requests/{created.json['id']}?wait=20")
    assert reply.json["status"] == "completed"


async def test_what_one_has_no_slot_for_the_other_takes_up(start: Start) -> None:
    here, there = await start(concurrency=1), await start()
    user = await here.sign_up()
    await user.create_async(model="offline/slow-20s")
    reply = await user.create("second")
    assert reply.json["status"] == "completed"
    assert there.app[keys.ENGINE].slots.used == 0


async def test_nothing_is_called_while_another_may_take_it_over(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, trusted = asyncio.Event(), asyncio.Event()

    async def wait_trusted(_: Lease) -> None:
        asked.set()
        await trusted.wait()

    monkeypatch.setattr(Lease, "wait_trusted", wait_trusted)
    async with FakeHuggingFace(chat_answer("fine")) as upstream:
        settings = {"inference_backend": "huggingface", "hf_base_url": upstream.url, "text_models": "org/model"}
        api = await (await start(**settings)).sign_up()
        creating = asyncio.create_task(api.create())
        async with asyncio.timeout(5):
            await asked.wait()
        assert upstream.calls == []
        trusted.set()
        assert (await creating).json["status"] == "completed"


async def test_the_backlog_is_shared_out_and_each_request_runs_once(start: Start) -> None:
    here, there = await start(concurrency=2), await start(concurrency=2)
    user = await here.sign_up()
    replies = await asyncio.gather(*(user.create(f"number {number}") for number in range(30)))
    assert {reply.json["status"] for reply in replies} == {"completed"}
    assert {reply.json["attempt"] for reply in replies} == {1}
    async with asyncio.timeout(10):
        await there.app[keys.ENGINE].slots.wait_idle()


async def test_a_key_used_at_both_makes_one_request(start: Start) -> None:
    here, there = await start(), await start()
    user = await here.sign_up()
    headers = {"Idempotency-Key": "both"}
    replies = await asyncio.gather(
        *(api.create(headers=headers) for api in (user, _at(there, user)) for _ in range(20))
    )
    assert {reply.status for reply in replies} == {200}
    assert len({reply.json["id"] for reply in replies}) == 1


async def test_deleting_an_account_at_one_stops_its_work_at_the_other(start: Start) -> None:
    here, there = await start(), await start()
    user = await here.sign_up()
    await user.create_async(model="offline/slow-20s")
    assert (await _at(there, user).send("DELETE", "/auth/user")).status == 204
    async with asyncio.timeout(10):
        await here.app[keys.ENGINE].slots.wait_idle()


def test_a_lease_is_judged_by_when_its_renewal_was_sent() -> None:
    lease = Lease()
    lease.renewed(sent_at=-2 * LEASE_TTL_S)
    assert not lease.is_trusted
    assert not lease.may_judge_others


async def test_a_rate_is_one_for_both(start: Start) -> None:
    here, there = await start(rate_limit_per_minute=5), await start(rate_limit_per_minute=5)
    user = await here.sign_up()
    statuses = [(await (user if number % 2 else _at(there, user)).create()).status for number in range(8)]
    assert statuses == [200] * 5 + [429] * 3
    [limit] = (await _at(there, user).get("/api/usage")).json["limits"]
    assert (limit["used"], limit["remaining"]) == (5, 0)
