"""A generator with everything that it works with, and no database."""

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

import orjson

from server.actors.capacity import Slots
from server.actors.feeds import Feeds
from server.actors.generator import Generator
from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.run_metrics import RunMetrics
from server.actors.subscriptions import Subscriptions
from server.actors.workload import Workload
from server.inference.pricing import Pricing
from server.model_request import ModelRequest
from server.storage.database import DedicatedConnection
from tests.fakes.journal import FakeJournal
from tests.fakes.request_files import FakeFiles
from tests.fakes.scripted_upstream import ScriptedUpstream, Step
from tests.fakes.statements import FakeStatements
from tests.fixtures.catalogs import catalog
from tests.unit.actors.test_workload import model_request


class Desk:
    """One generator and its surroundings; the lease is trusted, and jitter is always at its upper end."""

    def __init__(self, *steps: Step) -> None:
        line = cast("DedicatedConnection", FakeStatements())
        self.upstream = ScriptedUpstream(*steps)
        self.journal = FakeJournal()
        self.files = FakeFiles()
        self.subscriptions = Subscriptions(line)
        self.feeds = Feeds(line)
        self.workload = Workload()
        self.slots = Slots(1)
        self.metrics = RunMetrics(["org/model"])
        self.lease = Lease()
        self.lease.renewed(time.monotonic())
        self.queue: asyncio.Queue[ModelRequest] = asyncio.Queue()
        self.generator = Generator(
            self.queue,
            upstream=self.upstream,
            catalog=catalog(text_models=("org/model",)),
            journal=cast("Journal", self.journal),
            subscriptions=self.subscriptions,
            feeds=self.feeds,
            workload=self.workload,
            slots=self.slots,
            lease=self.lease,
            files=self.files,
            metrics=self.metrics,
            pricing=Pricing({}, self.upstream.known_listing),
            jitter=lambda _low, high: high,
        )

    def claimed(self, **changes: Any) -> ModelRequest:
        """A request that this instance runs."""
        values = {"input_data": b'{"prompt":"Hello"}', "owner": self.lease.instance_id, **changes}
        return replace(model_request(), **values)

    async def process(self, model_request: ModelRequest | None = None, **changes: Any) -> ModelRequest:
        """Run one request from its slot to its end."""
        model_request = model_request or self.claimed(**changes)
        assert self.slots.reserve() == 1
        async with asyncio.timeout(10):
            await self.generator.process(model_request)
        self.assert_nothing_is_held()
        return model_request

    def begin(self, model_request: ModelRequest) -> "asyncio.Task[ModelRequest]":
        """The same in a task."""
        return asyncio.create_task(self.process(model_request))

    def assert_nothing_is_held(self) -> None:
        assert self.slots.used == 0
        assert len(self.workload) == 0
        assert self.upstream.open_calls == 0

    @property
    def output_data(self) -> Any:
        """Of the only outcome that was recorded."""
        [row] = self.journal.recorded
        return None if row.output_data is None else orjson.loads(row.output_data)
