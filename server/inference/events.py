"""A generation: the call that starts it, the events that it yields, and the interface that runs it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from server.errors import Code
from server.inference.breaker import Breaker
from server.model_request import Completed as Completed  # noqa: PLC0414 - an event that is the outcome itself
from server.model_request import Usage


class Task(StrEnum):
    """Hugging Face's name of a task."""

    CHAT_COMPLETION = "chat-completion"
    TEXT_GENERATION = "text-generation"
    SUMMARIZATION = "summarization"
    TRANSLATION = "translation"
    FILL_MASK = "fill-mask"
    TEXT_CLASSIFICATION = "text-classification"
    ZERO_SHOT_CLASSIFICATION = "zero-shot-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - the name of a task
    QUESTION_ANSWERING = "question-answering"
    TABLE_QUESTION_ANSWERING = "table-question-answering"
    SENTENCE_SIMILARITY = "sentence-similarity"
    FEATURE_EXTRACTION = "feature-extraction"
    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    IMAGE_CLASSIFICATION = "image-classification"
    OBJECT_DETECTION = "object-detection"
    IMAGE_SEGMENTATION = "image-segmentation"
    IMAGE_TO_TEXT = "image-to-text"
    AUTOMATIC_SPEECH_RECOGNITION = "automatic-speech-recognition"
    AUDIO_CLASSIFICATION = "audio-classification"
    TEXT_TO_SPEECH = "text-to-speech"


class Segment(StrEnum):
    """The part of an answer that a delta belongs to."""

    OUTPUT = "output"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A stored file that is part of the input; its chunks are bounded, it is never in memory whole.

    `open` begins at its first byte each time, so that a try can be repeated.
    """

    content_type: str
    size: int
    open: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call to make upstream. `models` is the chain to try in order; empty means: upstream's own default.

    `files` are those that `input_data` refers to, by the reference as it stands there (`file:<uuid>`).
    """

    task: Task
    models: tuple[str, ...]
    input_data: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, InputFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """Upstream answered with success and the first good byte is there. At most once per generation."""

    model: str | None
    provider: str | None = None


class Delta(NamedTuple):
    """New text at the end of a segment. Never empty, free of anything Postgres cannot store.

    A tuple, because there are hundreds of them to one of anything else, and it is made in a third of the time.
    Tool calls are numbered from 0 by `number`; the text of one is its arguments. Its `name` comes with its first delta,
    the only one whose text may be empty.
    """

    text: str
    segment: Segment = Segment.OUTPUT
    number: int = 0
    name: str = ""


class FileChunk(NamedTuple):
    """The next bytes of a binary answer. Its files are numbered from 0 and come one after the other."""

    data: bytes
    number: int
    content_type: str


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


Event = Started | Delta | FileChunk | Completed | Failed
"""`Completed` is the outcome itself: its `output_data["output"]` equals the joined output deltas. Files are not in it:
the code that stores them adds `files`."""


class Fault(StrEnum):
    """The faults of the configured upstream that `check` finds."""

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


@dataclass(frozen=True, slots=True)
class LiveProvider:
    """A provider of a model, by the router; None for missing values. Prices are dollars per million tokens."""

    provider: str
    status: str | None = None
    context_length: int | None = None
    pricing: Mapping[str, float] | None = None
    supports_tools: bool | None = None


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model that is available now. A self-hosted server names no providers."""

    id: str
    providers: tuple[LiveProvider, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """Upstream's list at `fetched_at`. `is_stale`: it is too old, and a newer one is being fetched."""

    fetched_at: datetime
    is_stale: bool
    models: tuple[LiveModel, ...]


class Upstream(Protocol):
    """Runs generations: Hugging Face, or a replacement for it."""

    @property
    def breaker(self) -> Breaker:
        """Limits the number of calls to upstream."""
        ...

    def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Yield `Started`, `Delta` and `FileChunk`… and exactly one `Completed` or `Failed`, within `timeout_s`.

        Never raises for a fault of upstream. Closing the generator closes the connection.
        """
        ...

    async def check(self) -> Check:
        """Whether calls can succeed, by a free call, within 10 s."""
        ...

    async def listing(self) -> Listing | None:
        """Upstream's list of models, cached for some minutes; None where it has none, or not within 2 s."""
        ...

    async def close(self) -> None: ...
