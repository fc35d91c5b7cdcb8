"""Starts the actors, restarts those that crash, and gives up when that happens too often."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import structlog

MAX_RESTARTS = 5
RESTART_WINDOW_S = 30.0
_PAUSE_S = 0.1

log = structlog.get_logger(__name__)


class Actor(Protocol):
    async def run(self) -> None: ...


class ActorFailed(Exception):
    """An actor crashed more often than the budget allows: the process has to be started again."""


class Supervisor:
    """Owns the task of every actor. The TaskGroup is inside `run`, so it belongs to one task."""

    def __init__(self, actors: Mapping[str, Actor]) -> None:
        self._actors = actors
        self._crashes: deque[float] = deque(maxlen=MAX_RESTARTS + 1)

    async def run(self) -> None:
        """Run until cancelled. Raises `ActorFailed` (in a group) once the restart budget is spent."""
        async with asyncio.TaskGroup() as group:
            for name, actor in self._actors.items():
                group.create_task(self._keep(name, actor), name=name)

    async def _keep(self, name: str, actor: Actor) -> None:
        while True:
            try:
                await actor.run()
                raise RuntimeError(f"the actor {name} ended, which none ever should")
            except Exception as error:
                log.exception("actor_crashed", actor=name)
                self._spend(name, error)
            await asyncio.sleep(_PAUSE_S)

    def _spend(self, name: str, error: Exception) -> None:
        now = time.monotonic()
        self._crashes.append(now)
        if len(self._crashes) > MAX_RESTARTS and now - self._crashes[0] <= RESTART_WINDOW_S:
            raise ActorFailed(
                f"{name} crashed; {MAX_RESTARTS} restarts in {RESTART_WINDOW_S:g} s did not help"
            ) from error
