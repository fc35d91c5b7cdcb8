"""Claims pending rows when slots are free, takes up what dead owners left, ends what is overdue, and purges."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
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
from server.model_request import Failed, InstanceId, ModelRequest, RequestId
from server.storage.database import DatabaseAway, Line

CLAIM_INTERVAL_S = 1.0
RESCUE_INTERVAL_S = 2.0
ADOPT_INTERVAL_S = 30.0
PURGE_INTERVAL_S = 600.0

MAX_ATTEMPTS = 5
SUSPECT_ATTEMPTS = 2
"""A row that was running at this many crashes runs alone from then on: one killer cannot fail its neighbours."""

_CLAIM_BATCH = 100
_SWEEP_BATCH = 500
_PURGE_ROUNDS = 20
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
        self._suspect: RequestId | None = None
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
        """Fill the free slots from the backlog, fairly between users; suspects first and alone."""
        if self.is_stopped or not self._lease.is_trusted:
            return
        mark = self._backlog.mark()
        [survey] = await self._line.fetch(self._queries["survey_backlog"], SUSPECT_ATTEMPTS)
        if self._suspect is not None and self._suspect in self._workload:
            return  # it runs alone until its outcome is committed
        if survey["has_suspects"]:
            await self._claim_suspect()
            return
        self._slots.is_closed = False
        if not survey["has_due"]:
            self._backlog.found_empty(mark)
            return
        self._backlog.is_empty = False
        while reserved := self._slots.reserve(_CLAIM_BATCH):
            mark = self._backlog.mark()
            try:
                rows = await self._line.fetch(
                    self._queries["claim_pending"],
                    self._lease.instance_id,
                    reserved,
                    self._last_user,
                    SUSPECT_ATTEMPTS,
                )
            except BaseException:
                self._slots.release(reserved)
                raise
            is_end = not rows and self._last_user == _BEFORE_ALL_USERS
            self._last_user = max((row["user_id"] for row in rows), default=_BEFORE_ALL_USERS)
            self._enqueue(rows)
            if is_end:
                self._backlog.found_empty(mark)
            self._slots.release(reserved - len(rows))
            if is_end:
                return

    async def _claim_suspect(self) -> None:
        self._backlog.is_empty = False
        self._slots.is_closed = True
        if self._slots.used:
            return  # what runs may end; the last slot that comes free wakes this actor again
        rows = await self._line.fetch(self._queries["claim_suspect"], self._lease.instance_id, SUSPECT_ATTEMPTS)
        self._slots.used += len(rows)
        self._enqueue(rows)
        self._suspect = rows[0]["id"] if rows else None

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
        rows: Sequence[asyncpg.Record] = ()
        try:
            rows = await self._line.fetch(
                self._queries["adopt_own"],
                self._lease.instance_id,
                [request_id for request_id, _ in self._workload.claims()],
                _ADOPT_MIN_AGE_S,
                reserved,
            )
            for row in rows:
                log.warning("request_adopted", id=str(row["id"]))
            self._enqueue(rows)
        finally:
            self._slots.release(reserved - len(rows))

    async def purge(self) -> None:
        """Forget old keys, dead instances and, where the operator says so, old final rows; in small batches."""
        await self._line.fetch(self._queries["purge_instances"], _DEAD_LEASE_KEPT_S)
        await self._purge("purge_idempotency_keys", _SWEEP_BATCH)
        if self._retention_days:
            await self._purge("purge_requests", _first_id_of(self._retention_days), _SWEEP_BATCH)

    async def _purge(self, query: str, *args: Any) -> None:
        for _ in range(_PURGE_ROUNDS):
            if len(await self._line.fetch(self._queries[query], *args)) < _SWEEP_BATCH:
                return
            await asyncio.sleep(0.1)  # leave room for the others on a small database

    def _enqueue(self, rows: Sequence[asyncpg.Record]) -> None:
        for row in rows:
            model_request = _model_request_of(row)
            self._workload.add(model_request)
            self._queue.put_nowait(model_request)
            log.info("request_claimed", id=str(model_request.id), attempt=model_request.attempt, epoch=row["epoch"])

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
        last_error=Failed(Code(row["error_code"]), row["error_msg"])
        if row["error_code"] and row["error_msg"]
        else None,
    )


def _first_id_of(days_ago: int) -> UUID:
    """The lowest UUIDv7 of that moment: ids are in order of time."""
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    return UUID(int=int(moment.timestamp() * 1000) << 80)
