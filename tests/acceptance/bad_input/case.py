"""What a case of bad input is, and the requests that cases are made of: bytes, exactly as they go over the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CANARY = "canary-7d41c09e-secret"
"""Stands in every password, prompt, cookie and made-up token: it may appear in no log line and no answer."""
TOKEN = "<token>"
"""Replaced by a valid access token when the request is sent."""
JSON = "application/json"
SYNTAX = r"not valid JSON: .+ at line \d+, column \d+"


@dataclass(frozen=True, slots=True)
class Case:
    """A request and how it must be refused.

    `fields` are those that the answer must name, no more and no fewer; `says` is a pattern that its `detail` must
    match, `headers` are patterns for headers that it must have. `before` is sent first and accepted, `then` is what
    follows when the server says 100 Continue.
    """

    name: str
    request: bytes
    status: int
    code: str
    fields: tuple[str, ...] = ()
    says: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    before: bytes = b""
    then: bytes = b""


def malformed(name: str, request: bytes, says: str, *fields: str, status: int = 400) -> Case:
    """What cannot be parsed, or is refused before that (408, 413, 415)."""
    return Case(name, request, status, "VALIDATION_ERROR", fields, says)


def invalid(name: str, request: bytes, *fields: str, says: str = "") -> Case:
    """What parses and is wrong."""
    return Case(name, request, 422, "VALIDATION_ERROR", fields, says)


def unauthenticated(name: str, request: bytes, says: str = "Send a valid access token") -> Case:
    """The challenge blames the token where one was sent to a route that takes one, which those of `account` do not."""
    challenge = '^Bearer error="invalid_token"$' if b"\r\nAuthorization: Bearer " in request else "^Bearer$"
    return Case(name, request, 401, "AUTH_ERROR", says=says, headers={"WWW-Authenticate": challenge})


def message(start_line: str, *headers: str, body: bytes = b"") -> bytes:
    """An HTTP message; each character of `start_line` and `headers` is one byte."""
    return "\r\n".join([start_line, *headers, "", ""]).encode("latin-1") + body


def fetch(target: str, *headers: str, method: str = "GET", token: str | None = TOKEN) -> bytes:
    """A request without a body."""
    credentials = () if token is None else (f"Authorization: Bearer {token}",)
    return message(f"{method} {target} HTTP/1.1", "Host: test", f"Cookie: a={CANARY}", *credentials, *headers)


def post(target: str, body: bytes, *headers: str, content_type: str | None = JSON, token: str | None = TOKEN) -> bytes:
    media = () if content_type is None else (f"Content-Type: {content_type}",)
    return fetch(target, *media, f"Content-Length: {len(body)}", *headers, method="POST", token=token) + body


def post_chunks(target: str, chunks: bytes, *headers: str) -> bytes:
    """A chunked body, its chunks framed by the caller."""
    return fetch(target, f"Content-Type: {JSON}", "Transfer-Encoding: chunked", *headers, method="POST") + chunks


def create(body: Any, *headers: str, content_type: str | None = JSON) -> bytes:
    """`POST /api/requests` with `body`: bytes as they are, anything else as JSON."""
    return post("/api/requests", encoded(body), *headers, content_type=content_type)


def account(action: str, body: Any) -> bytes:
    """`POST /auth/<action>`, without a token."""
    return post(f"/auth/{action}", encoded(body), token=None)


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def text2text(**fields: Any) -> dict[str, Any]:
    """A body that would be accepted, with some fields in place of its own."""
    return {"model_type": "text2text", "input_data": {"prompt": CANARY}, **fields}


def with_input(**input_data: Any) -> dict[str, Any]:
    return text2text(input_data=input_data)


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return text2text(parameters=parameters)


def raw_text2text(prompt: bytes = b'"hello"', *, model_type: bytes = b'"text2text"', rest: bytes = b"") -> bytes:
    """The same body, of parts that are JSON or should be."""
    return b'{"model_type":%b,"input_data":{"prompt":%b,"x":"%b"}%b}' % (model_type, prompt, CANARY.encode(), rest)


def raw_parameter(name: str, value: bytes) -> bytes:
    """A body with one parameter, its value spelt by the caller."""
    template = b'{"model_type":"text2text","input_data":{"prompt":"%b"},"parameters":{"%b":%b}}'
    return template % (CANARY.encode(), name.encode(), value)


def sign_in(**fields: Any) -> dict[str, Any]:
    return {"email": "nobody@example.com", "password": CANARY, **fields}
