"""An engine with all of its actors, on a database and an upstream that follow a script."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from server.engine import Engine
from server.lifecycle import Lifecycle
from server.model_request import InstanceId, ModelRequest
from server.settings import Settings
from server.storage.database import Database
from server.storage.objects import Objects
from server.storage.objects.locations import LocalFolder
from server.storage.reader import PooledQueries
from tests.fakes.database import FakeDatabase
from tests.fakes.journal import NOW
from tests.fakes.scripted_upstream import ScriptedUpstream, Step
from tests.fakes.statements import FakeStatements
from tests.fixtures.catalogs import catalog
from tests.unit.actors.test_workload import model_request


def renewal(**changes: Any) -> dict[str, Any]:
    """The row that renews the lease."""
    news = {"cancelled": [], "lost": [], "revocations": [], "read_at": datetime.now(UTC)}
    return {"is_renewed": True, "live_instances": 1, "other_stores": 0, **news} | changes


class FakePool:
    """The engine checks it before readiness, and runs it as an actor.

    The next runs end with `crashes`, one each, as soon as `gate` is open.
    """

    def __init__(self, statements: FakeStatements) -> None:
        self._statements = statements
        self.crashes: deque[Exception] = deque()
        self.gate: asyncio.Event | None = None
        self.runs = 0
        self.is_running = asyncio.Event()

    async def check(self) -> None:
        await self._statements.fetch("check_reads")

    async def run(self) -> None:
        self.runs += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.crashes:
            raise self.crashes.popleft()
        self.is_running.set()
        await asyncio.Event().wait()


class Desk:
    """An engine that is not started. Each preparation of the database raises one of `prepare_errors`."""

    def __init__(self, folder: Path, *steps: Step, predecessors: Sequence[InstanceId] = (), **settings: Any) -> None:
        self.statements = FakeStatements(
            register_instance=[renewal()],
            renew_lease=[renewal()],
            survey_backlog=[{"has_suspects": False, "has_due": False}],
            record_outcomes=lambda *columns: self._written(NOW, *columns),
            release_requests=lambda *columns: self._written(None, *columns),
        )
        self.database = FakeDatabase(self.statements)
        self.pool = FakePool(self.statements)
        self.upstream = ScriptedUpstream(*steps)
        self.lifecycle = Lifecycle()
        self.prepare_errors: deque[Exception] = deque()
        self.engine = Engine(
            Settings(_env_file=None, **{"concurrency": 2, "inference_backend": "offline", **settings}),
            database=cast("Database", self.database),
            reader=cast("PooledQueries", self.pool),
            upstream=self.upstream,
            catalog=catalog(),
            objects=Objects(LocalFolder(folder)),
            lifecycle=self.lifecycle,
            prepare=self._prepare,
            predecessors=predecessors,
        )

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Engine]:
        """The engine until it is stopped, from its readiness on."""
        self.engine.start()
        try:
            async with asyncio.timeout(10):
                await self.lifecycle.wait_ready()
                await self.pool.is_running.wait()
            yield self.engine
        finally:
            await self.engine.stop()

    async def end(self) -> BaseException | None:
        """Wait for the engine to end without `stop`; returns its error."""
        assert self.engine.task is not None
        async with asyncio.timeout(10):
            await asyncio.wait({self.engine.task})
        return self.engine.task.exception()

    def run(self, **changes: Any) -> ModelRequest:
        """A request that has just been claimed, on its way to a generator."""
        request = replace(model_request(), owner=self.engine.lease.instance_id, **changes)
        assert self.engine.slots.reserve() == 1
        self.engine.workload.add(request)
        self.engine.queue.put_nowait(request)
        return request

    async def _prepare(self) -> None:
        self.statements.asked.append(("prepare", ()))
        if self.prepare_errors:
            raise self.prepare_errors.popleft()

    def _written(self, completed_at: Any, ids: list[Any], _owners: Any, epochs: list[int], *_: Any) -> Any:
        return [
            {"id": request_id, "epoch": epoch, "completed_at": completed_at}
            for request_id, epoch in zip(ids, epochs, strict=True)
        ]
