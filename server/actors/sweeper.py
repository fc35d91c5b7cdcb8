"""Claims pending rows when slots are free, takes up what dead owners left, ends what is overdue, and purges."""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

from server.actors.capacity import Backlog, Slots
from server.actors.heartbeat import LEASE_TTL_S, Lease
from server.actors.workload import Workload
from server.errors import Code
from server.model_request import Failed, InstanceId, ModelRequest, Status
from server.storage.database import DatabaseAway, Line

CLAIM_INTERVAL_S = 1.0
RESCUE_INTERVAL_S = 2.0
ADOPT_INTERVAL_S = 30.0
PURGE_INTERVAL_S = 600.0

MAX_ATTEMPTS = 5
SUSPECT_ATTEMPTS = 2
"""A row that was running at this many crashes runs alone from then on: one killer cannot fail its neighbours."""
SUSPECT_PAUSE_S = 5.0
"""Between two suspects the others have the instance for so long, if any wait."""

_CLAIM_BATCH = 100
_SWEEP_BATCH = 500
_ADOPT_MIN_AGE_S = 10.0
_EXPIRY_GRACE_S = 30.0
_DEAD_LEASE_KEPT_S = 3600.0
_BEFORE_ALL_USERS = UUID(int=0)

log = structlog.get_logger(__name__)


class Sweeper:
    """The only way by which work that is not brand new starts on this instance."""

    def __init__(
        self,
        line: Line,
        queries: Mapping[str, str],
        *,
        queue: "asyncio.Queue[ModelRequest]",
        lease: Lease,
        slots: Slots,
        backlog: Backlog,
        workload: Workload,
        retention_days: int = 0,
    ) -> None:
        self._line = line
        self._queries = queries
        self._queue = queue
        self._lease = lease
        self._slots = slots
        self._backlog = backlog
        self._workload = workload
        self._retention_days = retention_days
        self._known_dead: list[InstanceId] = []
        self._wake = asyncio.Event()
        self._due: dict[str, float] = {}
        self._last_user = _BEFORE_ALL_USERS
        self.is_stopped = False
        self._suspect: ModelRequest | None = None
        self._is_suspect_started = False
        self._suspects_rest_until = 0.0
        slots.watch(self._slot_came_free)
        backlog.watch(self._wake.set)

    def expect_orphans_of(self, instance_id: InstanceId) -> None:
        """This instance is known to be dead: its rows need not wait for its lease to run out."""
        self._known_dead.append(instance_id)

    async def run(self) -> None:
        while True:
            try:
                await self.tick()
            except DatabaseAway as error:
                self._backlog.is_empty = False
                log.debug("sweep_skipped", reason=str(error))
            try:
                async with asyncio.timeout(CLAIM_INTERVAL_S * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def tick(self) -> None:
        """Do whatever is due."""
        if self._is_due("rescue", RESCUE_INTERVAL_S):
            await self.rescue()
            await self.expire()
        await self.claim()
        if self._is_due("adopt", ADOPT_INTERVAL_S):
            await self.adopt()
        if self._is_due("purge", PURGE_INTERVAL_S):
            await self.purge()

    async def claim(self) -> None:
        """Fill the free slots from the backlog, fairly between users; a suspect waits until it is alone."""
        if self.is_stopped or not self._lease.is_trusted or await self._suspect_goes_on():
            return
        mark = self._backlog.mark()
        [survey] = await self._line.fetch(self._queries["survey_backlog"], SUSPECT_ATTEMPTS)
        is_their_turn = not survey["has_due"] or time.monotonic() >= self._suspects_rest_until
        if survey["has_suspects"] and is_their_turn and await self._claim_suspect():
            return
        if not survey["has_due"]:
            self._backlog.found_empty(mark)
            return
        self._backlog.is_empty = False
        while not self.is_stopped and (reserved := self._slots.reserve(_CLAIM_BATCH)):
            mark = self._backlog.mark()
            rows = await self._fill(
                reserved, "claim_pending", self._lease.instance_id, reserved, self._last_user, SUSPECT_ATTEMPTS
            )
            if not rows and self._last_user == _BEFORE_ALL_USERS:
                self._backlog.found_empty(mark)
                return
            self._last_user = max((row["user_id"] for row in rows), default=_BEFORE_ALL_USERS)

    async def _fill(self, reserved: int, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run a claiming statement for slots that were reserved, and return those that nothing came for."""
        enqueued = 0
        try:
            rows = await self._line.fetch(self._queries[query], *args)
            for row in rows:
                if row["status"] == Status.PROCESSING:
                    self._enqueue(_model_request_of(row))
                    enqueued += 1
            return rows
        finally:
            self._slots.release(reserved - enqueued)

    async def _claim_suspect(self) -> bool:
        """Take one over, if no other instance was faster, and close the slots for it."""
        rows = await self._line.fetch(self._queries["claim_suspect"], self._lease.instance_id, SUSPECT_ATTEMPTS)
        if not rows:
            return False
        self._suspect = replace(_model_request_of(rows[0]), attempt=rows[0]["attempt"] + 1)
        self._workload.add(self._suspect)
        self._backlog.is_empty = False
        self._slots.is_closed = True
        return await self._suspect_goes_on()

    async def _suspect_goes_on(self) -> bool:
        """Start the suspect once nothing else runs; open the slots again when it has ended. True while there is one.

        Until it starts, whatever comes free wakes this actor again.
        """
        if self._suspect is None:
            return False
        if not self._is_suspect_started:
            return self._slots.used > 0 or await self._start_suspect(self._suspect)
        if self._suspect.id in self._workload:
            return True
        self._forget_suspect()
        return False

    async def _start_suspect(self, suspect: ModelRequest) -> bool:
        started = await self._line.fetch(self._queries["start_suspect"], suspect.id, suspect.owner, suspect.epoch)
        if started:
            self.let_go()
            return True
        if (running := self._workload.get(suspect.id)) is not None:
            self._workload.remove(running)
        self._forget_suspect()
        return False

    def _forget_suspect(self) -> None:
        self._suspect, self._is_suspect_started = None, False
        self._suspects_rest_until = time.monotonic() + SUSPECT_PAUSE_S
        self._slots.is_closed = False

    def let_go(self) -> None:
        """Hand a suspect that waits to the generators, to be run, or given back at a stop."""
        if self._suspect is not None and not self._is_suspect_started:
            self._is_suspect_started = True
            self._slots.reserve_beyond()
            self._queue.put_nowait(self._suspect)

    async def rescue(self) -> None:
        """Put rows of dead owners back to the backlog; end those that were running at too many crashes."""
        rows = await self._line.fetch(
            self._queries["rescue_orphans"],
            self._known_dead,
            self._lease.may_judge_others,
            LEASE_TTL_S,
            MAX_ATTEMPTS,
            _SWEEP_BATCH,
        )
        for row in rows:
            log.warning("request_rescued", id=str(row["id"]), status=row["status"], attempt=row["attempt"])
        if rows:
            self._backlog.hint()
        if len(rows) < _SWEEP_BATCH:
            self._known_dead.clear()

    async def expire(self) -> None:
        """End what passed its deadline or was cancelled while it waited."""
        for row in await self._line.fetch(self._queries["expire_requests"], _EXPIRY_GRACE_S, _SWEEP_BATCH):
            log.info("request_expired", id=str(row["id"]))
        for row in await self._line.fetch(self._queries["finalise_cancelled"], _SWEEP_BATCH):
            log.info("request_cancelled", id=str(row["id"]))

    async def adopt(self) -> None:
        """Run what the database says is ours and memory does not hold: an accept or a claim whose reply was lost."""
        if self.is_stopped or not (reserved := self._slots.reserve(_CLAIM_BATCH)):
            return
        held = [request_id for request_id, _ in self._workload.claims()]
        rows = await self._fill(
            reserved, "adopt_own", self._lease.instance_id, held, _ADOPT_MIN_AGE_S, SUSPECT_ATTEMPTS, reserved
        )
        for row in rows:
            log.warning("request_adopted", id=str(row["id"]))

    async def purge(self) -> None:
        """Forget old keys, dead instances and, where the operator says so, old final rows; a small batch at a time."""
        await self._line.fetch(self._queries["purge_instances"], _DEAD_LEASE_KEPT_S)
        purged = await self._line.fetch(self._queries["purge_idempotency_keys"], _SWEEP_BATCH)
        has_more = len(purged) == _SWEEP_BATCH
        if self._retention_days:
            oldest = _first_id_of(self._retention_days)
            purged = await self._line.fetch(self._queries["purge_requests"], oldest, _SWEEP_BATCH)
            has_more = has_more or len(purged) == _SWEEP_BATCH
        if has_more:
            self._due["purge"] = 0.0  # at the next tick: claims come in between

    def _enqueue(self, model_request: ModelRequest) -> None:
        self._workload.add(model_request)
        self._queue.put_nowait(model_request)
        log.info("request_claimed", id=str(model_request.id), attempt=model_request.attempt, epoch=model_request.epoch)

    def _slot_came_free(self) -> None:
        if not self._backlog.is_empty:
            self._wake.set()

    def _is_due(self, name: str, interval_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(name, 0.0):
            return False
        self._due[name] = now + interval_s
        return True


def _model_request_of(row: asyncpg.Record) -> ModelRequest:
    return ModelRequest(
        id=row["id"],
        user_id=row["user_id"],
        model_type=row["model_type"],
        model=row["model"],
        input_data=orjson.loads(row["input_data"] or b"{}"),
        parameters=orjson.loads(row["parameters"]),
        owner=row["owner"],
        epoch=row["epoch"],
        attempt=row["attempt"],
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
        deadline_left_s=row["deadline_left_s"],
        last_error=_last_error_of(row),
    )


def _last_error_of(row: asyncpg.Record) -> Failed | None:
    """Total: a code of a later version must not keep a row from being run."""
    if row["error_msg"] is None:
        return None
    code = Code(row["error_code"]) if row["error_code"] in set(Code) else Code.SERVER_ERROR
    return Failed(code, row["error_msg"])


def _first_id_of(days_ago: int) -> UUID:
    """The lowest UUIDv7 of that moment: ids are in order of time."""
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    return UUID(int=int(moment.timestamp() * 1000) << 80)
