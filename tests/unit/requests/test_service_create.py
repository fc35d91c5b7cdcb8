"""Creating a request: subscribed before it is stored, held to the limits once, and no trace after a refusal."""

from typing import Any

import asyncpg
import orjson
import pytest

from server.actors.subscriptions import Subscriptions
from server.actors.writes import Replayed
from server.errors import Invalid, KeyReused, Problem, RateLimited, Unauthenticated, Unavailable
from server.limits.concurrency import MAX_LIMIT
from server.limits.rates import RateLimitResult
from server.model_request import Status, mint_id
from server.requests.admission import fingerprint_of
from tests.unit.requests.services import ALICE, BODY, Desk

FILE_ID = mint_id()
WITH_FILE = {"model_type": "image-classification", "input_data": {"image": f"file:{FILE_ID}"}}
AWAY = Unavailable("The database is not available; try again.", retry_after_s=2)


def with_file(**options: Any) -> Desk:
    """An instance where Alice has a file."""
    desk = Desk(**options)
    desk.statements.answers["attach_uploads"] = [{"id": FILE_ID, "content_type": "image/png"}]
    return desk


async def test_a_create_returns_a_subscription_that_knows_how_it_stands() -> None:
    desk = Desk()
    with await desk.create({**BODY, "deadline_s": 30, "parameters": {"temperature": 0.5}}) as created:
        [row] = desk.journal.accepted
        assert row.id == created.subscription.request_id
        assert (row.user_id, row.deadline_s, row.parameters) == (ALICE, 30.0, b'{"temperature":0.5}')
        assert (created.is_replayed, created.delay_s, created.deadline_s) == (False, 0.0, 30.0)
        assert created.subscription.seen is not None
        assert created.subscription.seen.status is Status.PROCESSING
        assert len(desk.subscriptions) == 1
    assert len(desk.subscriptions) == 0


async def test_the_subscription_comes_before_the_row() -> None:
    desk = Desk()
    counts = []

    def count(*_: Any) -> list[dict[str, Any]]:
        counts.append(len(desk.subscriptions))
        return [{"everyone": 0, "own": 0}]

    desk.backlog.is_empty = False
    desk.statements.answers["count_waiting"] = count
    with await desk.create():
        assert counts == [1]


@pytest.mark.parametrize(
    ("given_s", "expected_s"), [(None, 600.0), (45.0, 45.0)], ids=["of the settings", "of the caller"]
)
async def test_a_create_without_a_deadline_gets_one(given_s: float | None, expected_s: float) -> None:
    desk = Desk()
    with await desk.create(deadline_s=given_s) as created:
        assert created.deadline_s == expected_s
        assert desk.journal.accepted[0].deadline_s == expected_s


@pytest.mark.parametrize(
    "body", [[], {"model_type": "text2text"}, {**BODY, "model_type": "unknown"}, {**BODY, "parameters": {"no": 1}}]
)
async def test_a_body_that_is_wrong_stores_nothing(body: Any) -> None:
    desk = Desk()
    with pytest.raises(Invalid):
        await desk.service.create(ALICE, body, sent=body, key=None, subscribe=Subscriptions.watch)
    assert desk.statements.asked == []
    desk.assert_nothing_started()


@pytest.mark.parametrize(
    ("error", "expected"), [(AWAY, Unavailable), (asyncpg.ForeignKeyViolationError("gone"), Unauthenticated)]
)
async def test_a_create_that_was_refused_leaves_no_subscription(error: Exception, expected: type[Problem]) -> None:
    desk = Desk()
    desk.journal.errors.append(error)
    with pytest.raises(expected):
        await desk.create()
    desk.assert_nothing_started()


async def test_a_crowd_is_refused_before_anything_is_asked() -> None:
    desk = Desk()
    desk.concurrency._count = MAX_LIMIT
    with pytest.raises(Unavailable, match="overloaded"):
        desk.service.require_capacity()
    with pytest.raises(Unavailable, match="overloaded"):
        await desk.create(key="k")
    assert desk.statements.asked == []
    desk.assert_nothing_started()


async def test_a_repetition_is_subscribed_to_the_earlier_request_whatever_the_limits_say() -> None:
    desk, earlier = Desk(per_minute=1), mint_id()
    await desk.rates.check(ALICE)
    found = {"request_id": earlier, "fingerprint": fingerprint_of(BODY)}
    desk.statements.answers["find_idempotency_key"] = [found]
    with await desk.create(key="k") as created:
        assert created.is_replayed
        assert (created.subscription.request_id, created.subscription.seen) == (earlier, None)
        assert len(desk.subscriptions) == 1
    assert desk.journal.accepted == []
    desk.assert_nothing_started()


async def test_a_key_counts_for_what_was_sent_and_not_for_what_was_made_of_it() -> None:
    desk = Desk()
    sent: dict[str, Any] = {"messages": []}
    with await desk.create(sent=sent, key="k"):
        assert desk.journal.accepted[0].fingerprint == fingerprint_of(sent)


async def test_a_key_with_another_body_is_refused() -> None:
    desk = Desk()
    found = {"request_id": mint_id(), "fingerprint": fingerprint_of({"another": "body"})}
    desk.statements.answers["find_idempotency_key"] = [found]
    with pytest.raises(KeyReused):
        await desk.create(key="k")
    desk.assert_nothing_started()


async def test_beyond_the_rate_a_create_is_refused_and_its_caller_gets_the_limit() -> None:
    desk = Desk(per_minute=1)
    limits: list[RateLimitResult] = []
    with await desk.create(on_rate=limits.append):
        pass
    with pytest.raises(RateLimited, match="Too many requests") as caught:
        await desk.create(on_rate=limits.append)
    assert 59 < caught.value.retry_after_s <= 60
    assert [(limit.allowed, limit.limit) for limit in limits] == [(True, 1), (False, 1)]
    assert len(desk.journal.accepted) == 1
    assert len(desk.subscriptions) == 0


async def test_beyond_the_rate_a_create_that_may_be_put_off_starts_later() -> None:
    desk = Desk(per_minute=1)
    with await desk.create(may_be_put_off=True) as first, await desk.create(may_be_put_off=True) as second:
        assert first.delay_s == 0
        assert 59 < second.delay_s <= 60
        assert [row.delay_s for row in desk.journal.accepted] == [0.0, second.delay_s]
        assert second.subscription.seen is not None
        assert second.subscription.seen.status is Status.PENDING


@pytest.mark.parametrize("outcome", ["refused", "replayed"])
async def test_a_late_start_that_was_not_needed_is_given_back(outcome: str) -> None:
    desk = Desk(per_minute=1)
    with await desk.create():
        pass
    if outcome == "refused":
        desk.journal.errors.append(AWAY)
        with pytest.raises(Unavailable):
            await desk.create(may_be_put_off=True)
    else:
        desk.journal.replayed = Replayed(mint_id(), is_same_body=True)
        with await desk.create(may_be_put_off=True, key="k") as created:
            assert created.is_replayed
    desk.journal.replayed = None
    with await desk.create(may_be_put_off=True) as created:
        assert 59 < created.delay_s <= 60


async def test_files_are_in_use_before_the_request_is_stored() -> None:
    desk = with_file()
    desk.backlog.is_empty = False
    with await desk.create(WITH_FILE) as created:
        assert desk.statements.names == ["attach_uploads", "count_waiting"]
        [(user_id, request_id, file_ids, _)] = desk.statements.args_of("attach_uploads")
        assert (user_id, request_id, file_ids) == (ALICE, created.subscription.request_id, [FILE_ID])


async def test_a_file_of_another_user_is_refused_by_its_field() -> None:
    desk = Desk()
    with pytest.raises(Invalid) as caught:
        await desk.create(WITH_FILE)
    assert [error.field for error in caught.value.errors] == ["input_data.image"]
    assert desk.journal.accepted == []
    desk.assert_nothing_started()


async def _refused_by_backlog(desk: Desk) -> None:
    desk.backlog.is_empty = False
    desk.fill_backlog(everyone=60, own=50)
    with pytest.raises(RateLimited):
        await desk.create(WITH_FILE)


async def _replayed(desk: Desk) -> None:
    desk.journal.replayed = Replayed(mint_id(), is_same_body=True)
    with await desk.create(WITH_FILE, key="k") as created:
        assert created.is_replayed


async def _key_reused(desk: Desk) -> None:
    desk.journal.replayed = Replayed(mint_id(), is_same_body=False)
    with pytest.raises(KeyReused):
        await desk.create(WITH_FILE, key="k")


async def _account_gone(desk: Desk) -> None:
    desk.journal.errors.append(asyncpg.ForeignKeyViolationError("gone"))
    with pytest.raises(Unauthenticated):
        await desk.create(WITH_FILE)


@pytest.mark.parametrize("is_away", [False, True], ids=["database there", "database away"])
@pytest.mark.parametrize("attempt", [_refused_by_backlog, _replayed, _key_reused, _account_gone])
async def test_files_of_a_create_of_which_nothing_came_are_let_go(attempt: Any, *, is_away: bool) -> None:
    desk = with_file()
    if is_away:
        desk.statements.answers["detach_uploads"] = AWAY
    await attempt(desk)
    [(_, request_id, *_)] = desk.statements.args_of("attach_uploads")
    assert desk.statements.args_of("detach_uploads") == [(request_id,)]


async def test_files_stay_in_use_where_the_request_may_have_been_stored() -> None:
    desk = with_file()
    desk.journal.errors.append(AWAY)
    with pytest.raises(Unavailable):
        await desk.create(WITH_FILE)
    assert desk.statements.args_of("detach_uploads") == []


async def test_a_request_without_files_asks_for_none() -> None:
    desk = Desk()
    with await desk.create():
        assert desk.statements.asked == []
        assert orjson.loads(desk.journal.accepted[0].input_data) == {"prompt": "Hello"}
