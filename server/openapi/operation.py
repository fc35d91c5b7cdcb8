"""What describes one operation, and the errors that many have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.errors import (
    BadSyntax,
    BodyTimeout,
    BodyTooLarge,
    Invalid,
    Problem,
    RateLimited,
    ServerFault,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)
from server.openapi.schemas import Schema

Problems = tuple[type[Problem], ...]

USUAL: Problems = (ServerFault, Unavailable)
BODY: Problems = (BadSyntax, BodyTimeout, BodyTooLarge, UnsupportedMedia, Invalid)
UPLOAD: Problems = (BadSyntax, BodyTimeout, BodyTooLarge, UnsupportedMedia)
SIGNED_IN: Problems = (Unauthenticated, RateLimited)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `alias` is a second path that answers in the same way.

    It takes a JSON `body`, of a schema of that name, or `content`: a schema for each media type.
    """

    id: str
    method: str
    path: str
    tag: str
    summary: str
    answers: Mapping[str, Schema]
    description: str = ""
    alias: str | None = None
    body: str | None = None
    content: Mapping[str, Schema] | None = None
    parameters: tuple[Schema, ...] = ()
    problems: Problems = field(default=USUAL)
    is_public: bool = False
