"""All errors that a caller can get, as one tree.

    Problem
    ├── BadSyntax            400 VALIDATION_ERROR   the input cannot be parsed
    ├── Invalid              422 VALIDATION_ERROR   the input parses, and a value is wrong
    ├── BodyTimeout          408 VALIDATION_ERROR   the body did not arrive in time
    ├── BodyTooLarge         413 VALIDATION_ERROR
    ├── UnsupportedMedia     415 VALIDATION_ERROR
    ├── RangeNotSatisfiable  416 VALIDATION_ERROR   with Content-Range, which gives the file's size
    ├── Unauthenticated      401 AUTH_ERROR         with WWW-Authenticate
    ├── Forbidden            403 AUTH_ERROR
    ├── NotFound             404 NOT_FOUND          it does not exist, or belongs to another user
    ├── MethodNotAllowed     405 NOT_FOUND          with Allow
    ├── Conflict             409 CONFLICT
    ├── KeyReused            422 CONFLICT           an idempotency key with another body
    ├── RateLimited          429 RATE_LIMITED       with Retry-After
    ├── ModelFailed          502 MODEL_ERROR        only on /v1, where the HTTP call itself must fail
    ├── ModelTooSlow         504 MODEL_ERROR        as ModelFailed, after the deadline
    ├── ServerFault          500 SERVER_ERROR       a bug in the server
    └── Unavailable          503 SERVER_ERROR       with Retry-After; the caller can try again

    CannotStart              the server cannot start; the text is for its operator
    CheckFailed              `doctor` found a fault, or a command failed; the text is for the operator

`error` (the title) is fixed for each class. `detail` is written for the caller. Only `http/error_responses.py` turns a
`Problem` into a response.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class Code(StrEnum):
    """All values of `code` in HTTP errors and of `error_code` in failed model requests."""

    VALIDATION_ERROR = "VALIDATION_ERROR"
    AUTH_ERROR = "AUTH_ERROR"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    MODEL_ERROR = "MODEL_ERROR"
    SERVER_ERROR = "SERVER_ERROR"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One error in one field. `field` is a dotted path such as `input_data.prompt`."""

    field: str
    message: str


class Problem(Exception):
    """An error with an HTTP status, a code and a text for the caller.

    `reason` is the code that a model's provider gave; only `/v1` shows it.
    """

    status: int = 500
    code: ClassVar[Code] = Code.SERVER_ERROR
    title: ClassVar[str] = "Internal server error"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
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
    """Adds `Retry-After`, in whole seconds rounded up."""

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
    """The default text is the same for every reason, so that a caller cannot learn why a credential failed."""

    status = 401
    code = Code.AUTH_ERROR
    title = "Authentication failed"

    def __init__(
        self,
        detail: str = "Send a valid access token or API key as 'Authorization: Bearer <token>'.",
        *,
        is_revoked: bool = False,
    ) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})
        self.is_revoked = is_revoked
        """Whether the credential was valid and was revoked. Only clients of Supabase Auth get another code for it."""

    def blame_token(self) -> None:
        """Add `error="invalid_token"` to the header. Only for requests that sent a token (RFC 6750, 3.1)."""
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
    def __init__(
        self, detail: str = "Something went wrong on our side; quote the request_id when you report it."
    ) -> None:
        super().__init__(detail)


class Unavailable(_Delayed):
    status = 503
    code = Code.SERVER_ERROR
    title = "Temporarily unavailable"


class CannotStart(Exception):
    """The server cannot start with these settings. A retry does not help.

    Each fault is one line with its fix, and contains no secret.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class CheckFailed(Exception):
    """A check of `doctor` found a fault, or an operator's command failed. The text is one sentence with the fix."""
