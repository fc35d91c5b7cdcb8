"""What a generation is made of: the call that starts it, the events it yields, and who can run one."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from server.errors import Code
from server.inference.breaker import Breaker
from server.model_request import Completed as Completed  # noqa: PLC0414 - an event that is the outcome itself
from server.model_request import Usage


class Task(StrEnum):
    """Hugging Face's name of what is asked for."""

    CHAT_COMPLETION = "chat-completion"
    TEXT_GENERATION = "text-generation"


class Segment(StrEnum):
    """Which part of the answer a delta belongs to."""

    OUTPUT = "output"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to make upstream. `models` is the chain to try in order; empty means: upstream's own default."""

    task: Task
    models: tuple[str, ...]
    input_data: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """Upstream answered with success and the first good byte is there. At most once per generation."""

    model: str | None
    provider: str | None = None


class Delta(NamedTuple):
    """New text at the end of a segment. Never empty, free of anything Postgres cannot store.

    A tuple, because there are hundreds of them to one of anything else, and it is made in a third of the time.
    """

    text: str
    segment: Segment = Segment.OUTPUT


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a generation that did not.

    `transient` says that the same call may succeed later (an outage is not an outcome); it is never set once a delta
    was yielded. `output_data` is the partial text, marked `"partial": true`, where there is any.
    """

    code: Code
    message: str
    transient: bool = False
    retry_after_s: float | None = None
    output_data: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None


Event = Started | Delta | Completed | Failed
"""`Completed` is the outcome itself: its `output_data["output"]` equals the joined output deltas."""


class Fault(StrEnum):
    """What can be wrong with the configured upstream, as `check` finds it."""

    UNREACHABLE = "unreachable"
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a kind of fault, not a token
    NO_PERMISSION = "no_permission"
    NO_CREDITS = "no_credits"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check that costs nothing. `detail` is one sentence for the operator, with the remedy."""

    fault: Fault | None
    detail: str

    @property
    def is_ok(self) -> bool:
        return self.fault is None


class Upstream(Protocol):
    """Something that can run a generation: Hugging Face, or what stands for it."""

    @property
    def breaker(self) -> Breaker:
        """Says how many calls make sense now."""
        ...

    def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Yield `Started`, `Delta`… and exactly one `Completed` or `Failed`, within `timeout_s`; never raises for a
        fault of upstream. Closing the generator closes the connection."""
        ...

    async def check(self) -> Check:
        """Whether calls can succeed, found out by a call that costs nothing, within 10 s."""
        ...

    async def close(self) -> None: ...
