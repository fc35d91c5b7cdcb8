"""Reads the body of an answer, and limits its size and the gaps between its chunks."""

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiohttp import hdrs

from server.inference.direct_exchange import Answer
from server.inference.protocol import UpstreamError
from server.inference.transport import TRANSPORT_ERRORS

MAX_ANSWER_BYTES = 512 * 1024 * 1024
"""The limit of every answer, in addition to the limits of its reader."""
_DRAIN_S = 0.1
"""The wait for the end of the body after the last event, so that the connection can be reused."""

_COMPRESSED = UpstreamError(
    "The model provider sent a compressed answer, which this server does not accept.", is_transient=True
)
_TOO_LARGE = UpstreamError("The model provider's answer was larger than this server accepts.")


class BadAnswer(Exception):
    """The rest of the answer cannot be read; `error` is the reason."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


def require_plain(headers: Mapping[str, str]) -> None:
    """Raise `BadAnswer` for a compressed answer: every request says `Accept-Encoding: identity`."""
    if headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in {"", "identity"}:
        raise BadAnswer(_COMPRESSED)


class AnswerBody:
    """`gap_s` is the longest gap between chunks after the first byte. Only the request's timeout limits the first byte.

    One timer serves all chunks, because a timeout for each chunk would cost as much as reading it. Raises `BadAnswer`
    for a compressed answer.
    """

    def __init__(self, response: Answer, *, gap_s: float) -> None:
        require_plain(response.headers)
        self.has_begun = False
        self._content = response.content
        self._gap_s = gap_s
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._waits_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for timer in (self._timer, self._end):
            if timer is not None:
                timer.cancel()

    def end_within(self, seconds: float, *, begins_again: bool) -> None:
        """End the body at the latest after this time, with a `TimeoutError`.

        A later end replaces an earlier one only with `begins_again`.
        """
        end = self._loop.time() + seconds
        if self._end is not None:
            if not begins_again and self._end.when() <= end:
                return
            self._end.cancel()
        self._end = self._loop.call_at(end, self._content.set_exception, TimeoutError())

    async def read(self) -> bytes:
        """The next bytes, b"" at the end.

        Raises `TRANSPORT_ERRORS`, among them `TimeoutError` for too long a gap, and `BadAnswer`.
        """
        chunk = await self._receive()
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise BadAnswer(_TOO_LARGE)
        return chunk

    async def drain(self) -> None:
        """Wait up to `_DRAIN_S` for the end of the body, and discard the rest."""
        if self._content.is_eof():
            return
        with contextlib.suppress(*TRANSPORT_ERRORS):
            async with asyncio.timeout(_DRAIN_S):
                while await self._content.readany():
                    pass

    async def _receive(self) -> bytes:
        if self._content.is_eof():
            chunk = self._content.read_nowait()  # the whole body is buffered
            self.has_begun |= bool(chunk)
            return chunk
        if self._timer is None and self.has_begun:
            self._timer = self._loop.call_later(self._gap_s, self._check_gap)
        self._waits_since = self._loop.time()
        chunk = await self._content.readany()
        self._waits_since = None
        self.has_begun = True
        return chunk

    def _check_gap(self) -> None:
        """End the read if the gap is too long, else check again when it would be."""
        now = self._loop.time()
        since = now if self._waits_since is None else self._waits_since
        if now - since >= self._gap_s:
            self._content.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_at(since + self._gap_s, self._check_gap)
