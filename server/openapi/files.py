"""The operations on files."""

from server.errors import Conflict, NotFound, RangeNotSatisfiable
from server.openapi.operation import SIGNED_IN, UPLOAD, USUAL, Operation
from server.openapi.parts import binary_answer, empty_answer, header, json_answer, path
from server.openapi.schemas import Schema, ref

_FILE_EXAMPLE = {
    "id": "01a213da-a37a-77e3-816c-29f69867836f",
    "content_type": "image/png",
    "size": 48_213,
    "created_at": "2026-11-25T08:00:00.123456Z",
}
_ID = path("id", "The file's id.", {"type": "string", "format": "uuid"})
_BINARY: Schema = {}
"""Bytes, of whatever the media type says: OpenAPI 3.1 says nothing about them."""
_SHOWN = {
    "200": binary_answer(
        "All of it.", "ETag", "Accept-Ranges", "Content-Length", "Content-Disposition", "Content-Security-Policy"
    ),
    "206": binary_answer("The part that `Range` asks for.", "ETag", "Accept-Ranges", "Content-Length", "Content-Range"),
    "304": empty_answer("The client has it already: `If-None-Match` names it.", "ETag"),
}
_CONDITIONS = (
    header(
        "Range",
        "One range of bytes; several are answered by the whole file.",
        {"type": "string", "examples": ["bytes=0-1023", "bytes=-500"]},
    ),
    header("If-Range", "An ETag: the range counts only if it is still this file.", {"type": "string"}),
    header("If-None-Match", "An ETag: 304 if it is still this file.", {"type": "string"}),
)

FILES = (
    Operation(
        "upload_file",
        "post",
        "/api/files",
        "Files",
        "Upload an image or audio, to be the input of requests",
        {
            "201": json_answer(
                "It is stored. Refer to it as `file:<id>` in the input of a request.",
                ref("File"),
                examples={"stored": _FILE_EXAMPLE},
                header_names=("Location",),
            )
        },
        description=(
            "The body is the file itself, or a form with the file as its only part, named `file`. Its first bytes "
            "decide what it is. What no request uses within a day is deleted; what one uses goes with that request."
        ),
        alias="/files",
        content={
            "image/*": _BINARY,
            "audio/*": _BINARY,
            "video/mp4": _BINARY,
            "video/webm": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}},
        },
        problems=(*UPLOAD, *SIGNED_IN, *USUAL),
    ),
    Operation(
        "get_file",
        "get",
        "/api/files/{id}",
        "Files",
        "An uploaded file",
        _SHOWN,
        alias="/files/{id}",
        parameters=(_ID, *_CONDITIONS),
        problems=(NotFound, RangeNotSatisfiable, *SIGNED_IN, *USUAL),
    ),
    Operation(
        "delete_file",
        "delete",
        "/api/files/{id}",
        "Files",
        "Delete an uploaded file",
        {"204": empty_answer("It is gone.")},
        alias="/files/{id}",
        parameters=(_ID,),
        problems=(NotFound, Conflict, *SIGNED_IN, *USUAL),
    ),
    Operation(
        "get_request_file",
        "get",
        "/api/requests/{id}/files/{number}",
        "Files",
        "A file that a completed request made",
        _SHOWN,
        alias="/requests/{id}/files/{number}",
        parameters=(
            path("id", "The request's id.", {"type": "string", "format": "uuid"}),
            path("number", "Which of its files, from 0.", {"type": "integer", "minimum": 0}),
            *_CONDITIONS,
        ),
        problems=(NotFound, RangeNotSatisfiable, *SIGNED_IN, *USUAL),
    ),
)
