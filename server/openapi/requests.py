"""The operations on model requests."""

from server.errors import Invalid, KeyReused, NotFound
from server.openapi import examples
from server.openapi.operation import BODY, SIGNED_IN, USUAL, Operation
from server.openapi.parts import empty_answer, header, json_answer, path, query
from server.openapi.schemas import CREATE, ref

_PREFER = header(
    "Prefer",
    "`wait=N` holds the answer up to N seconds, `respond-async` answers at once (RFC 7240). "
    "Without it a create waits for DEFAULT_WAIT_S.",
    {"type": "string", "examples": ["respond-async", "wait=30"]},
)
_ID = path("id", "The request's id.", {"type": "string", "format": "uuid"})
_UNFINISHED = json_answer(
    "Accepted, stored, and not final yet. Never an error: the work goes on.",
    ref("ModelRequest"),
    examples={"running": examples.RUNNING},
    header_names=("Location", "Retry-After", "ETag", "Preference-Applied", "Idempotent-Replayed"),
)
_MOMENT = {"type": "string", "format": "date-time", "examples": ["2026-11-23T08:00:00Z"]}

REQUESTS = (
    Operation(
        "create_request",
        "post",
        "/api/requests",
        "Model requests",
        "Create a model request and wait for its answer",
        {
            "200": json_answer(
                "Final: completed, or failed with error_code and error_msg.",
                ref("ModelRequest"),
                examples={"completed": examples.COMPLETED, "failed": examples.FAILED},
                header_names=("ETag", "Preference-Applied", "Idempotent-Replayed"),
                stream=examples.STREAM,
            ),
            "202": _UNFINISHED,
        },
        description="With `Accept: text/event-stream` the answer is the stream of `GET /api/requests/{id}/events`. "
        "Answered only after the request is stored: from then on it is never lost and ends exactly once.",
        alias="/requests",
        body=CREATE,
        parameters=(
            _PREFER,
            header(
                "Idempotency-Key",
                "Makes a repeated call safe: the same key with the same body gives the same request, for 24 hours.",
                {"type": "string", "minLength": 1, "maxLength": 255},
            ),
        ),
        problems=(*BODY, *SIGNED_IN, KeyReused, *USUAL),
    ),
    Operation(
        "list_requests",
        "get",
        "/api/requests",
        "Model requests",
        "The user's history, newest first",
        {
            "200": json_answer(
                "A page, as a bare array.",
                {"type": "array", "items": ref("ModelRequest")},
                examples={"page": [examples.COMPLETED]},
                header_names=("Link",),
            )
        },
        description="The next page is the one that the Link header names; a page ends early at 4 MiB.",
        alias="/requests",
        parameters=(
            query("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
            query("cursor", "Taken from the Link header.", {"type": "string", "format": "uuid"}),
            query("status", "Only those in this status.", ref("Status")),
            query("model_type", "Only those of this model type.", {"type": "string", "maxLength": 64}),
            query("created_after", "Only later ones.", _MOMENT),
            query("created_before", "Only earlier ones.", _MOMENT),
        ),
        problems=(Invalid, *SIGNED_IN, *USUAL),
    ),
    Operation(
        "get_request",
        "get",
        "/api/requests/{id}",
        "Model requests",
        "One model request, now or as soon as it is final",
        {
            "200": json_answer(
                "As it stands.",
                ref("ModelRequest"),
                examples={"completed": examples.COMPLETED, "running": examples.RUNNING, "failed": examples.FAILED},
                header_names=("ETag", "Preference-Applied"),
            ),
            "304": empty_answer("Still in the state that If-None-Match names.", "ETag", "Preference-Applied"),
        },
        alias="/requests/{id}",
        parameters=(
            _ID,
            query("wait", "Seconds to wait for the end.", {"type": "number", "minimum": 0, "examples": [30]}),
            _PREFER,
            header(
                "If-None-Match",
                "An ETag: with a wait, any change from that state ends it.",
                {"type": "string", "examples": ['"1-processing"']},
            ),
        ),
        problems=(NotFound, Invalid, *SIGNED_IN, *USUAL),
    ),
)
