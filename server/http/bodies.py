"""Reads JSON bodies, within limits of time, size, depth and values."""

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from server.errors import BadSyntax, BodyTimeout, BodyTooLarge, FieldError, Invalid, Problem, UnsupportedMedia
from server.http import keys
from server.model_request import UserId
from server.openai import PREFIX as OPENAI_PREFIX

BODY_TIMEOUT_S = 15.0
BYTES_PER_S = 64 * 1024
"""A body that is larger may take longer: a second more for each of these."""
NOT_WHOLE = "The body ended early or is not framed as its headers say."
MAX_DEPTH = 128
"""Half of what the encoder can write (254). A level of a JSON schema takes two."""
MAX_MEMBERS = 50_000
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
    refusal = BodyTooLarge(f"The body may have at most {max_bytes} bytes.")
    announced = check_head(request, max_bytes=max_bytes, refusal=refusal)
    with request.app[keys.BODY_MEMORY].reserve(user_id, max_bytes if announced is None else announced):
        content = request.content
        if announced is not None and content.is_eof() and content.exception() is None:
            body = content.read_nowait()  # it arrived with its headers, as most bodies do
        else:
            body = b"".join([chunk async for chunk in read_chunks(request, max_bytes=max_bytes, refusal=refusal)])
    return (parse or parse_json)(body)


def check_head(request: web.Request, *, max_bytes: int, refusal: BodyTooLarge) -> int | None:
    """The announced length of a JSON body. Raises `UnsupportedMedia`, and `refusal` for a length beyond `max_bytes`."""
    _require_plain_json(request)
    announced = request.content_length
    if announced is not None and announced > max_bytes:
        raise refusal
    return announced


async def read_chunks(request: web.Request, *, max_bytes: int, refusal: BodyTooLarge) -> AsyncIterator[bytes]:
    """The body as it arrives. Only the time that is spent waiting for the client counts.

    Raises `refusal` beyond `max_bytes`, `BodyTimeout`, and `BadSyntax` for a body that ends early.
    """
    await say_continue(request)
    size, waited_s, clock = 0, 0.0, asyncio.get_running_loop().time
    try:
        while True:
            began = clock()
            if request.content.is_eof():  # it arrived with its headers
                chunk = request.content.read_nowait()
            else:
                async with asyncio.timeout(BODY_TIMEOUT_S + size / BYTES_PER_S - waited_s):
                    chunk = await request.content.readany()
            waited_s += clock() - began
            if not chunk:
                require_whole(request)
                return
            size += len(chunk)
            if size > max_bytes:
                raise refusal
            yield chunk
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {BODY_TIMEOUT_S + size / BYTES_PER_S:g} s.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadSyntax(NOT_WHOLE) from None


def parse_json(body: bytes) -> Any:
    """Parse strictly (RFC 8259): no NaN, no lone surrogates, no depth beyond `MAX_DEPTH`."""
    body = body.removeprefix(codecs.BOM_UTF8)  # some clients send it, and RFC 8259 allows to ignore it
    if not body.strip():
        raise BadSyntax("The request body is empty: send a JSON object.")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "" if _is_utf_8(body) else " It is not encoded in UTF-8."
        raise BadSyntax(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.{hint}"
        ) from None
    _require_storable(data)
    return data


def _is_utf_8(body: bytes) -> bool:
    """NUL at the beginning, where JSON cannot have it, is a sign of UTF-16 and UTF-32."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in body[:2]


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
    is_json = _JSON_MEDIA.fullmatch(media) is not None and hdrs.CONTENT_TYPE in request.headers
    if not is_json and not request.path.startswith(OPENAI_PREFIX):  # there the content decides
        raise UnsupportedMedia("Send JSON, with the header 'Content-Type: application/json'.")
    if charset is not None and charset.lower() not in {"utf-8", "utf8", "utf_8", "us-ascii", "ascii"}:
        raise UnsupportedMedia("JSON is sent in UTF-8: leave the charset out, or say utf-8.")


def is_encoded(request: web.Request) -> bool:
    """Whether the body is compressed. `identity` is no encoding."""
    codings = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ["identity"])).lower().split(",")
    return any(coding.strip() != "identity" for coding in codings)


def require_whole(request: web.Request) -> None:
    """Raise `BadSyntax` for a body that was refused together with its last bytes: its reader sees only the end."""
    if request.content.exception() is not None:
        raise BadSyntax(NOT_WHOLE)


async def say_continue(request: web.Request) -> None:
    """Answer `Expect: 100-continue`, if the client sent it. In HTTP/1.0 there is no such answer (RFC 9110, 10.1.1)."""
    if hdrs.EXPECT in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # not yet the response


def too_complex(depth: int, path: str) -> Problem:
    """The error for a body that is nested too deeply, or else has too many members."""
    if depth > MAX_DEPTH:
        return BadSyntax(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return _invalid(path, f"has too many members: a body may have {MAX_MEMBERS} in all")


def _require_storable(data: Any) -> None:
    """Refuse what orjson accepts but Postgres or a later response does not: NUL, depth, numbers out of range."""
    members = 0
    stack: list[tuple[Any, str, int]] = [(data, "", 1)]
    while stack:
        value, path, depth = stack.pop()
        if isinstance(value, (dict, list)):
            members += len(value)
            if depth > MAX_DEPTH or members > MAX_MEMBERS:
                raise too_complex(depth, path)
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
