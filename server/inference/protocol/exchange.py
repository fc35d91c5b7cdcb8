"""The interface between the pure protocol and its shell: a reader for each answer, and follow-up requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from server.inference.events import Delta, FileChunk, Started
from server.inference.protocol.faults import Failure, UpstreamError
from server.inference.protocol.wire import WireRequest
from server.model_request import Completed, Usage

Progress = Started | Delta | FileChunk
"""The events of an answer before its end."""


class AnswerReader(Protocol):
    """Reads the bytes of one answer, in any chunks. The events do not depend on the chunks.

    `grace_s` is the wait in seconds for the rest of an answer that is complete already; None for another answer.
    `usage` has the counts so far: the same object until there are others.
    """

    grace_s: float | None

    @property
    def usage(self) -> Usage: ...

    @property
    def is_over(self) -> bool:
        """Whether further bytes have no effect."""
        ...

    def feed(self, chunk: bytes) -> list[Progress]:
        """The events that `chunk` completes."""
        ...

    def finish(self, *, cut: UpstreamError | None = None) -> "list[Progress | Completed | Failure | FollowUp]":
        """The remaining events. The last item is a `Completed`, a `Failure` or a `FollowUp`.

        `cut` is why the body could not be read to its end, if so.
        """
        ...


OpenReader = Callable[[int, Mapping[str, str]], AnswerReader]
"""Makes the reader of an answer from its status and its headers."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """The answer is at another address or not ready: make this request after `pause_s` and use its reader.

    Within one try: its time is the try's, and nothing of it is repeated by itself.
    """

    wire: WireRequest
    read: OpenReader
    pause_s: float = 0.0
