"""Every error a caller can meet, as one tree.

    Problem
    ├── BadSyntax            400 VALIDATION_ERROR   what cannot be parsed
    ├── Invalid              422 VALIDATION_ERROR   what parses and is wrong
    ├── BodyTimeout          408 VALIDATION_ERROR   a body that never came
    ├── BodyTooLarge         413 VALIDATION_ERROR
    ├── UnsupportedMedia     415 VALIDATION_ERROR
    ├── RangeNotSatisfiable  416 VALIDATION_ERROR   with Content-Range: how long the file is
    ├── Unauthenticated      401 AUTH_ERROR         with WWW-Authenticate
    ├── Forbidden            403 AUTH_ERROR
    ├── NotFound             404 NOT_FOUND          no such thing, or not yours
    ├── MethodNotAllowed     405 NOT_FOUND          with Allow
    ├── Conflict             409 CONFLICT
    ├── KeyReused            422 CONFLICT           an idempotency key with another body
    ├── RateLimited          429 RATE_LIMITED       with Retry-After
    ├── ModelFailed          502 MODEL_ERROR        only where the call itself must fail: on /v1
    ├── ModelTooSlow         504 MODEL_ERROR        the same, when its deadline passed
    ├── ServerFault          500 SERVER_ERROR       a bug of ours
    └── Unavailable          503 SERVER_ERROR       with Retry-After; try again

    CannotStart              why a server does not start, for its operator

`error` (the title) is fixed per class, `detail` is written for the caller. `http/error_responses.py` is the only place
that turns a `Problem` into a response.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class Code(StrEnum):
    """The closed set of `code` values, shared by HTTP errors and by `error_code` of a failed model request."""

    VALIDATION_ERROR = "VALIDATION_ERROR"
    AUTH_ERROR = "AUTH_ERROR"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    MODEL_ERROR = "MODEL_ERROR"
    SERVER_ERROR = "SERVER_ERROR"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field; `field` is a dotted path such as `input_data.prompt`."""

    field: str
    message: str


class Problem(Exception):
    """An error with a status, a code and words for the caller."""

    status: int = 500
    code: ClassVar[Code] = Code.SERVER_ERROR
    title: ClassVar[str] = "Internal server error"

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A problem in the form of one API: its status, JSON body and headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class _Delayed(Problem):
    """A refusal that says when to come back, in whole seconds rounded up."""

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})
        self.retry_after_s = retry_after_s


class BadSyntax(Problem):
    status = 400
    code = Code.VALIDATION_ERROR
    title = "Malformed request"


class Invalid(Problem):
    status = 422
    code = Code.VALIDATION_ERROR
    title = "Invalid request"


class BodyTimeout(Problem):
    status = 408
    code = Code.VALIDATION_ERROR
    title = "Request body timed out"


class BodyTooLarge(Problem):
    status = 413
    code = Code.VALIDATION_ERROR
    title = "Request body too large"


class UnsupportedMedia(Problem):
    status = 415
    code = Code.VALIDATION_ERROR
    title = "Unsupported media type"


class RangeNotSatisfiable(Problem):
    status = 416
    code = Code.VALIDATION_ERROR
    title = "Range not satisfiable"


class Unauthenticated(Problem):
    """Deliberately the same words for every reason: a caller learns nothing about why a credential failed."""

    status = 401
    code = Code.AUTH_ERROR
    title = "Authentication failed"

    def __init__(self, detail: str = "Send a valid access token as 'Authorization: Bearer <token>'.") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})

    def blame_token(self) -> None:
        """Say that the token that was sent is at fault; to who sent none, that would be untrue (RFC 6750, 3.1)."""
        self.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'


class Forbidden(Problem):
    status = 403
    code = Code.AUTH_ERROR
    title = "Not allowed"


class NotFound(Problem):
    status = 404
    code = Code.NOT_FOUND
    title = "Not found"


class MethodNotAllowed(Problem):
    status = 405
    code = Code.NOT_FOUND
    title = "Method not allowed"


class Conflict(Problem):
    status = 409
    code = Code.CONFLICT
    title = "Conflict"


class KeyReused(Problem):
    status = 422
    code = Code.CONFLICT
    title = "Idempotency key reused"


class RateLimited(_Delayed):
    status = 429
    code = Code.RATE_LIMITED
    title = "Rate limit exceeded"


class ModelFailed(Problem):
    status = 502
    code = Code.MODEL_ERROR
    title = "Model failed"


class ModelTooSlow(Problem):
    status = 504
    code = Code.MODEL_ERROR
    title = "Model too slow"


class ServerFault(Problem):
    title = "Internal server error"

    def __init__(
        self, detail: str = "Something went wrong on our side; quote the request_id when you report it."
    ) -> None:
        super().__init__(detail)


class Unavailable(_Delayed):
    status = 503
    code = Code.SERVER_ERROR
    title = "Temporarily unavailable"


class CannotStart(Exception):
    """The server cannot start with these settings, and a retry does not help.

    Each fault is a line with its remedy, and holds no secret.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
