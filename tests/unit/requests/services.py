"""The use cases of model requests with everything that they work with, and no database."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID, uuid4

from server.actors.capacity import Backlog, Slots
from server.actors.feeds import Feeds
from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.subscription import Waiter
from server.actors.subscriptions import Subscriptions
from server.actors.workload import Workload
from server.actors.writes import NewRequest
from server.files.input_files import InputFiles
from server.inference.offline import Offline
from server.lifecycle import Lifecycle
from server.limits.concurrency import ConcurrencyLimiter
from server.limits.shared_rates import SharedRateLimiter
from server.model_request import InstanceId, ModelRequest, RequestId, UserId, mint_id
from server.requests.admission import Admission
from server.requests.history import History
from server.requests.service import Created, ModelRequests
from server.storage.database import DedicatedConnection
from server.storage.reader import PooledQueries
from server.transcript import Transcript
from tests.fakes.journal import NOW, FakeJournal
from tests.fakes.local_rates import LocalRates
from tests.fakes.statements import FakeStatements
from tests.fixtures.catalogs import catalog

ALICE, BOB = UserId(uuid4()), UserId(uuid4())
BODY = {"model_type": "text2text", "input_data": {"prompt": "Hello"}}


def draft(**changes: Any) -> NewRequest:
    """A create of Alice's."""
    values: dict[str, Any] = {
        "id": mint_id(),
        "user_id": ALICE,
        "model_type": "text2text",
        "model": None,
        "input_data": b'{"prompt":"Hello"}',
        "parameters": b"{}",
        "owner": None,
        "deadline_s": 600.0,
    }
    return NewRequest(**(values | changes))


class FakeRuns:
    """Remembers whom it was asked to stop. `transcripts` are those that grow, by epoch."""

    def __init__(self) -> None:
        self.cancelled: list[tuple[RequestId, InstanceId]] = []
        self.on_cancel: Callable[[], None] = lambda: None
        self.transcripts: dict[int, Transcript] = {}

    def find_transcript(self, request_id: RequestId, epoch: int) -> Transcript | None:
        return self.transcripts.get(epoch)

    def cancel(self, request_id: RequestId, owner: InstanceId) -> None:
        self.cancelled.append((request_id, owner))
        self.on_cancel()


class Desk:
    """Admission and the service of an instance, with one free slot and an empty backlog.

    `own` adds a request of a user to what the statements find.
    """

    def __init__(self, *, per_minute: int = 0, burst: int | None = None, is_ready: bool = True) -> None:
        self.statements = FakeStatements(
            count_waiting=[{"everyone": 0, "own": 0}],
            count_put_off=[{"everyone": 0, "own": 0, "users": 0, "ahead": 0}],
            count_waiting_users=[{"users": 1}],
            get_request=self._find,
            cancel_request=self._find,
            delete_request=self._find,
            get_transcript=self._find,
        )
        self._rows: dict[RequestId, dict[str, Any]] = {}
        reader, line = cast("PooledQueries", self.statements), cast("DedicatedConnection", self.statements)
        self.journal = FakeJournal()
        self.queue: asyncio.Queue[ModelRequest] = asyncio.Queue()
        self.slots = Slots(1)
        self.backlog = Backlog()
        self.backlog.is_empty = True
        self.workload = Workload()
        self.subscriptions = Subscriptions(line)
        self.feeds = Feeds(line)
        self.lease = Lease()
        self.lease.renewed(time.monotonic())
        self.lifecycle = Lifecycle()
        if is_ready:
            self.lifecycle.ready()
        self.rates = LocalRates(per_minute, burst=burst)
        self.concurrency = ConcurrencyLimiter()
        self.runs = FakeRuns()
        self.hints = 0
        """How often others were told that something waits."""
        self.deletions = 0
        self.admission = Admission(
            journal=cast("Journal", self.journal),
            reader=reader,
            queue=self.queue,
            slots=self.slots,
            backlog=self.backlog,
            workload=self.workload,
            feeds=self.feeds,
            lease=self.lease,
            lifecycle=self.lifecycle,
            max_backlog=100,
            max_backlog_per_user=50,
            on_waiting=self._hint,
        )
        self.service = ModelRequests(
            admission=self.admission,
            history=History(reader),
            subscriptions=self.subscriptions,
            feeds=self.feeds,
            reader=reader,
            input_files=InputFiles(reader),
            catalog=catalog(),
            upstream=Offline(),
            rates=cast("SharedRateLimiter", self.rates),
            concurrency=self.concurrency,
            runs=self.runs,
            deadline_s=600.0,
            on_deleted=self._delete,
        )

    async def create(self, body: Any = None, **options: Any) -> Created[Waiter]:
        """A create of Alice's; the body is what was sent."""
        body = body or BODY
        values = {"sent": body, "key": None, "subscribe": Subscriptions.watch, **options}
        return await self.service.create(ALICE, body, **values)

    def own(self, status: str, *, user_id: UserId = ALICE, **columns: Any) -> RequestId:
        """A request as it stands in the database."""
        request_id = mint_id()
        self._rows[request_id] = {
            "id": request_id,
            "user_id": user_id,
            "status": status,
            "epoch": 1,
            "owner": self.lease.instance_id,
            "model_type": "text2text",
            "model": None,
            "input_data": b'{"prompt":"Hello"}',
            "output_data": None,
            "segments": None,
            "created_at": NOW,
            "deadline_at": NOW,
            "attempt": 1,
            **columns,
        }
        return request_id

    def change(self, request_id: RequestId, **columns: Any) -> None:
        """The request changes in the database."""
        self._rows[request_id] |= columns

    def fill_backlog(self, *, everyone: int, own: int, users: int = 1) -> None:
        """So many wait, says the database."""
        self.statements.answers["count_waiting"] = [{"everyone": everyone, "own": own}]
        self.statements.answers["count_waiting_users"] = [{"users": users}]

    def assert_nothing_started(self) -> None:
        assert self.slots.used == 0
        assert self.queue.empty()
        assert len(self.workload) == 0
        assert len(self.subscriptions) == 0

    def _find(self, request_id: UUID, user_id: UserId) -> Sequence[dict[str, Any]]:
        row = self._rows.get(RequestId(request_id))
        return [row] if row is not None and row["user_id"] == user_id else []

    def _hint(self) -> None:
        self.hints += 1

    def _delete(self) -> None:
        self.deletions += 1
