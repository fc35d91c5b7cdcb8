"""The supervisor: restarts within a budget, and a loud end beyond it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from server.actors import supervisor as supervisor_module
from server.actors.supervisor import MAX_RESTARTS, RESTART_WINDOW_S, ActorFailed, Supervisor
from tests.fakes.clock import Clock


class Scripted:
    """An actor which does at its n-th run what the script says, and works on for good after that."""

    def __init__(self, *script: Callable[[], Awaitable[None]]) -> None:
        self._script = list(script)
        self.runs = 0
        self.is_working = asyncio.Event()
        self.was_cancelled = False

    async def run(self) -> None:
        self.runs += 1
        if self._script:
            await self._script.pop(0)()
            return
        self.is_working.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def crash() -> None:
    raise RuntimeError("a bug")


async def end() -> None:
    pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervisor_module, "time", clock)
    monkeypatch.setattr(supervisor_module, "_PAUSE_S", 0.0)
    return clock


async def _stop(run: "asyncio.Task[None]") -> None:
    run.cancel()
    await asyncio.wait({run})


async def test_a_crashed_actor_is_run_again_and_its_siblings_do_not_notice(clock: Clock) -> None:
    crashing, sibling = Scripted(crash, crash), Scripted()
    run = asyncio.create_task(Supervisor({"crashing": crashing, "sibling": sibling}).run())
    await crashing.is_working.wait()
    assert (crashing.runs, sibling.runs) == (3, 1)
    assert not sibling.was_cancelled
    await _stop(run)


async def test_an_actor_that_ends_has_crashed_too(clock: Clock) -> None:
    actor = Scripted(end)
    run = asyncio.create_task(Supervisor({"actor": actor}).run())
    await actor.is_working.wait()
    assert actor.runs == 2
    await _stop(run)


async def test_the_budget_is_spent_at_the_sixth_crash_and_everything_ends(clock: Clock) -> None:
    crashing, sibling = Scripted(*[crash] * (MAX_RESTARTS + 1)), Scripted()
    with pytest.raises(ExceptionGroup) as failure:
        await Supervisor({"crashing": crashing, "sibling": sibling}).run()
    assert failure.group_contains(ActorFailed, match="crashing crashed")
    assert crashing.runs == MAX_RESTARTS + 1
    assert sibling.was_cancelled


async def test_as_many_restarts_as_the_budget_allows_are_survived(clock: Clock) -> None:
    actor = Scripted(*[crash] * MAX_RESTARTS)
    run = asyncio.create_task(Supervisor({"actor": actor}).run())
    await actor.is_working.wait()
    assert actor.runs == MAX_RESTARTS + 1
    await _stop(run)


async def test_the_budget_is_one_for_all_actors(clock: Clock) -> None:
    actors = {f"actor-{number}": Scripted(crash) for number in range(MAX_RESTARTS + 1)}
    with pytest.raises(ExceptionGroup) as failure:
        await Supervisor(actors).run()
    assert failure.group_contains(ActorFailed)


async def test_crashes_that_lie_far_apart_never_spend_the_budget(clock: Clock) -> None:
    async def crash_later() -> None:
        clock.now += RESTART_WINDOW_S / MAX_RESTARTS + 0.1
        raise RuntimeError("a bug")

    actor = Scripted(*[crash_later] * 40)
    run = asyncio.create_task(Supervisor({"actor": actor}).run())
    await actor.is_working.wait()
    assert actor.runs == 41
    await _stop(run)


async def test_cancelling_the_supervisor_cancels_every_actor(clock: Clock) -> None:
    actors = {"one": Scripted(), "two": Scripted()}
    run = asyncio.create_task(Supervisor(actors).run())
    for actor in actors.values():
        await actor.is_working.wait()
    await _stop(run)
    assert run.cancelled()
    assert all(actor.was_cancelled for actor in actors.values())
