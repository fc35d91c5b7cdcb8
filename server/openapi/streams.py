"""The operations that follow model requests, and those that end them."""

from server.errors import Conflict, Invalid, NotFound
from server.openapi import examples
from server.openapi.operation import SIGNED_IN, USUAL, Operation
from server.openapi.parts import empty_answer, event_answer, header, json_answer, path, query
from server.openapi.schemas import ref

_ID = path("id", "The request's id.", {"type": "string", "format": "uuid"})
_TAG = "Model requests"

STREAMS = (
    Operation(
        "stream_request",
        "get",
        "/api/requests/{id}/events",
        _TAG,
        "Follow one model request to its end",
        {
            "200": event_answer(
                "Server-sent events: `status`, `delta` (segment and text), `reset` (the text starts anew), then "
                "exactly one of `completed`, `failed` or `cancelled` with the object. A server that stops first says "
                "`retry:` instead.",
                example=examples.STREAM,
            ),
            "204": empty_answer("The client has had all of it."),
        },
        description="Resumes after any event, while the request runs and after its end, on any instance.",
        alias="/requests/{id}/events",
        parameters=(
            _ID,
            query("after", "The id of the last event that was received.", {"type": "string", "examples": ["1.1-14"]}),
            header("Last-Event-ID", "The same, as an EventSource sends it by itself.", {"type": "string"}),
        ),
        problems=(NotFound, Invalid, *SIGNED_IN, *USUAL),
    ),
    Operation(
        "stream_changes",
        "get",
        "/api/requests/events",
        _TAG,
        "Follow all requests of the user",
        {
            "200": event_answer(
                "Server-sent events: `snapshot` with those that are not final, then `status` for every change.",
                example=examples.FEED,
            )
        },
        description="It does not resume: who comes back gets a new snapshot.",
        alias="/requests/events",
        problems=(*SIGNED_IN, *USUAL),
    ),
    Operation(
        "cancel_request",
        "post",
        "/api/requests/{id}/cancel",
        _TAG,
        "Cancel a model request",
        {
            "200": json_answer(
                "Cancelled, now or before; text that had come is kept, marked as partial.",
                ref("ModelRequest"),
                examples={"cancelled": examples.CANCELLED},
                header_names=("ETag",),
            ),
            "202": json_answer(
                "Asked for; the instance that runs it has not answered yet.",
                ref("ModelRequest"),
                examples={"running": examples.RUNNING},
                header_names=("Location", "Retry-After", "ETag"),
            ),
        },
        description="The call to the model is stopped, wherever it runs.",
        alias="/requests/{id}/cancel",
        parameters=(_ID,),
        problems=(NotFound, Conflict, *SIGNED_IN, *USUAL),
    ),
    Operation(
        "delete_request",
        "delete",
        "/api/requests/{id}",
        _TAG,
        "Forget a model request",
        {"204": empty_answer("It is gone, with its files.")},
        description="One that runs is cancelled first.",
        alias="/requests/{id}",
        parameters=(_ID,),
        problems=(NotFound, *SIGNED_IN, *USUAL),
    ),
)
