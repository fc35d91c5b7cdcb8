"""Readers of answers as tests need them: one that hands bytes on, one that leads to another request."""

from collections.abc import Callable, Mapping

from server.inference.events import FileChunk, Started
from server.inference.protocol import (
    AnswerReader,
    Failure,
    FollowUp,
    OpenReader,
    Progress,
    UpstreamError,
    WireRequest,
    is_success,
)
from server.model_request import NO_USAGE, Completed, Usage


class BytesReader:
    """Every byte becomes a part of one file."""

    is_over = False
    grace_s: float | None = None
    usage = NO_USAGE

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._type = headers.get("Content-Type", "application/octet-stream")
        self._has_started = False

    def feed(self, chunk: bytes) -> list[Progress]:
        if not is_success(self._status):
            return []
        start: list[Progress] = [] if self._has_started else [Started(None)]
        self._has_started = True
        return [*start, FileChunk(bytes(chunk), 0, self._type)]

    def finish(self, *, cut: UpstreamError | None = None) -> list[Progress | Completed | Failure | FollowUp]:
        if cut is None and is_success(self._status):
            return [Completed({}, Usage(), None)]
        is_transient = self._status >= 500
        error = UpstreamError(f"It said {self._status}.", status=self._status, is_transient=is_transient)
        return [Failure(cut or error)]


class _FollowUpReader:
    is_over = False
    grace_s: float | None = None
    usage = NO_USAGE

    def __init__(self, follow_up: FollowUp) -> None:
        self._follow_up = follow_up

    def feed(self, _chunk: bytes) -> list[Progress]:
        return []

    def finish(self, *, cut: UpstreamError | None = None) -> list[Progress | Completed | Failure | FollowUp]:
        return [self._follow_up if cut is None else Failure(cut)]


def follow_up_reader(
    next_wire: Callable[[], WireRequest], *, read: OpenReader | None = None, pause_s: float = 0.0
) -> OpenReader:
    """Whatever the answer is, the next request is made; its answer is read by `read`, without one in the same way."""

    def open_reader(_status: int, _headers: Mapping[str, str]) -> AnswerReader:
        return _FollowUpReader(FollowUp(next_wire(), read or open_reader, pause_s))

    return open_reader
