"""Runs what was running at several crashes in small groups, with nothing beside it: one of them may be the cause."""

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

SUSPECT_ATTEMPTS = 2
"""A row that was running at this many crashes is a suspect: one killer cannot fail its neighbours. An index and two
statements name the number as well."""
MAX_ATTEMPTS = 8
"""A row that was running at this many crashes fails; the last attempts it made alone."""
GROUP_SIZE = 8
"""Of those that are suspects since one crash. With each crash more it is a quarter: 8, 2, then each alone."""
PAUSE_S = 5.0
"""Between two groups the others have the instance for so long, if any wait."""

log = structlog.get_logger(__name__)


class QuarantineRunner:
    """At most one group at a time: claimed, held until nothing else runs, started together, and waited for.

    After two crashes nearly all suspects are innocent, and a crash may have come from outside. Alone, one after the
    other, they would keep an instance for minutes; a group of which one member kills is split up by that.
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
        """Claim a group, if it is their turn and no other instance was faster, and close the slots for it."""
        size = min(GROUP_SIZE, self._slots.sensible)
        if size == 0 or (others_wait and time.monotonic() < self._rest_until):
            return False
        rows = await self._connection.fetch("claim_suspects", self._lease.instance_id, size)
        if not rows:
            return False
        self._group = [replace(model_request_of(row), attempt=row["attempt"] + 1) for row in rows]
        self._is_started = False
        for suspect in self._group:
            self._workload.add(suspect)
        self._slots.is_closed = True
        log.warning("suspects_claimed", count=len(rows), crashes=rows[0]["attempt"])
        return await self.go_on()

    async def go_on(self) -> bool:
        """Start the group once nothing else runs; open the slots again when it has ended. True while there is one.

        Until it starts, whatever comes free wakes the sweeper again.
        """
        if self._group is None:
            return False
        if not self._is_started:
            if self._slots.used:
                return True
            self._group = await self._start(self._group)
            self.release_waiting()
        if any(suspect.id in self._workload for suspect in self._group):
            return True
        self._group = None
        self._rest_until = time.monotonic() + PAUSE_S
        self._slots.is_closed = False
        return False

    async def _start(self, group: list[ModelRequest]) -> list[ModelRequest]:
        """Spend an attempt of each that is still ours, and return those."""
        started = await self._connection.fetch(
            "start_suspects",
            [suspect.id for suspect in group],
            [suspect.owner for suspect in group],
            [suspect.epoch for suspect in group],
            [suspect.attempt for suspect in group],
        )
        ours = {row["id"] for row in started}
        for suspect in group:
            if suspect.id not in ours and (running := self._workload.get(suspect.id)) is not None:
                self._workload.remove(running)
        return [suspect for suspect in group if suspect.id in ours]

    def release_waiting(self) -> None:
        """Hand a group that waits to the generators, to be run, or given back at a stop."""
        if self._group is None or self._is_started:
            return
        self._is_started = True
        for suspect in self._group:
            self._slots.reserve_beyond()
            self._queue.put_nowait(suspect)
