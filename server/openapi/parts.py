"""What operations are made of: parameters, headers, and the answers to them."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from server.errors import Problem
from server.openapi.examples import error_example
from server.openapi.schemas import Schema, ref

JSON = "application/json"
EVENTS = "text/event-stream"

HEADERS: dict[str, str] = {
    "X-Request-Id": "Names this exchange in the server's logs; taken over from the call where it sent one.",
    "RateLimit": "What is left of the limit that was applied, and the seconds until it is whole again.",
    "RateLimit-Policy": "The limit that was applied, and its window in seconds.",
    "Retry-After": "Seconds to wait before trying again.",
    "Location": "Where the request, or the file, can be read from now on.",
    "ETag": "Changes with what the answer shows.",
    "Link": 'The next page, as `<…>; rel="next"`; missing on the last page.',
    "Preference-Applied": "What of the Prefer header was followed.",
    "Accept-Ranges": "bytes: parts of the file can be asked for.",
    "Content-Length": "How many bytes the body has.",
    "Content-Range": "Which bytes of how many these are.",
    "Content-Disposition": "A name for the file.",
    "Content-Security-Policy": "Nothing in the file may run in a browser.",
    "Idempotent-Replayed": "true where an earlier call with this Idempotency-Key had created the request.",
    "WWW-Authenticate": "How to authenticate.",
    "Allow": "The methods that this path answers to.",
    "Vary": "The answer depends on these headers.",
}
_LIMITED = ("RateLimit", "RateLimit-Policy")
_ERROR_HEADERS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.METHOD_NOT_ALLOWED: ("Allow",),
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ("Content-Range",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", *_LIMITED),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}


def component_headers() -> dict[str, Schema]:
    return {name: {"description": description, "schema": {"type": "string"}} for name, description in HEADERS.items()}


def headers(*names: str) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def json_answer(
    description: str,
    schema: Schema,
    *,
    examples: Mapping[str, Any],
    header_names: Iterable[str] = (),
    is_limited: bool = True,
    stream: str | None = None,
) -> Schema:
    """An answer with a JSON body; `is_limited`: it says what is left of the rate limit. `stream`: as events, too."""
    content = {JSON: {"schema": schema, "examples": _named(examples)}}
    if stream is not None:
        content[EVENTS] = {"schema": {"type": "string"}, "examples": _named({"stream": stream})}
    return {
        "description": description,
        "headers": headers(*header_names, *(_LIMITED if is_limited else ())),
        "content": content,
    }


def event_answer(description: str, *, example: str) -> Schema:
    """An answer that is a stream of server-sent events."""
    return {
        "description": description,
        "headers": headers(*_LIMITED),
        "content": {EVENTS: {"schema": {"type": "string"}, "examples": _named({"stream": example})}},
    }


def binary_answer(description: str, *header_names: str) -> Schema:
    """An answer whose body is a file."""
    return {
        "description": description,
        "headers": headers(*header_names),
        "content": {media: {"schema": {}} for media in ("image/*", "audio/*", "video/*", "application/octet-stream")},
    }


def empty_answer(description: str, *header_names: str) -> Schema:
    return {"description": description, "headers": headers(*header_names)}


def component_responses(every_set: Iterable[Iterable[type[Problem]]]) -> dict[str, Schema]:
    """A response for each group of errors of one status in one of these sets, with an example for each of them."""
    groups = {
        (status, _response_name(kinds)): kinds for problems in every_set for status, kinds in _by_status(problems)
    }
    return {name: _error_answer(status, groups[status, name]) for status, name in sorted(groups)}


def error_answers(problems: Iterable[type[Problem]]) -> dict[str, Schema]:
    """References to the responses of these errors, by status."""
    return {
        str(status): {"$ref": f"#/components/responses/{_response_name(kinds)}"}
        for status, kinds in _by_status(problems)
    }


def _by_status(problems: Iterable[type[Problem]]) -> list[tuple[int, list[type[Problem]]]]:
    groups: dict[int, list[type[Problem]]] = {}
    for problem in dict.fromkeys(problems):
        groups.setdefault(problem.status, []).append(problem)
    return sorted(groups.items())


def _response_name(kinds: Iterable[type[Problem]]) -> str:
    return "Or".join(kind.__name__ for kind in kinds)


def _error_answer(status: int, kinds: list[type[Problem]]) -> Schema:
    return {
        "description": " / ".join(f"{kind.title} ({kind.code})" for kind in kinds),
        "headers": headers(*_ERROR_HEADERS.get(HTTPStatus(status), ())),
        "content": {
            JSON: {
                "schema": ref("Problem"),
                "examples": _named({kind.__name__: error_example(kind) for kind in kinds}),
            }
        },
    }


def _named(values: Mapping[str, Any]) -> dict[str, Schema]:
    return {name: {"value": value} for name, value in values.items()}


def query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def path(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
