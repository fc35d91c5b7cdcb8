"""The interface of an upstream: the call that starts a generation, its events, and the protocol `Upstream`."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from server.errors import Code
from server.inference.breaker import Breaker
from server.model_request import Completed as Completed  # noqa: PLC0414 - an event that is the outcome itself
from server.model_request import Usage
from server.telemetry.instruments import Counters


class Task(StrEnum):
    """Hugging Face's task names."""

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
    """The part of the answer that a delta belongs to."""

    OUTPUT = "output"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"


RECHECK_S = 10.0
"""A name that upstream does not list is refused only by a list that is not older."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A stored file that is part of the input, read in bounded chunks.

    `open` starts at the first byte each time, so that an attempt can be repeated.
    """

    content_type: str
    size: int
    open: Callable[[], AsyncIterator[bytes]]


@dataclass(slots=True)
class Call:
    """One upstream call. `models` is the chain to try in order; empty means upstream's own default.

    `files` contains the input files by their reference in `input_data` (`file:<uuid>`).
    """

    task: Task
    models: tuple[str, ...]
    input_data: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, InputFile] = field(default_factory=dict)


@dataclass(slots=True)
class Started:
    """Upstream answered with success, and the first valid byte has arrived. At most once in a generation."""

    model: str | None
    provider: str | None = None


REFUSAL = "refusal"
"""The name of output deltas that are a refusal of the model."""


class CallHead(NamedTuple):
    """Upstream's id of a tool call, and its `extra_content`, which upstream wants back (Gemini's signature)."""

    id: str = ""
    extra_content: Mapping[str, Any] | None = None


class Delta(NamedTuple):
    """New text at the end of a segment. It is not empty, and Postgres can store it.

    `number` counts tool calls from 0; the text of a tool call is its arguments. The first delta of a tool call has its
    `name` and its `head`, and only its text may be empty. Output has a name only if it is a `REFUSAL`. A tuple, because
    deltas are by far the most frequent events, and a tuple is created in a third of the time.
    """

    text: str
    segment: Segment = Segment.OUTPUT
    number: int = 0
    name: str = ""
    head: CallHead | None = None


class FileChunk(NamedTuple):
    """The next bytes of a binary answer. Files are numbered from 0, and come one after the other."""

    data: bytes
    number: int
    content_type: str


class Counted(NamedTuple):
    """The tokens so far, as upstream counts them while it answers. The last one before a cancel is what it cost."""

    usage: Usage


@dataclass(slots=True)
class GenerationFailed:
    """The last event of a failed generation.

    `transient` means that the same call may succeed later; it is never set after a delta. `output_data` is the partial
    text, marked `"partial": true`, if there is any. `upstream_error` is the provider's error for programs.
    """

    code: Code
    message: str
    transient: bool = False
    retry_after_s: float | None = None
    output_data: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    upstream_error: Mapping[str, Any] | None = None


Event = Started | Delta | FileChunk | Counted | Completed | GenerationFailed
"""`Completed` is the outcome itself. Its `output_data["output"]` equals the joined output deltas. The code that stores
the files adds `files`."""


class UpstreamFault(StrEnum):
    """The faults that `Upstream.check` finds."""

    UNREACHABLE = "unreachable"
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a kind of fault, not a token
    NO_PERMISSION = "no_permission"
    NO_CREDITS = "no_credits"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a free check. `detail` is one sentence for the operator, with the fix."""

    fault: UpstreamFault | None
    detail: str

    @property
    def is_ok(self) -> bool:
        return self.fault is None


@dataclass(frozen=True, slots=True)
class LiveProvider:
    """A provider of a model, as listed by the router. None: not stated. Prices are in dollars per million tokens."""

    provider: str
    status: str | None = None
    context_length: int | None = None
    pricing: Mapping[str, float] | None = None
    supports_tools: bool | None = None


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model that is available now. A server other than the router names no providers."""

    id: str
    providers: tuple[LiveProvider, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """Upstream's list of models at `fetched_at`. `is_stale`: it is too old, and a newer one is being fetched."""

    fetched_at: datetime
    is_stale: bool
    models: tuple[LiveModel, ...]

    def has(self, name: str) -> bool:
        """Whether upstream knows the name. Ollama lists `llama3:latest` and accepts `llama3`."""
        return any(model.id in {name, f"{name}:latest"} for model in self.models)


class Upstream(Protocol):
    """Runs generations."""

    @property
    def breaker(self) -> Breaker: ...

    @property
    def retries(self) -> Counters:
        """Attempts after the first one of a call, by the reason: a status, or `no_answer`."""
        ...

    def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        """Yield `Started`, then `Delta`s and `FileChunk`s, and exactly one `Completed` or `GenerationFailed` as the
        last, within `timeout_s`. `Counted` may come at any time before the last.

        Never raises for a fault of upstream. Closing the generator closes the connection.
        """
        ...

    async def check(self) -> Check:
        """Whether calls can succeed, checked by a free call within 10 s."""
        ...

    async def listing(self, *, max_age_s: float | None = None) -> Listing | None:
        """Upstream's list of models, cached for some minutes. None if there is none, or none within 2 s.

        With `max_age_s`, a list that is older is fetched again; None if that fails.
        """
        ...

    def known_listing(self) -> Listing | None:
        """The cached list, which may be stale, without a wait. None before the first one came."""
        ...

    async def close(self) -> None: ...


async def lists(upstream: Upstream, name: str) -> bool | None:
    """Whether upstream lists this model; None if it gave no list in time.

    A name that is not in the cached list may be newer than the list, which is then fetched again.
    """
    listing = await upstream.listing()
    if listing is not None and not listing.has(name):
        listing = await upstream.listing(max_age_s=RECHECK_S)
    return None if listing is None else listing.has(name)
