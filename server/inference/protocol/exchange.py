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
    """Reads the bytes of one answer, in any chunks. The events do not depend on the chunks."""

    @property
    def grace_s(self) -> float | None:
        """The wait in seconds for the rest of an answer that is complete already; None for another answer."""
        ...

    @property
    def usage(self) -> Usage:
        """The counts so far: the same object until there are others."""
        ...

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

    Within one try: its time is the try's, and nothing of it is repeated by itself. `is_next_part`: the answer before
    was complete, and this request for the next part of the result has the time of a try for itself.
    """

    wire: WireRequest
    read: OpenReader
    pause_s: float = 0.0
    is_next_part: bool = False
