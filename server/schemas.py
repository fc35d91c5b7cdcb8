"""Parses request bodies and renders public objects."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.encoding import dumps
from server.errors import FieldError, Invalid
from server.model_request import FinalRow, ModelRequest, RequestSpec, Status

MAX_DEADLINE_S = 86_400.0
MAX_FIELD_ERRORS = 50

_WORDS = {
    "extra_forbidden": "is not a known field",
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
"""Messages for kinds of errors whose own messages in pydantic use terms of Python."""
_SUBJECT = re.compile(r"(?:Input|String|List|Dictionary) should ")
_ASIDE = re.compile(r" after validation, not \d+")

Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """A JSON object. Unknown fields are refused by name, and types are not converted.

    A validator is built at its first use: building all of them takes a tenth of the start of the server.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)


def _or_none_given(value: Any) -> Any:
    """No parameters: null, or what PHP sends for an empty object."""
    return {} if value is None or value == [] else value


class CreateRequest(Body):
    """The body of `POST /api/requests`; what `input_data` and `parameters` may hold depends on the model type."""

    model_type: str = Field(min_length=1, max_length=64, examples=["text2text"])
    input_data: dict[str, Any] = Field(examples=[{"prompt": "Write a haiku about rain."}])
    model: str | None = Field(None, min_length=1, max_length=200)
    parameters: Annotated[dict[str, Any], BeforeValidator(_or_none_given)] = Field(default_factory=dict)
    deadline_s: float | None = Field(None, ge=1, le=MAX_DEADLINE_S, allow_inf_nan=False)


def parse(model: type[Model], data: Any) -> Model:
    """Validate `data` as `model`. Raises `Invalid` with all errors, each with its dotted path."""
    if not isinstance(data, dict):
        raise Invalid("The body must be a JSON object.", errors=[FieldError("(body)", "must be a JSON object")])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(field_errors(error)) from None


def field_errors(error: ValidationError, *, prefix: str = "") -> list[FieldError]:
    """The errors of pydantic in the words of the contract, at most `MAX_FIELD_ERRORS`."""
    return [
        FieldError(
            ".".join([prefix, *map(str, item["loc"])] if prefix else map(str, item["loc"]))[:200] or "(body)",
            _words(item["type"], item["msg"]),
        )
        for item in error.errors(include_url=False, include_input=False, include_context=False)[:MAX_FIELD_ERRORS]
    ]


def invalid(errors: list[FieldError]) -> Invalid:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(f"{first.field}: {first.message}{more}.", errors=errors)


def _words(kind: str, message: str) -> str:
    """The message after the name of the field: `must …` or `is …`."""
    if kind in _WORDS:
        return _WORDS[kind]
    return _ASIDE.sub("", _SUBJECT.sub("must ", message.removeprefix("Value error, ")))


def render_final(model_request: ModelRequest, row: FinalRow, *, completed_at: datetime) -> bytes:
    """The public object of a request that has just become final, from memory."""
    return _render(
        {
            **_asked(model_request),
            "created_at": model_request.created_at,
            "completed_at": completed_at,
            "status": row.status,
            "model": row.model or model_request.model,
            "output_data": row.output_data,
            "error_msg": row.error_msg,
            "error_code": row.error_code,
            "token_used": row.token_used,
            "token_count": row.token_count,
            "usage": row.usage,
            "cost_usd": row.cost_usd,
            "upstream_error": row.upstream_error,
            "processing_time": row.processing_time,
            "attempt": model_request.attempt,
            "deadline_at": model_request.deadline_at,
        }
    )


def render_pending(spec: RequestSpec, *, created_at: datetime, deadline_at: datetime, queue_position: int) -> bytes:
    """The public object of a request that has just gone to the backlog."""
    return _render(
        {
            **_asked(spec),
            "created_at": created_at,
            "status": Status.PENDING,
            "attempt": 0,
            "queue_position": queue_position,
            "deadline_at": deadline_at,
        }
    )


def render_running(model_request: ModelRequest) -> bytes:
    """The public object of a request that this process runs, from memory."""
    return _render(
        {
            **_asked(model_request),
            "created_at": model_request.created_at,
            "status": Status.PROCESSING,
            "attempt": model_request.attempt,
            "deadline_at": model_request.deadline_at,
        }
    )


def render_record(record: Mapping[str, Any]) -> bytes:
    """The public object of a row of `get_request` or `list_requests`."""
    return _render(record)


def _asked(spec: RequestSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "user_id": spec.user_id,
        "model_type": spec.model_type,
        "model": spec.model,
        "input_data": spec.input_data,
    }


def _render(fields: Mapping[str, Any]) -> bytes:
    """The request object of the HTTP contract, section 2, its fields in the order given there.

    Fields that are JSON already are passed on unread. An `upstream_error` without an error is of an earlier try:
    writers that do not know the column, such as the version before, leave it as it was.
    """
    taken: timedelta | None = fields.get("processing_time")
    upstream_error = None if fields.get("error_code") is None else fields.get("upstream_error")
    return dumps(
        {
            "id": fields["id"],
            "created_at": fields["created_at"],
            "completed_at": fields.get("completed_at"),
            "user_id": fields["user_id"],
            "status": fields["status"],
            "model_type": fields["model_type"],
            "model": fields["model"],
            "input_data": orjson.Fragment(fields["input_data"] or b"{}"),
            "output_data": _unread(fields.get("output_data")),
            "error_msg": fields.get("error_msg"),
            "error_code": fields.get("error_code"),
            "upstream_error": _unread(upstream_error),
            "token_used": fields.get("token_used"),
            "token_count": fields.get("token_count"),
            "usage": _unread(fields.get("usage")),
            "cost_usd": fields.get("cost_usd"),
            "processing_time": None if taken is None else round(taken.total_seconds(), 3),
            "attempt": fields["attempt"],
            "queue_position": fields.get("queue_position"),
            "deadline_at": fields["deadline_at"],
        }
    )


def _unread(data: bytes | None) -> orjson.Fragment | None:
    return None if data is None else orjson.Fragment(data)
