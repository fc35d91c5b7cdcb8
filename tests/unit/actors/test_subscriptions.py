"""The subscriptions: no wake-up is lost, whoever comes first."""

import asyncio
from typing import Any, cast

import pytest

from server.actors import subscriptions as switchboard_module
from server.actors.subscription import View, Waiter
from server.actors.subscriptions import Subscriptions
from server.errors import Unavailable
from server.model_request import RequestId, Status, mint_id
from server.storage.database import DatabaseAway, DedicatedConnection

DONE = View(Status.COMPLETED, 1, b"{}")
RUNNING = View(Status.PROCESSING, 1)
PENDING = View(Status.PENDING, 1)
LONG_S = 30.0


class FakeLine:
    """Answers the sweep's query; remembers what it was asked."""

    def __init__(self) -> None:
        self.changed: set[RequestId] = set()
        self.asked: list[tuple[list[RequestId], list[str | None], list[int | None]]] = []
        self.failures = 0
        self.answered = asyncio.Event()

    async def fetch(self, query: str, *args: Any) -> list[dict[str, RequestId]]:
        ids, statuses, epochs = args
        self.asked.append((ids, statuses, epochs))
        if self.failures:
            self.failures -= 1
            raise DatabaseAway("no answer")
        self.answered.set()
        return [{"id": request_id} for request_id in ids if request_id in self.changed]


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


@pytest.fixture
def subscriptions(line: FakeLine) -> Subscriptions:
    return Subscriptions(cast("DedicatedConnection", line))


async def _waiting(watch: Waiter) -> "asyncio.Task[View | None]":
    """A task that waits by now."""
    task = asyncio.create_task(watch.wait(LONG_S))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_who_comes_after_everyone_was_sent_home_does_not_wait(subscriptions: Subscriptions) -> None:
    subscriptions.close()
    with subscriptions.watch(mint_id()) as watch:
        async with asyncio.timeout(5):
            assert await watch.wait(LONG_S) is None


async def test_news_wake_everyone_who_waits_for_that_request(subscriptions: Subscriptions) -> None:
    request_id = mint_id()
    with (
        subscriptions.watch(request_id) as one,
        subscriptions.watch(request_id) as two,
        subscriptions.watch(mint_id()) as other,
    ):
        tasks = [await _waiting(watch) for watch in (one, two, other)]
        subscriptions.publish(request_id, DONE)
        assert [await task for task in tasks[:2]] == [DONE, DONE]
        assert not tasks[2].done()
        subscriptions.close()
        await tasks[2]


async def test_news_before_the_wait_are_kept_for_it(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        subscriptions.publish(watch.request_id, DONE)
        assert await watch.wait(LONG_S) == DONE


async def test_news_between_two_waits_are_kept_for_the_second(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        assert await watch.wait(0) is None
        subscriptions.publish(watch.request_id, DONE)
        assert await watch.wait(LONG_S) == DONE


async def test_the_first_news_count(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        subscriptions.publish(watch.request_id, DONE)
        subscriptions.publish(watch.request_id, View(Status.FAILED, 1))
        assert await watch.wait(LONG_S) == DONE


async def test_news_reach_nobody_after_the_watch_has_ended(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        pass
    subscriptions.publish(watch.request_id, DONE)
    assert await watch.wait(0) is None
    assert len(subscriptions) == 0


async def test_time_is_up_without_news(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        assert await watch.wait(0.01) is None


async def test_who_waits_for_the_end_is_not_woken_by_less(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        task = await _waiting(watch)
        subscriptions.publish(watch.request_id, RUNNING)
        subscriptions.publish(watch.request_id, PENDING)
        subscriptions.publish(watch.request_id, DONE)
        assert await task == DONE


@pytest.mark.parametrize(
    ("news", "wakes"),
    [(RUNNING, False), (PENDING, True), (View(Status.PROCESSING, 2), True), (DONE, True)],
    ids=["same", "other status", "other epoch", "final"],
)
async def test_who_waits_for_any_change_is_woken_by_what_differs(
    subscriptions: Subscriptions,
    news: View,
    wakes: bool,  # noqa: FBT001
) -> None:
    with subscriptions.watch(mint_id()) as watch:
        watch.seen, watch.any_change = RUNNING, True
        subscriptions.publish(watch.request_id, news)
        assert await watch.wait(LONG_S if wakes else 0) == (news if wakes else None)


async def test_closing_sends_everyone_home_also_who_comes_later(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as waiting, subscriptions.watch(mint_id()) as about_to_wait:
        task = await _waiting(waiting)
        subscriptions.close()
        assert await task is None
        assert await about_to_wait.wait(LONG_S) is None
    with subscriptions.watch(mint_id()) as late:
        assert await late.wait(LONG_S) is None


async def test_news_that_came_before_closing_are_still_told(subscriptions: Subscriptions) -> None:
    with subscriptions.watch(mint_id()) as watch:
        subscriptions.publish(watch.request_id, DONE)
        subscriptions.close()
        assert await watch.wait(LONG_S) == DONE


async def test_one_too_many_is_refused_and_not_counted(
    subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard_module, "MAX_WATCHES", 2)
    with subscriptions.watch(mint_id()), subscriptions.watch(mint_id()):
        with pytest.raises(Unavailable, match="Too many clients"), subscriptions.watch(mint_id()):
            pytest.fail("it should have been refused")
        assert len(subscriptions) == 2
    with subscriptions.watch(mint_id()):
        assert len(subscriptions) == 1


async def test_a_sweep_wakes_those_whose_row_changed_to_read_it(subscriptions: Subscriptions, line: FakeLine) -> None:
    with subscriptions.watch(mint_id()) as changed, subscriptions.watch(mint_id()) as unchanged:
        tasks = [await _waiting(changed), await _waiting(unchanged)]
        line.changed = {changed.request_id}
        await subscriptions.sweep()
        assert await tasks[0] is None
        assert not tasks[1].done()
        subscriptions.publish(unchanged.request_id, DONE)
        assert await tasks[1] == DONE


async def test_a_sweep_asks_for_changes_where_any_change_is_waited_for(
    subscriptions: Subscriptions, line: FakeLine
) -> None:
    with subscriptions.watch(mint_id()) as final_only, subscriptions.watch(mint_id()) as any_change:
        final_only.seen = any_change.seen = View(Status.PROCESSING, 3)
        any_change.any_change = True
        tasks = [await _waiting(final_only), await _waiting(any_change)]
        await subscriptions.sweep()
        subscriptions.close()
        await asyncio.gather(*tasks)
    [(ids, statuses, epochs)] = line.asked
    assert dict(zip(ids, zip(statuses, epochs, strict=True), strict=True)) == {
        final_only.request_id: (None, None),
        any_change.request_id: ("processing", 3),
    }


async def test_a_sweep_leaves_out_who_does_not_wait_yet(subscriptions: Subscriptions, line: FakeLine) -> None:
    with subscriptions.watch(mint_id()) as creating:
        line.changed = {creating.request_id}  # its row is not there yet, which the query calls a change
        await subscriptions.sweep()
        assert line.asked == []
        task = await _waiting(creating)
        await subscriptions.sweep()
        assert await task is None
    await subscriptions.sweep()
    assert len(line.asked) == 1


async def test_a_sweep_asks_in_chunks(
    subscriptions: Subscriptions, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard_module, "_SWEEP_CHUNK", 2)
    with (
        subscriptions.watch(mint_id()) as one,
        subscriptions.watch(mint_id()) as two,
        subscriptions.watch(mint_id()) as last,
    ):
        tasks = [await _waiting(watch) for watch in (one, two, last)]
        line.changed = {last.request_id}
        await subscriptions.sweep()
        assert await tasks[-1] is None
        subscriptions.close()
        await asyncio.gather(*tasks)
    assert [len(ids) for ids, *_ in line.asked] == [2, 1]


async def test_sweeps_go_on_after_the_database_was_away(
    subscriptions: Subscriptions, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard_module, "SWEEP_INTERVAL_S", 0.001)
    line.failures = 2
    run = asyncio.create_task(subscriptions.run())
    with subscriptions.watch(mint_id()) as watch:
        waiting = await _waiting(watch)
        await line.answered.wait()
        subscriptions.close()
        await waiting
    run.cancel()
    await asyncio.wait({run})
    assert len(line.asked) >= 3


async def test_waiters_keep_no_more_objects_than_memory_is_set_aside_for(
    subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard_module, "MAX_KEPT_BYTES", 10)
    large, small = View(Status.PENDING, 0, b"12345678"), View(Status.PROCESSING, 1, b"12")
    with subscriptions.watch(mint_id()) as first, subscriptions.watch(mint_id()) as second:
        first.seen, second.seen = large, View(Status.PENDING, 0, b"87654321")
        assert (first.seen, second.seen) == (large, View(Status.PENDING, 0))
        second.seen = small
        assert second.seen == small
        first.seen = small
        second.seen = large
        assert second.seen == large
    with subscriptions.watch(mint_id()) as third:
        third.seen = large
        assert third.seen == large


async def test_an_object_that_many_keep_is_counted_once(
    subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard_module, "MAX_KEPT_BYTES", 10)
    shared, other = View(Status.COMPLETED, 1, b"12345678"), View(Status.COMPLETED, 1, b"87654321")
    with subscriptions.watch(mint_id()) as first:
        with subscriptions.watch(mint_id()) as second:
            first.seen = second.seen = shared
            assert (first.seen, second.seen) == (shared, shared)
        first.seen = other
        assert first.seen == other
    with subscriptions.watch(mint_id()) as third:
        third.seen = other
        assert third.seen == other
