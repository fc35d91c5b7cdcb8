"""The bytes of an answer as they come: unpacked where they were packed, within a size and without long silences."""

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
"""Unpacked, whatever the reader of the answer would still take."""
_LINGER_S = 0.1
"""After the end of a stream, for the end of its body, without which the connection could not be used again."""

_NOT_UNPACKED = UpstreamError("The model provider's answer could not be unpacked.", is_transient=True)
_ENDLESS = UpstreamError("The model provider's answer was larger than this server takes.")


class BadAnswer(Exception):
    """The answer cannot be read on; `error` says why."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


class AnswerBody:
    """`gap_s` is the longest silence after the first byte, for which the time of the request is the only limit.

    One timer watches all chunks; a timeout around each of them costs as much as reading it.
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
            raise BadAnswer(_NOT_UNPACKED) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def read(self) -> bytes:
        """The next bytes, b"" at the end.

        Raises `TRANSPORT_ERRORS`, among them `TimeoutError` for too long a silence, and `BadAnswer`.
        """
        chunk = await self._receive() if self._inflater is None else await self._unpack(self._inflater)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise BadAnswer(_ENDLESS)
        return chunk

    async def linger(self) -> None:
        """Wait a moment for the end of a body of which nothing more is wanted, if it is not there yet."""
        if self._content.is_eof():
            return
        with contextlib.suppress(*TRANSPORT_ERRORS):
            async with asyncio.timeout(_LINGER_S):
                while await self._content.readany():
                    pass

    async def _receive(self) -> bytes:
        if self._content.is_eof():
            chunk = self._content.read_nowait()  # all of it is here: nothing to wait for
            self.has_begun |= bool(chunk)
            return chunk
        if self._timer is None and self.has_begun:
            self._timer = self._loop.call_later(self._gap_s, self._look)
        self._waits_since = self._loop.time()
        chunk = await self._content.readany()
        self._waits_since = None
        self.has_begun = True
        return chunk

    def _look(self) -> None:
        """End a silence that is too long; otherwise look again when the present one would be."""
        now = self._loop.time()
        since = now if self._waits_since is None else self._waits_since
        if now - since >= self._gap_s:
            self._content.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_at(since + self._gap_s, self._look)

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
            raise BadAnswer(_NOT_UNPACKED) from error
        return piece
