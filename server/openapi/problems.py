"""The answers to errors: a response for each group of errors of one status, with an example of each."""

from collections.abc import Iterable, Iterator
from typing import Any

from server import errors
from server.errors import Problem
from server.openapi.parts import JSON, Schema, header_refs, ref

_HEADERS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    416: ("Content-Range",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
}
_DETAILS: dict[type[Problem], str] = {
    errors.BadSyntax: "The body is not valid JSON: unexpected end of data at line 1, column 18.",
    errors.Invalid: "input_data.prompt: is required.",
    errors.BodyTimeout: "The body did not arrive within 15 s.",
    errors.BodyTooLarge: "The body may have at most 262144 bytes.",
    errors.UnsupportedMedia: "Send JSON, with the header 'Content-Type: application/json'.",
    errors.RangeNotSatisfiable: "The file has 48213 bytes: the range begins beyond its end.",
    errors.Unauthenticated: errors.Unauthenticated().detail,
    errors.Forbidden: "This account may not do that.",
    errors.NotFound: "There is no model request of yours with this id.",
    errors.MethodNotAllowed: "This path answers to: GET,HEAD,POST.",
    errors.Conflict: "There is an account with this e-mail already; sign in instead.",
    errors.KeyReused: "This Idempotency-Key was used with another body; use a new key for a new request.",
    errors.RateLimited: "Too many requests; slow down.",
    errors.ModelFailed: "The model's provider answered with an error.",
    errors.ModelTooSlow: "The model did not answer within 90 s.",
    errors.ServerFault: errors.ServerFault().detail,
    errors.Unavailable: "The database is not available; try again.",
}
"""Every class of the tree has words here; a test sees to it."""


def problem_classes() -> Iterator[type[Problem]]:
    """Every error that a caller can meet."""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Problem) and value is not Problem and name[0] != "_":
            yield value


def error_example(problem: type[Problem]) -> dict[str, Any]:
    """The body of an answer with this error."""
    example = {
        "error": problem.title,
        "detail": _DETAILS[problem],
        "code": str(problem.code),
        "request_id": "9f86d081884c7d65",
    }
    if problem is errors.Invalid:
        return example | {"errors": [{"field": "input_data.prompt", "message": "is required"}]}
    return example


def error_answers(problems: Iterable[type[Problem]]) -> dict[str, Schema]:
    """References to the responses of these errors, by status."""
    return {
        str(status): {"$ref": f"#/components/responses/{_response_name(kinds)}"}
        for status, kinds in _by_status(problems)
    }


def component_responses(every_set: Iterable[Iterable[type[Problem]]]) -> dict[str, Schema]:
    """The responses that `error_answers` refers to, for each of these sets."""
    return {
        _response_name(kinds): _error_answer(status, kinds)
        for status, kinds in sorted(
            (group for problems in every_set for group in _by_status(problems)),
            key=lambda group: (group[0], _response_name(group[1])),
        )
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
        "headers": header_refs(*_HEADERS.get(status, ())),
        "content": {
            JSON: {
                "schema": ref("Problem"),
                "examples": {kind.__name__: {"value": error_example(kind)} for kind in kinds},
            }
        },
    }
