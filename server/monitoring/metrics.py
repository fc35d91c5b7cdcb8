"""Reads all metrics: those of this process, and those of the other workers of the same server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
from prometheus_client import ProcessCollector

from server.errors import Unavailable
from server.monitoring.catalog import DEFINITIONS, Definition, Sources
from server.monitoring.families import Family, adopt, dump, load, merge, samples_of
from server.monitoring.siblings import Siblings
from server.storage.reader import PooledQueries
from server.telemetry.instruments import Counters

MAX_BACKLOG_COUNTED = 100_000
_BACKLOG_TIMEOUT_S = 2.0
_LAG_INTERVAL_S = 0.25


class Metrics:
    """The samples of each worker have its number as label `worker`.

    They are not added up: when a worker is restarted, its counters begin at 0, and Prometheus would take a smaller sum
    for a restart of all of them.
    """

    def __init__(self, sources: Sources, reader: PooledQueries, siblings: Siblings) -> None:
        self.sources = sources
        self._reader = reader
        self._siblings = siblings
        self._label = {"worker": str(siblings.number)}
        self._process = ProcessCollector(registry=None)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Measure the event loop, and answer the other workers, until the block ends."""
        measuring = asyncio.create_task(self._measure_loop(), name="loop-lag")
        try:
            async with self._siblings.answering(lambda: dump(self._own())):
                yield
        finally:
            measuring.cancel()

    async def collect(self) -> list[Family]:
        """The metrics of all workers, within some seconds."""
        answers, self.sources.backlog = await asyncio.gather(self._siblings.ask(), self._measure_backlog())
        self.sources.workers = Counters()
        for number, is_up in [(self._siblings.number, True), *((n, a is not None) for n, a in answers.items())]:
            self.sources.workers.add((str(number),), is_up)
        shared = [self._read(definition, {}) for definition in DEFINITIONS if definition.is_shared]
        others = [load(answer) for answer in answers.values() if answer is not None]
        return merge([self._own(), *others, shared])

    def _own(self) -> list[Family]:
        own = [self._read(definition, self._label) for definition in DEFINITIONS if not definition.is_shared]
        return own + adopt(self._process.collect(), self._label)

    def _read(self, definition: Definition, common: dict[str, str]) -> Family:
        samples = samples_of(definition.read(self.sources), definition.kind, definition.labels, common)
        return Family(definition.name, definition.kind, definition.help, list(samples))

    async def _measure_backlog(self) -> asyncpg.Record | None:
        try:
            async with asyncio.timeout(_BACKLOG_TIMEOUT_S):
                return await self._reader.fetch_row("measure_backlog", MAX_BACKLOG_COUNTED)
        except (Unavailable, TimeoutError, asyncpg.PostgresError):  # the last: before the first migration
            return None

    async def _measure_loop(self) -> None:
        while True:
            due_at = time.monotonic() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self.sources.loop_lag.observe(max(0.0, time.monotonic() - due_at))
