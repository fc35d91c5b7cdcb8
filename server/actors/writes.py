"""The rows that the journal writes, and its replies."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from server.model_request import ROW_OVERHEAD, InstanceId, RequestId, RequestSpec


@dataclass(slots=True)
class NewRequest(RequestSpec):
    """A validated create, and the row to insert: as processing if `owner` is given, otherwise due after `delay_s`.

    `fingerprint`, given with an idempotency key, is of the body that the client sent. The fields are the columns of
    `accept_requests` in their order.
    """

    owner: InstanceId | None
    deadline_s: float
    delay_s: float = 0.0
    key: str | None = None
    fingerprint: bytes | None = None
    epoch: ClassVar[int] = 0

    @property
    def size(self) -> int:
        return len(self.input_data) + len(self.parameters) + ROW_OVERHEAD


@dataclass(slots=True)
class Accepted:
    """Committed. Times are the database's."""

    created_at: datetime
    deadline_at: datetime


@dataclass(slots=True)
class Replayed:
    """Nothing was inserted: the idempotency key belongs to this earlier request."""

    request_id: RequestId
    is_same_body: bool


@dataclass(slots=True)
class ReleasedRow:
    """A row to give back to the backlog, under the same fence. The fields are the columns of `release_requests`."""

    id: RequestId
    owner: InstanceId
    epoch: int
    delay_s: float
    error_code: str | None
    error_msg: str | None
    upstream_error: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.error_msg or "") + ROW_OVERHEAD


class WriteStatus(StrEnum):
    """The effect of a write."""

    WRITTEN = "written"
    MINE = "mine"
    """Written by an earlier attempt whose reply was lost."""
    FINISHED_ELSEWHERE = "finished_elsewhere"
    FENCED = "fenced"
    """Another claim followed: this outcome does not count."""
    GONE = "gone"


@dataclass(slots=True)
class WriteResult:
    status: WriteStatus
    completed_at: datetime | None

    @property
    def counts(self) -> bool:
        """Whether the outcome of this write is the one in the database."""
        return self.status in {WriteStatus.WRITTEN, WriteStatus.MINE}
