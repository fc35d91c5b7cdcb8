"""Reads the body of an answer: decompresses it, and limits its size and the gaps between its chunks."""

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import aiohttp

from server.inference.inflating import BadCoding, Inflater, inflater_for
from server.inference.protocol import BROKEN_OFF, UpstreamError
from server.inference.transport import TRANSPORT_ERRORS

MAX_ANSWER_BYTES = 512 * 1024 * 1024
"""Decompressed."""
_DRAIN_S = 0.1
"""The wait for the end of the body after the last event, so that the connection can be reused."""

_BAD_CODING = UpstreamError("The model provider's answer could not be unpacked.", is_transient=True)
_TOO_LARGE = UpstreamError("The model provider's answer was larger than this server accepts.")


class BadAnswer(Exception):
    """The rest of the answer cannot be read; `error` is the reason."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


class AnswerBody:
    """`gap_s` is the longest gap between chunks after the first byte. Only the request's timeout limits the first byte.

    One timer serves all chunks, because a timeout for each chunk would cost as much as reading it.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, gap_s: float) -> None:
        self.has_begun = False
        self._content = response.content
        self._gap_s = gap_s
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._waits_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pieces: Iterator[bytes] = iter(())
        try:
            self._inflater = inflater_for(response.headers)
        except BadCoding as error:
            raise BadAnswer(_BAD_CODING) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def read(self) -> bytes:
        """The next bytes, b"" at the end.

        Raises `TRANSPORT_ERRORS`, among them `TimeoutError` for too long a gap, and `BadAnswer`.
        """
        chunk = await self._receive() if self._inflater is None else await self._unpack(self._inflater)
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

    async def _unpack(self, inflater: Inflater) -> bytes:
        try:
            while not (piece := next(self._pieces, b"")):
                chunk = await self._receive()
                if not chunk:
                    if self.has_begun and not inflater.is_complete:
                        raise BadAnswer(BROKEN_OFF)
                    break
                self._pieces = inflater.feed(chunk)
        except BadCoding as error:
            raise BadAnswer(_BAD_CODING) from error
        return piece
