"""Reads the bytes of an upload from a request: the body itself, or the part of a form that is named `file`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from aiohttp.helpers import parse_mimetype
from aiohttp.http_exceptions import BadHttpMessage

from server.errors import BadSyntax, BodyTimeout, UnsupportedMedia
from server.files.uploads import too_large
from server.http.bodies import NOT_WHOLE, is_encoded, require_whole, say_continue

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

GAP_S = 30.0
"""The longest time between two pieces of a body. The total time is not limited."""
_CHUNK_BYTES = 64 * 1024
_FORM_BYTES = 64 * 1024
"""The size of a form without its file: other fields are read and ignored."""
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
        form = _Form(request)
        part = await form.open_file()
        return IncomingFile(_declared_type(part.headers), size, form.read(part))
    return IncomingFile(declared, size, _read(request))


def _declared_type(headers: Mapping[str, str]) -> str:
    return headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


async def _read(request: web.Request) -> AsyncIterator[bytes]:
    while chunk := await _in_time(request.content.read(_CHUNK_BYTES)):
        yield chunk
    require_whole(request)


class _FormReader(MultipartReader):
    """A form begins with its boundary, after an empty line at most.

    aiohttp skips all lines before it: a megabyte of empty lines would block the event loop for seconds. The type of a
    part does not matter here, and one that says `multipart/…` is no form within the form.
    """

    async def _read_until_first_boundary(self) -> None:
        line = (await self._readline()).rstrip() or (await self._readline()).rstrip()
        if line != self._boundary:
            raise ValueError("there is something before the first part")

    def _get_part_reader(self, headers: "CIMultiDictProxy[str]") -> BodyPartReader:
        return BodyPartReader(self._boundary, headers, self._content, subtype="form-data")


class _Form:
    """A form with one part named `file`. Its other parts are ignored, up to `_FORM_BYTES` together."""

    def __init__(self, request: web.Request) -> None:
        if not parse_mimetype(request.headers[hdrs.CONTENT_TYPE]).parameters.get("boundary"):
            raise BadSyntax(
                "The Content-Type multipart/form-data has no boundary. Do not set this header: the HTTP client sets it "
                "together with the boundary."
            )
        self._request = request
        self._left = _FORM_BYTES
        with _naming_faults():
            self._reader = _FormReader(request.headers, request.content, max_headers=_MAX_PART_HEADERS)

    async def open_file(self) -> BodyPartReader:
        """The part named `file`. Raises `BadSyntax` where there is none."""
        with _naming_faults():
            part = await self._next()
        if part is None:
            raise _bad_form()
        return part

    async def read(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        """The bytes of the file. Raises `BadSyntax` if a second file follows."""
        with _naming_faults():
            while chunk := await _in_time(part.read_chunk(_CHUNK_BYTES)):
                yield chunk
            if await self._next() is not None:
                raise _bad_form()
        require_whole(self._request)

    async def _next(self) -> BodyPartReader | None:
        """The next part named `file`; None at the end of the form."""
        while (part := await _in_time(self._reader.next())) is not None:
            if not isinstance(part, BodyPartReader) or not part.name:
                raise _bad_form()
            if part.name == "file":
                return part
            self._charge(sum(len(name) + len(value) for name, value in part.headers.items()))
            while chunk := await _in_time(part.read_chunk(_CHUNK_BYTES)):
                self._charge(len(chunk))
        return None

    def _charge(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise BadSyntax(f"The fields of the form besides the file may have {_FORM_BYTES // 1024} KiB in all.")


@contextlib.contextmanager
def _naming_faults() -> Iterator[None]:
    try:
        yield
    except (ValueError, AssertionError, RuntimeError, BadHttpMessage) as error:
        raise _bad_form() from error


async def _in_time(reading: Awaitable[Got]) -> Got:
    try:
        async with asyncio.timeout(GAP_S):
            return await reading
    except TimeoutError:
        raise BodyTimeout(f"Nothing of the file came for {GAP_S:g} s.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadSyntax(NOT_WHOLE) from None


def _bad_form() -> BadSyntax:
    return BadSyntax("Send one file: as the body, or as the one part named 'file' of a multipart/form-data form.")
