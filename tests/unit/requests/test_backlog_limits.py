"""Admission into the backlog: the limit of a user, even shares while it is full, and the limit of late starts."""

import pytest

from server.errors import RateLimited, Unavailable
from server.model_request import UserId, mint_id
from server.requests import admission as admission_module
from tests.fakes.clock import Clock
from tests.unit.requests.services import ALICE, BOB, Desk, draft

FULL_FOR_S = 0.2


@pytest.fixture
def desk(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """No request starts at once, because the backlog is not empty."""
    desk = Desk()
    desk.backlog.is_empty = False
    monkeypatch.setattr(admission_module, "time", clock)
    return desk


async def admit(desk: Desk, user_id: UserId = ALICE, *, delay_s: float = 0.0) -> None:
    await desk.admission.admit(draft(user_id=user_id), delay_s=delay_s)


async def test_a_user_with_too_many_waiting_requests_is_refused(desk: Desk) -> None:
    desk.fill_backlog(everyone=60, own=49)
    await admit(desk)
    desk.fill_backlog(everyone=60, own=50)
    with pytest.raises(RateLimited, match="50 of your requests are waiting already") as caught:
        await admit(desk)
    assert caught.value.retry_after_s == 15
    assert len(desk.journal.accepted) == 1


async def test_a_full_backlog_refuses_a_user_who_holds_an_even_share(desk: Desk) -> None:
    desk.fill_backlog(everyone=100, own=25, users=4)
    with pytest.raises(Unavailable, match="backlog is full") as caught:
        await admit(desk)
    assert caught.value.retry_after_s == 15
    assert desk.journal.accepted == []


async def test_a_full_backlog_admits_a_user_who_holds_less_than_an_even_share(desk: Desk) -> None:
    desk.fill_backlog(everyone=100, own=24, users=4)
    await admit(desk)
    assert len(desk.journal.accepted) == 1


async def test_a_user_who_holds_nothing_is_admitted_however_many_share(desk: Desk) -> None:
    desk.fill_backlog(everyone=100, own=0, users=5_000)
    await admit(desk)
    assert len(desk.journal.accepted) == 1


async def test_a_full_backlog_is_not_counted_again_for_a_moment(desk: Desk, clock: Clock) -> None:
    desk.fill_backlog(everyone=100, own=25, users=4)
    for user_id in (ALICE, BOB):
        with pytest.raises(Unavailable):
            await admit(desk, user_id)
    assert desk.statements.args_of("count_waiting") == [(ALICE, 100, 50), (BOB, 0, 50)]
    assert len(desk.statements.args_of("count_waiting_users")) == 1
    clock.now += FULL_FOR_S
    desk.fill_backlog(everyone=99, own=25)
    await admit(desk, BOB)
    assert desk.statements.args_of("count_waiting")[-1] == (BOB, 100, 50)


async def test_a_refused_user_is_refused_again_without_a_question(desk: Desk, clock: Clock) -> None:
    desk.fill_backlog(everyone=100, own=25, users=4)
    with pytest.raises(Unavailable):
        await admit(desk)
    asked = len(desk.statements.asked)
    with pytest.raises(Unavailable, match="backlog is full"):
        desk.admission.require_chance(ALICE)
    with pytest.raises(Unavailable, match="backlog is full"):
        await admit(desk)
    assert len(desk.statements.asked) == asked
    desk.admission.require_chance(BOB)
    clock.now += FULL_FOR_S
    desk.admission.require_chance(ALICE)


async def test_a_refused_user_has_a_chance_where_a_slot_is_free_and_nobody_waits(desk: Desk) -> None:
    desk.fill_backlog(everyone=100, own=25, users=4)
    with pytest.raises(Unavailable):
        await admit(desk)
    desk.backlog.is_empty = True
    desk.admission.require_chance(ALICE)
    desk.slots.reserve()
    with pytest.raises(Unavailable):
        desk.admission.require_chance(ALICE)


async def test_the_table_of_refused_users_is_bounded(desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "_MAX_REFUSED_USERS", 3)
    desk.fill_backlog(everyone=100, own=25, users=4)
    for _ in range(9):
        with pytest.raises(Unavailable):
            await admit(desk, UserId(mint_id()))
        clock.now += FULL_FOR_S
    assert len(desk.admission._refused_until) <= 3


def _put_off(desk: Desk, *, own: int, everyone: int = 0, users: int = 1) -> None:
    desk.statements.answers["count_put_off"] = [{"everyone": everyone, "own": own, "users": users, "ahead": 0}]


async def test_late_starts_of_a_user_have_a_limit_of_their_own(desk: Desk) -> None:
    _put_off(desk, own=4)
    await admit(desk, delay_s=1.0)
    _put_off(desk, own=5)
    with pytest.raises(RateLimited, match="5 of yours are beyond your rate") as caught:
        await admit(desk, delay_s=1.0)
    assert caught.value.retry_after_s == 15
    assert len(desk.journal.accepted) == 1


async def test_many_late_starts_are_shared_evenly(desk: Desk) -> None:
    _put_off(desk, own=2, everyone=9, users=5)
    await admit(desk, delay_s=1.0)
    _put_off(desk, own=2, everyone=10, users=5)
    with pytest.raises(RateLimited):
        await admit(desk, delay_s=1.0)
    _put_off(desk, own=1, everyone=10, users=5)
    await admit(desk, delay_s=1.0)
    assert len(desk.journal.accepted) == 2


async def test_a_late_start_does_not_ask_for_the_backlog(desk: Desk) -> None:
    desk.fill_backlog(everyone=100, own=50)
    await admit(desk, delay_s=1.0)
    assert desk.statements.names == ["count_put_off"]
