"""Files over HTTP: uploads are taken, shown and deleted; what a request made is shown."""

import functools
import re

from aiohttp import hdrs, web

from server.auth.principal import Scope
from server.errors import Conflict, NotFound, RangeNotSatisfiable, RateLimited, Unavailable
from server.files.stored import NO_OUTPUT, NO_UPLOAD
from server.http import keys
from server.http.file_responses import answer_file
from server.http.marks import refused_under_overload
from server.http.parameters import read_uuid
from server.http.responses import json_response, link_to
from server.http.uploads import open_body
from server.model_request import RequestId
from server.openapi import parts
from server.openapi.objects import UploadedFileObject
from server.openapi.operation import Operation, Route

_NUMBER = re.compile(r"0|[1-9]\d{0,3}", re.ASCII)
_SHUTDOWN_RETRY_S = 5.0
HELD_BYTES = 16 * 1024 * 1024
"""The memory of an upload of any size: a part on its way to the store, the next one, and the copies in between."""


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Files")
    media_types = ("image/*", "audio/*", "video/*", "application/octet-stream")
    form = {"type": "object", "required": ["file"], "properties": {"file": parts.BINARY}}
    file_id, common = parts.path("id", "The file's id.", parts.UUID), ("ETag", "Accept-Ranges", "Content-Length")
    number = parts.path("number", "Which of its files, from 0.", {"type": "integer", "minimum": 0})
    shown = {
        "200": parts.binary_answer("All of it.", *common, "Content-Disposition", "Content-Security-Policy"),
        "206": parts.binary_answer("The part that `Range` asks for.", *common, "Content-Range"),
        "304": parts.empty_answer("The client has it already: `If-None-Match` names it.", "ETag"),
    }
    ranges = parts.TEXT | {"examples": ["bytes=0-1023", "bytes=-500"]}
    conditions = (
        parts.header("Range", "One range of bytes; several are answered by the whole file.", ranges),
        parts.header("If-Range", "An ETag: the range counts only if it is still this file."),
        parts.header("If-None-Match", "An ETag: 304 if it is still this file."),
    )
    # openapi-python-client 0.29 makes code that does not import of two kinds of body without an optional parameter.
    trace = parts.header("X-Request-Id", "Names the upload in the server's logs.")
    stored = "It is stored. Refer to it as `file:<id>` in the input of a request."
    return (
        route("POST", "/api/files", upload, Operation(
            "upload_file", "Upload an image or audio, to be the input of requests",
            {"201": parts.json_answer(stored, UploadedFileObject, "Location")},
            "The body is the file itself, or a form with the file as the part named `file`. Its first bytes decide "
            "its type, whatever type is declared. A file that no request uses within a day is deleted; a used one goes "
            "with its request.",
            parameters=(trace,), body={**dict.fromkeys(media_types, parts.BINARY), "multipart/form-data": form},
            scope=Scope.CREATE,
        )),
        route("GET", "/api/files/{id}", get_upload, Operation(
            "get_file", "An uploaded file", shown, parameters=(file_id, *conditions),
            problems=(NotFound, RangeNotSatisfiable), scope=Scope.READ,
        )),
        route("DELETE", "/api/files/{id}", delete_upload, Operation(
            "delete_file", "Delete an uploaded file", {"204": parts.empty_answer("It is gone.")}, parameters=(file_id,),
            problems=(NotFound, Conflict), scope=Scope.CREATE,
        )),
        route("GET", "/api/requests/{id}/files/{number}", get_output, Operation(
            "get_request_file", "A file that a completed request made", shown,
            parameters=(parts.REQUEST_ID, number, *conditions),
            problems=(NotFound, RangeNotSatisfiable), scope=Scope.READ,
        )),
    )  # fmt: skip


@refused_under_overload
async def upload(request: web.Request) -> web.Response:
    """Take a file in, as a stream. It counts as a create, and is there when this has answered."""
    user_id = request[keys.PRINCIPAL].user_id
    await _count_as_create(request)
    if not request.app[keys.LIFECYCLE].accepts_work:
        reason = request.app[keys.LIFECYCLE].reason
        raise Unavailable(f"Not accepting files: {reason}.", retry_after_s=_SHUTDOWN_RETRY_S)
    uploads = request.app[keys.UPLOADS]
    size = request.content_length
    with request.app[keys.UPLOAD_MEMORY].reserve(user_id, HELD_BYTES if size is None else min(size, HELD_BYTES)):
        incoming = await open_body(request, max_bytes=uploads.max_bytes)
        taken = await uploads.take(user_id, incoming.chunks, declared_type=incoming.declared_type, size=incoming.size)
    body = {
        "id": str(taken.id),
        "content_type": taken.content_type,
        "size": taken.size,
        "created_at": taken.created_at,
    }
    prefix = "/api" if request.path.startswith("/api/") else ""
    return json_response(body, status=201, headers={hdrs.LOCATION: link_to(request, f"{prefix}/files/{taken.id}")})


async def get_upload(request: web.Request) -> web.StreamResponse:
    """The bytes of an upload, or a part of them."""
    file_id = read_uuid(request.match_info["id"], otherwise=NO_UPLOAD)
    file = await request.app[keys.FILES].upload(request[keys.PRINCIPAL].user_id, file_id)
    return await answer_file(request, file, name=str(file_id))


async def delete_upload(request: web.Request) -> web.Response:
    """Delete the file for its user at once. The collector deletes its bytes soon after."""
    file_id = read_uuid(request.match_info["id"], otherwise=NO_UPLOAD)
    await request.app[keys.UPLOADS].delete(request[keys.PRINCIPAL].user_id, file_id)
    return web.Response(status=204)


async def get_output(request: web.Request) -> web.StreamResponse:
    """A file that a completed request made, or a part of it."""
    request_id, number = read_uuid(request.match_info["id"], otherwise=NO_OUTPUT), request.match_info["number"]
    if not _NUMBER.fullmatch(number):
        raise NotFound(NO_OUTPUT)
    file = await request.app[keys.FILES].output(request[keys.PRINCIPAL].user_id, RequestId(request_id), int(number))
    return await answer_file(request, file, name=f"{request_id}-{number}")


async def _count_as_create(request: web.Request) -> None:
    result = await request.app[keys.CREATE_LIMITER].check(request[keys.PRINCIPAL].user_id)
    request[keys.RATE_LIMIT] = result
    if result is not None and not result.allowed:
        raise RateLimited("Too many requests; slow down.", retry_after_s=result.retry_after_s)
