"""What is handed to the journal, and what it answers."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar

from server.model_request import InstanceId, RequestId, UserId

_ROW_OVERHEAD = 200
"""About what ids, times and names of a row weigh on the wire, in bytes."""


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A row to insert: born processing where `owner` is given, else pending and due after `delay_s`."""

    id: RequestId
    user_id: UserId
    model_type: str
    model: str | None
    input_data: bytes
    parameters: bytes
    owner: InstanceId | None
    deadline_s: float
    delay_s: float = 0.0
    key: str | None = None
    fingerprint: bytes | None = None
    epoch: ClassVar[int] = 0

    @property
    def size(self) -> int:
        return len(self.input_data) + len(self.parameters) + _ROW_OVERHEAD


@dataclass(frozen=True, slots=True)
class Accepted:
    """Committed. Times are the database's."""

    created_at: datetime
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """Nothing was inserted: the idempotency key belongs to this earlier request."""

    request_id: RequestId
    is_same_body: bool


@dataclass(frozen=True, slots=True)
class FinalRow:
    """A final state to write, fenced by the owner and epoch of the claim. `output_data` is JSON."""

    id: RequestId
    owner: InstanceId
    epoch: int
    status: str
    output_data: bytes | None
    error_code: str | None
    error_msg: str | None
    token_used: int | None
    token_count: int | None
    processing_time: timedelta
    model: str | None
    segments: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.output_data or b"") + len(self.error_msg or "") + _ROW_OVERHEAD


@dataclass(frozen=True, slots=True)
class ReleasedRow:
    """A row to give back to the backlog, under the same fence."""

    id: RequestId
    owner: InstanceId
    epoch: int
    delay_s: float
    error_code: str | None
    error_msg: str | None

    @property
    def size(self) -> int:
        return len(self.error_msg or "") + _ROW_OVERHEAD


class WriteStatus(StrEnum):
    """What became of a row that was recorded."""

    WRITTEN = "written"
    MINE = "mine"
    """Written by an earlier attempt whose reply was lost."""
    FINISHED_ELSEWHERE = "finished_elsewhere"
    FENCED = "fenced"
    """Someone else claimed it since: this outcome does not count."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class WriteResult:
    fate: WriteStatus
    completed_at: datetime | None

    @property
    def counts(self) -> bool:
        """Whether the outcome that was handed in is the one that stands."""
        return self.fate in {WriteStatus.WRITTEN, WriteStatus.MINE}
