"""Request bodies in parts, files among them, with an exact length and without a copy in memory."""

import asyncio
import contextlib
from binascii import b2a_base64
from collections.abc import AsyncGenerator
from typing import cast

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter

from server.errors import Problem, Unavailable
from server.inference.events import InputFile
from server.inference.protocol import FilePart, UpstreamError

SLICE_BYTES = 64 * 1024
"""The amount that aiohttp writes before it waits for the peer."""
STORE_SILENCE_S = 30.0
"""The longest wait for a chunk of an input file. Without it a blocked store would look like a silent model."""
_BASE64_GROUP = 3

Parts = tuple[bytes | FilePart, ...]

log = structlog.get_logger(__name__)


class InputFault(Exception):
    """The input could not be read; upstream is not at fault. `error` has the message for the user."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(error.message)
        self.error = error


class PartsBody(aiohttp.Payload):
    """Sends one part after the other. `fault` is set when an input file cannot be read.

    A body that stops half-way aborts its connection: an orderly close would wait for the peer to read all buffered
    bytes.
    """

    _autoclose = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._parts = parts
        self._size = sum(part.size if isinstance(part, FilePart) else len(part) for part in parts)
        self.fault: InputFault | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's
        raise TypeError("a body in parts is never in memory as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = cast("StreamWriter", writer).transport
        try:
            for part in self._parts:
                async with contextlib.aclosing(self._chunks(part)) as chunks:
                    async for chunk in chunks:
                        await writer.write(chunk)
        except BaseException:
            if transport is not None:
                transport.abort()
            raise

    async def _chunks(self, part: bytes | FilePart) -> AsyncGenerator[bytes, None]:
        if isinstance(part, bytes):
            for start in range(0, len(part), SLICE_BYTES):
                yield part[start : start + SLICE_BYTES]
            return
        try:
            read = _encode(part.file) if part.is_base64 else _read(part.file)
            async with contextlib.aclosing(read) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:
            self.fault = _fault_of(error)
            raise


async def _read(file: InputFile) -> AsyncGenerator[bytes, None]:
    """Exactly the announced number of bytes; raises `EOFError` for more or fewer."""
    left = file.size
    chunks = file.open()
    try:
        while left >= 0:
            async with asyncio.timeout(STORE_SILENCE_S):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            left -= len(chunk)
            if left >= 0:
                yield chunk
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
    if left != 0:
        raise EOFError("the file does not have its size")


async def _encode(file: InputFile) -> AsyncGenerator[bytes, None]:
    """Base64 encodes groups of three bytes: the rest of a chunk goes with the next one."""
    rest = b""
    async with contextlib.aclosing(_read(file)) as chunks:
        async for chunk in chunks:
            joined = rest + chunk if rest else chunk
            whole = len(joined) - len(joined) % _BASE64_GROUP
            rest = joined[whole:]
            if whole:
                yield b2a_base64(memoryview(joined)[:whole], newline=False)
    if rest:
        yield b2a_base64(rest, newline=False)


def _fault_of(error: Exception) -> InputFault:
    """Only an unavailable store is a transient fault."""
    log.warning("input_file_failed", reason=type(error).__name__)
    said = f" {error.detail}" if isinstance(error, Problem) else ""
    if isinstance(error, Unavailable):
        return InputFault(
            UpstreamError(
                f"An input file could not be read.{said}",
                is_transient=True,
                retry_after_s=error.retry_after_s,
                max_retries=0,
            )
        )
    return InputFault(UpstreamError(f"An input file could not be read.{said}"))
