"""Reads JSON bodies, within limits of time, size, depth and values."""

import asyncio
import codecs
import re
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, web

from server.errors import BadSyntax, BodyTimeout, BodyTooLarge, FieldError, Invalid, UnsupportedMedia
from server.http import keys
from server.http.parameters import read_idempotency_key
from server.model_request import UserId
from server.schemas import MAX_BODY_BYTES

BODY_TIMEOUT_S = 15.0
MAX_DEPTH = 128
"""Half of what the encoder can write (254). A level of a JSON schema takes two."""
MAX_MEMBERS = 10_000
"""Members of all objects and arrays together; they bound the time that a body takes on the event loop."""
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
MAX_FLOAT = 2.0**63
"""orjson reads integers out of this range as floats without an error, which would change the number."""
_MAX_PATH = 200
_HALF_PAIR = re.compile(
    rb"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}", re.IGNORECASE
)
"""The escape of half a pair of surrogates."""
_BACKSLASH = b"\xff"
"""In place of an escaped backslash. No UTF-8 contains this byte."""

Body = TypeVar("Body", bytes, bytearray)

_JSON_MEDIA = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.ASCII)


async def read_json(
    request: web.Request,
    *,
    max_bytes: int,
    user_id: UserId | None = None,
    parse: Callable[[bytes], Any] | None = None,
) -> Any:
    """The request's JSON body; `parse` is `parse_json`, or a function of its kind.

    Raises `UnsupportedMedia` for another type, charset or a content encoding, `BodyTooLarge`, `BodyTimeout` after
    `BODY_TIMEOUT_S`, `RateLimited` and `Unavailable` while too many arrive, `BadSyntax` for what is not JSON, `Invalid`
    for JSON that the database could not keep as sent.
    """
    _require_plain_json(request)
    announced = request.content_length
    if announced is not None and announced > max_bytes:
        raise _too_large(max_bytes)
    with request.app[keys.BODY_MEMORY].reserve(user_id, max_bytes if announced is None else announced):
        body = await _read(request, max_bytes)
    return (parse or parse_json)(body)


async def read_create_body(
    request: web.Request, *, parse: Callable[[bytes], Any] | None = None
) -> tuple[str | None, Any]:
    """The idempotency key and the JSON body of a create.

    The response shows what is left of the rate. A create that cannot be admitted is refused before its body is read,
    unless it may be a retry. Raises as `read_json` does, and `Unavailable`.
    """
    user_id = request[keys.PRINCIPAL].user_id
    request[keys.RATE_LIMIT] = request.app[keys.CREATE_LIMITER].peek(str(user_id))
    if "Idempotency-Key" not in request.headers:
        request.app[keys.REQUESTS].require_chance(user_id)
    key = read_idempotency_key(request)
    return key, await read_json(request, max_bytes=MAX_BODY_BYTES, user_id=user_id, parse=parse)


def parse_json(body: bytes) -> Any:
    """Parse strictly (RFC 8259): no NaN, no lone surrogates, no depth beyond `MAX_DEPTH`."""
    body = body.removeprefix(codecs.BOM_UTF8)  # some clients send it, and RFC 8259 allows to ignore it
    if not body.strip():
        raise BadSyntax("The request body is empty: send a JSON object.")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadSyntax(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    _require_storable(data)
    return data


def parse_json_cleaned(body: bytes) -> Any:
    """As `parse_json`, with U+FFFD in place of what the database cannot keep.

    Outputs of shells contain NUL. Texts that a program cut in the middle of a character contain half of a pair of
    surrogates.
    """
    try:
        return parse_json(body)
    except (BadSyntax, Invalid):
        cleaned = _storable(body)
        if cleaned == body:
            raise
        return parse_json(cleaned)


def _storable(body: bytes) -> bytes:
    """The body with U+FFFD in place of the escapes of NUL and of half pairs of surrogates."""
    if _BACKSLASH in body:
        return body
    plain = body.replace(rb"\\", _BACKSLASH).replace(rb"\u0000", rb"\ufffd")
    return _HALF_PAIR.sub(rb"\\ufffd", plain).replace(_BACKSLASH, rb"\\")


def _require_plain_json(request: web.Request) -> None:
    if is_encoded(request):
        raise UnsupportedMedia("Send the body without Content-Encoding.")
    try:
        media, charset = request.content_type.lower(), request.charset
    except ValueError:  # the header parser of the standard library fails at some encoded parameters
        media, charset = "application/json", "unreadable"
    if not _JSON_MEDIA.fullmatch(media) or hdrs.CONTENT_TYPE not in request.headers:
        raise UnsupportedMedia("Send JSON, with the header 'Content-Type: application/json'.")
    if charset is not None and charset.lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMedia("JSON is sent in UTF-8: leave the charset out, or say utf-8.")


def is_encoded(request: web.Request) -> bool:
    """Whether the body is compressed. `identity` is no encoding."""
    codings = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ["identity"])).lower().split(",")
    return any(coding.strip() != "identity" for coding in codings)


async def say_continue(request: web.Request) -> None:
    """Answer `Expect: 100-continue`, if the client sent it."""
    if hdrs.EXPECT in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # not yet the response


async def _read(request: web.Request, max_bytes: int) -> bytes:
    await say_continue(request)
    body = bytearray()
    try:
        if request.content.is_eof():  # it arrived with its headers
            return _bounded(request.content.read_nowait(), max_bytes)
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                _bounded(body, max_bytes)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadSyntax("The body ended early or is not framed as its headers say.") from None
    return bytes(body)


def _bounded(body: Body, max_bytes: int) -> Body:
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body may have at most {max_bytes} bytes.")


def _require_storable(data: Any) -> None:
    """Refuse what orjson accepts but Postgres or a later response does not: NUL, depth, numbers out of range."""
    members = 0
    stack: list[tuple[Any, str, int]] = [(data, "", 1)]
    while stack:
        value, path, depth = stack.pop()
        if isinstance(value, (dict, list)):
            if depth > MAX_DEPTH:
                raise BadSyntax(f"The body is nested more than {MAX_DEPTH} levels deep.")
            members += len(value)
            if members > MAX_MEMBERS:
                raise _invalid(path, f"has too many members: a body may have {MAX_MEMBERS} in all")
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in pairs:
                if isinstance(key, str):
                    _require_no_nul(key, path)
                stack.append((item, f"{path}.{key}"[-_MAX_PATH:] if path else str(key)[:_MAX_PATH], depth + 1))
        elif isinstance(value, str):
            _require_no_nul(value, path)
        elif isinstance(value, (int, float)):
            _require_exact(value, path)


def _require_exact(number: float, path: str) -> None:
    """A larger float may have been an integer."""
    is_exact = -MAX_FLOAT < number < MAX_FLOAT or (isinstance(number, int) and MIN_INTEGER <= number <= MAX_INTEGER)
    if not is_exact:
        raise _invalid(path, "must lie between -2^63 and 2^64")


def _require_no_nul(text: str, path: str) -> None:
    if "\0" in text:
        raise _invalid(path, "must not contain the NUL character")


def _invalid(path: str, message: str) -> Invalid:
    field = path or "(body)"
    return Invalid(f"{field}: {message}.", errors=[FieldError(field, message)])
