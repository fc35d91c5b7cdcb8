"""Runs requests that were running at several crashes in small groups, and nothing else meanwhile."""

import asyncio
import time
from dataclasses import replace

import structlog

from server.actors.capacity import Slots
from server.actors.claims import model_request_of
from server.actors.heartbeat import Lease
from server.actors.workload import Workload
from server.model_request import ModelRequest
from server.storage.database import DedicatedConnection

QUARANTINE_ATTEMPTS = 2
"""A row that was running at this many crashes is quarantined, so that a request that kills its instance cannot fail
others. An index and two statements contain this number as well."""
MAX_ATTEMPTS = 8
"""A row that was running at this many crashes fails. It made its last attempts alone."""
GROUP_SIZE = 8
"""Size of a group after two crashes. Each further crash divides it by four: 8, 2, then 1."""
PAUSE_S = 5.0
"""Time between two groups in which other waiting requests may start."""

log = structlog.get_logger(__name__)


class QuarantineRunner:
    """One group at a time: claims it, holds it until nothing else runs, starts it, and waits for its end.

    After two crashes most quarantined requests did not cause them. One after the other they would block an instance for
    minutes, so they run in groups; a crash splits the group of the request that caused it.
    """

    def __init__(
        self,
        connection: DedicatedConnection,
        *,
        queue: "asyncio.Queue[ModelRequest]",
        lease: Lease,
        slots: Slots,
        workload: Workload,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._lease = lease
        self._slots = slots
        self._workload = workload
        self._group: list[ModelRequest] | None = None
        self._is_started = False
        self._rest_until = 0.0

    async def begin(self, *, others_wait: bool) -> bool:
        """Claim a group, if it is time and there is one, and close the slots. Returns whether there is a group now."""
        size = min(GROUP_SIZE, self._slots.sensible)
        if size == 0 or (others_wait and time.monotonic() < self._rest_until):
            return False
        rows = await self._connection.fetch("claim_quarantined", self._lease.instance_id, size)
        if not rows:
            return False
        self._group = [replace(model_request_of(row), attempt=row["attempt"] + 1) for row in rows]
        self._is_started = False
        for model_request in self._group:
            self._workload.add(model_request)
        self._slots.is_closed = True
        log.warning("quarantine_claimed", count=len(rows), crashes=rows[0]["attempt"])
        return await self.go_on()

    async def go_on(self) -> bool:
        """Start the group once nothing else runs; open the slots again when it has ended. True while there is one.

        Each slot that comes free wakes the sweeper, which calls this again.
        """
        if self._group is None:
            return False
        if not self._is_started:
            if self._slots.used:
                return True
            self._group = await self._start(self._group)
            self.release_waiting()
        if any(model_request.id in self._workload for model_request in self._group):
            return True
        self._group = None
        self._rest_until = time.monotonic() + PAUSE_S
        self._slots.is_closed = False
        return False

    async def _start(self, group: list[ModelRequest]) -> list[ModelRequest]:
        """Count an attempt for each request that this instance still owns, and return those."""
        started = await self._connection.fetch(
            "start_quarantined",
            [model_request.id for model_request in group],
            [model_request.owner for model_request in group],
            [model_request.epoch for model_request in group],
            [model_request.attempt for model_request in group],
        )
        ours = {row["id"] for row in started}
        for model_request in group:
            if model_request.id not in ours and (running := self._workload.get(model_request.id)) is not None:
                self._workload.remove(running)
        return [model_request for model_request in group if model_request.id in ours]

    def release_waiting(self) -> None:
        """Give a waiting group to the generators. While the server stops they hand it back."""
        if self._group is None or self._is_started:
            return
        self._is_started = True
        for model_request in self._group:
            self._slots.reserve_beyond()
            self._queue.put_nowait(model_request)
