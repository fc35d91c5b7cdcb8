"""Stored files as responses: whole, in part, or headers only, streamed at the speed of the client.

The bytes always pass through this server. A signed URL of the store would outlive the file, could not have `nosniff` or
`sandbox`, requires CORS of the bucket, and is refused if a client sends its `Authorization` header with it.
"""

import asyncio

import structlog
from aiohttp import Payload, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from server.errors import NotFound, Problem, RangeNotSatisfiable
from server.files.stored import StoredFile
from server.http.entity_tags import has_tag
from server.http.keys import OBJECTS
from server.http.ranges import Part, Unsatisfiable, read_range
from server.storage.objects import ObjectKey, OpenObject, content_type_of

STALL_S = 60.0
"""A client that takes longer for a piece counts as gone, so that it does not hold a connection of the store."""
PIECE = 64 * 1024

log = structlog.get_logger(__name__)


async def answer_file(request: web.Request, file: StoredFile, *, name: str) -> web.Response:
    """The response for a file. Raises `RangeNotSatisfiable` and the errors of the store, before the first byte."""
    headers = _headers(file, name)
    etag = headers[hdrs.ETAG]
    if has_tag(request, etag):
        return web.Response(status=304, headers=headers)
    headers[hdrs.CONTENT_TYPE] = content_type_of(file.key)
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers=headers | {hdrs.CONTENT_LENGTH: str(file.size)})
    part = _part(request, file, etag)
    if part is not None:
        headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.end - 1}/{file.size}"
    opened = await _open(request, file, part)
    return web.Response(status=200 if part is None else 206, headers=headers, body=_FileBody(opened, file.key))


def _headers(file: StoredFile, name: str) -> dict[str, str]:
    """A browser displays the file but runs nothing in it, and may cache it for its owner without limit."""
    extension = file.key.rpartition(".")[2]
    return {
        hdrs.ETAG: f'"{file.id}"',
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CACHE_CONTROL: "private, max-age=31536000, immutable",
        hdrs.CONTENT_DISPOSITION: f'inline; filename="{name}.{extension}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        hdrs.VARY: hdrs.AUTHORIZATION,
    }


def _part(request: web.Request, file: StoredFile, etag: str) -> Part | None:
    """The requested part; None for the whole file, also when `If-Range` names another version."""
    if request.headers.get(hdrs.IF_RANGE, etag) != etag:
        return None
    try:
        return read_range(request.headers.get(hdrs.RANGE), file.size)
    except Unsatisfiable:
        raise RangeNotSatisfiable(
            f"The file has {file.size} bytes: the range begins beyond its end.",
            headers={hdrs.CONTENT_RANGE: f"bytes */{file.size}"},
        ) from None


async def _open(request: web.Request, file: StoredFile, part: Part | None) -> OpenObject:
    start, end = (0, None) if part is None else part
    objects = request.app[OBJECTS]
    try:
        opened = await objects.get(file.key, start=start, end=end)
    except NotFound:  # its row is there
        raise objects.report_elsewhere(file.key) from None
    if opened.size != file.size:
        log.error("file_of_another_size", key=file.key, size=opened.size, expected=file.size)
        raise NotFound("The file is damaged.")
    return opened


class _FileBody(Payload):
    """A body of known length from the store. If the store fails, the connection ends before the announced length."""

    def __init__(self, opened: OpenObject, key: ObjectKey) -> None:
        super().__init__(opened)
        self._opened = opened
        self._key = key
        self._size = opened.end - opened.start

    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            async for chunk in self._opened.chunks:
                for start in range(0, len(chunk), PIECE):
                    async with asyncio.timeout(STALL_S):
                        await writer.write(memoryview(chunk)[start : start + PIECE])
        except (Problem, TimeoutError) as error:
            log.warning("file_cut_off", key=self._key, reason=type(error).__name__)
            raise ConnectionResetError("the file could not be sent to its end") from error

    async def close(self) -> None:
        await self._opened.chunks.aclose()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - as its base has them
        raise TypeError("a file is not text")
