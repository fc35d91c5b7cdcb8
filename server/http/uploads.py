"""Reads the bytes of an upload from a request: the body itself, or the only part of a form, named `file`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from server.errors import BadSyntax, BodyTimeout, UnsupportedMedia
from server.files.uploads import too_large
from server.http.bodies import is_encoded, say_continue

GAP_S = 30.0
"""The longest time between two pieces of a body. The total time is not limited."""
_CHUNK_BYTES = 64 * 1024
_FORM_BYTES = 64 * 1024
"""The size of a form without its file."""
_MAX_PART_HEADERS = 64
_FORM = "multipart/form-data"

Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """An upload: its declared type, its bytes, and their maximum number if known."""

    declared_type: str
    size: int | None
    chunks: AsyncIterator[bytes]


async def open_body(request: web.Request, *, max_bytes: int) -> IncomingFile:
    """Begin to read an upload. `Expect: 100-continue` is answered after all checks of the headers.

    Raises `BadSyntax`, `UnsupportedMedia`, `BodyTooLarge` and `BodyTimeout`, as the chunks do.
    """
    if is_encoded(request):
        raise UnsupportedMedia("Send the file without Content-Encoding.")
    declared = _declared_type(request.headers)
    is_form = declared == _FORM
    size = request.content_length
    if size is not None and size > max_bytes + (_FORM_BYTES if is_form else 0):
        raise too_large(max_bytes)
    await say_continue(request)
    if is_form:
        part, reader = await _open_form(request)
        return IncomingFile(_declared_type(part.headers), size, _read_form(part, reader))
    return IncomingFile(declared, size, _read(request))


def _declared_type(headers: Mapping[str, str]) -> str:
    return headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


async def _read(request: web.Request) -> AsyncIterator[bytes]:
    while chunk := await _in_time(request.content.read(_CHUNK_BYTES)):
        yield chunk


class _FormReader(MultipartReader):
    """A form begins with its boundary, after an empty line at most.

    aiohttp skips all lines before it: a megabyte of empty lines would block the event loop for seconds.
    """

    async def _read_until_first_boundary(self) -> None:
        line = (await self._readline()).rstrip() or (await self._readline()).rstrip()
        if line != self._boundary:
            raise ValueError("there is something before the first part")


async def _open_form(request: web.Request) -> tuple[BodyPartReader, MultipartReader]:
    try:
        reader = _FormReader(request.headers, request.content, max_headers=_MAX_PART_HEADERS)
        part = await _in_time(reader.next())
        if isinstance(part, BodyPartReader) and part.name == "file":
            return part, reader
    except (ValueError, AssertionError, RuntimeError, BadHttpMessage) as error:
        raise _bad_form() from error
    raise _bad_form()


async def _read_form(part: BodyPartReader, reader: MultipartReader) -> AsyncIterator[bytes]:
    try:
        while chunk := await _in_time(part.read_chunk(_CHUNK_BYTES)):
            yield chunk
        if await _in_time(reader.next()) is not None:
            raise _bad_form()
    except (ValueError, AssertionError, RuntimeError, BadHttpMessage) as error:
        raise _bad_form() from error


async def _in_time(reading: Awaitable[Got]) -> Got:
    try:
        async with asyncio.timeout(GAP_S):
            return await reading
    except TimeoutError:
        raise BodyTimeout(f"Nothing of the file came for {GAP_S:g} s.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadSyntax("The body ended early or is not framed as its headers say.") from None


def _bad_form() -> BadSyntax:
    return BadSyntax("Send one file: as the body, or as the only part, named 'file', of a multipart/form-data form.")
