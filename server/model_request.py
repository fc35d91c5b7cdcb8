"""The model request: its states, its values and its outcomes."""

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, NewType
from uuid import UUID

from server.errors import Code

RequestId = NewType("RequestId", UUID)
UserId = NewType("UserId", UUID)
InstanceId = NewType("InstanceId", UUID)

ROW_OVERHEAD = 200
"""Bytes that ids, times and names of a row take on the wire, about."""


class Status(StrEnum):
    """pending → processing → completed, failed or cancelled. processing may return to pending; final states stay."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as counted by upstream; None where it gave no count. Nothing is estimated.

    `token_used`: prompt and generated tokens. `token_count`: generated tokens only. `details` are the counts that are
    parts of others, under OpenAI's two names (`prompt_tokens_details`, `completion_tokens_details`).
    """

    token_used: int | None = None
    token_count: int | None = None
    prompt: int | None = field(default=None, compare=False)
    details: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int | None:
        """The total without the generated tokens, where both are known."""
        used, generated = self.token_used, self.token_count
        return self.prompt if used is None or generated is None else max(0, used - generated)

    def as_fields(self) -> dict[str, Any] | None:
        """The known counts under OpenAI's names; None where there are none."""
        counts = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.token_count,
            "total_tokens": self.token_used,
        }
        known = {name: count for name, count in counts.items() if count is not None}
        return {**known, **self.details} if known else None


NO_USAGE = Usage()
"""Before any count; compared by identity."""


@dataclass(slots=True)
class RequestSpec:
    """The request of a user, unchanged from the create to the outcome. Input and parameters are JSON."""

    id: RequestId
    user_id: UserId
    model_type: str
    model: str | None
    input_data: bytes
    parameters: bytes


@dataclass(slots=True)
class ModelRequest(RequestSpec):
    """One accepted request for inference, as a generator needs it.

    `epoch` is the fencing token (+1 at every claim), `attempt` the retry budget used so far (this run included).
    """

    owner: InstanceId
    epoch: int
    attempt: int
    created_at: datetime
    deadline_at: datetime
    deadline_left_s: float
    """Seconds to the deadline by the clock of the database, when the row was claimed."""
    last_error: "Failed | None" = None
    """Why the last run went back to the backlog. It is the outcome if the deadline passes first."""
    claimed_at: float = field(default_factory=time.monotonic)
    traceparent: str | None = None
    """Of the create, if the run started at once. It is not stored, so a request from the backlog has none."""

    def seconds_left(self) -> float:
        """Seconds until the deadline. The wall clock of this machine is not used."""
        return self.deadline_left_s - (time.monotonic() - self.claimed_at)


@dataclass(slots=True)
class Completed:
    status: ClassVar[Status] = Status.COMPLETED
    error_code: ClassVar[None] = None
    error_msg: ClassVar[None] = None
    upstream_error: ClassVar[None] = None

    output_data: Mapping[str, Any]
    usage: Usage
    model: str | None


@dataclass(slots=True)
class Failed:
    """`output_data` is the partial text, marked `"partial": true`, if there is any.

    `upstream_error` is the provider's error for programs: `status`, the one that fits its meaning, and where they are
    known `code`, `param` and `retry_after_s`.
    """

    status: ClassVar[Status] = Status.FAILED

    error_code: Code
    error_msg: str
    output_data: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    upstream_error: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Cancelled:
    status: ClassVar[Status] = Status.CANCELLED
    error_code: ClassVar[None] = None
    error_msg: ClassVar[None] = None
    upstream_error: ClassVar[None] = None

    output_data: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None


@dataclass(slots=True)
class Interrupted:
    """Not a final outcome: the row goes back to pending with its attempt refunded, and may start after `delay_s`."""

    delay_s: float
    error_code: Code | None = None
    error_msg: str | None = None
    upstream_error: Mapping[str, Any] | None = None


FinalOutcome = Completed | Failed | Cancelled
Outcome = FinalOutcome | Interrupted


@dataclass(slots=True)
class FinalRow:
    """A final state to write, fenced by the owner and epoch of the claim. Fields in bytes are JSON.

    The fields are the columns of `record_outcomes` in their order.
    """

    id: RequestId
    owner: InstanceId
    epoch: int
    status: Status
    output_data: bytes | None
    error_code: str | None
    error_msg: str | None
    token_used: int | None
    token_count: int | None
    processing_time: timedelta
    model: str | None
    segments: bytes | None = None
    usage: bytes | None = None
    upstream_error: bytes | None = None
    cost_usd: Decimal | None = None

    @property
    def size(self) -> int:
        """About how many bytes the row takes on the wire."""
        return len(self.output_data or b"") + len(self.error_msg or "") + ROW_OVERHEAD


_mint_lock = threading.Lock()
_last_stamp = 0


def mint_id() -> RequestId:
    """A UUIDv7 (RFC 9562, 5.7). Later calls in this process give greater ids, so id order is time order.

    The 12 bits of rand_a hold the fraction of the millisecond (RFC 9562, 6.2, method 3), incremented if two calls have
    the same fraction. 62 bits are random.
    """
    global _last_stamp  # noqa: PLW0603 - the counter must be one per process
    with _mint_lock:
        stamp = max((time.time_ns() << 12) // 1_000_000, _last_stamp + 1)
        _last_stamp = stamp
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | secrets.randbits(62)
    return RequestId(UUID(int=value))


def lowest_id_at(moment: datetime, *, shift: timedelta = timedelta()) -> UUID:
    """A UUID below all ids that were minted at that time or later, and above all earlier ones."""
    return UUID(int=max(0, int((moment.timestamp() + shift.total_seconds()) * 1000)) << 80)
