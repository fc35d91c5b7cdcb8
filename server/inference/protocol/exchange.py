"""What the shell needs to know of an exchange: a reader for each answer, and the request that may follow from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from server.inference.events import Delta, FileChunk, Started
from server.inference.protocol.faults import Failure, UpstreamError
from server.inference.protocol.wire import WireRequest
from server.model_request import Completed

Progress = Started | Delta | FileChunk
"""What is handed on while an answer is read."""


class AnswerReader(Protocol):
    """Fed with the bytes of one answer, in any chunks. Any split of the same bytes gives the same events."""

    @property
    def is_over(self) -> bool:
        """Whether further bytes would change nothing."""
        ...

    def feed(self, chunk: bytes) -> list[Progress]:
        """What `chunk` adds to the answer."""
        ...

    def finish(self, *, cut: UpstreamError | None = None) -> "list[Progress | Completed | Failure | FollowUp]":
        """What is left, and how it ended: the last item is a `Completed`, a `Failure` or a `FollowUp`.

        `cut` is why the body could not be read to its end, if so.
        """
        ...


OpenReader = Callable[[int, Mapping[str, str]], AnswerReader]
"""Makes the reader of an answer from its status and its headers."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """The answer is to be had elsewhere, or later: make this request after `pause_s` and read its answer so.

    Within one try: its time is the try's, and nothing of it is repeated by itself.
    """

    wire: WireRequest
    read: OpenReader
    pause_s: float = 0.0
