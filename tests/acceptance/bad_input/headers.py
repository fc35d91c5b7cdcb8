"""Bad HTTP messages, bad content types and bad idempotency keys."""

from tests.acceptance.bad_input.case import (
    CANARY,
    JSON,
    TOKEN,
    Case,
    create,
    encoded,
    fetch,
    malformed,
    message,
    post,
    text2text,
    unauthenticated,
    with_parameters,
)

_GET = "GET /api/requests HTTP/1.1"
_POST = "POST /api/requests HTTP/1.1"
_COMMON = ("Host: test", f"Cookie: a={CANARY}", f"Authorization: Bearer {TOKEN}")
_SENT = ("Content-Length: 2", f"Content-Type: {JSON}")


def _broken(name: str, request: bytes) -> Case:
    return malformed(name, request, r"not a valid HTTP/1\.1 request")


def _version(name: str, start_line: str) -> Case:
    return malformed(name, message(start_line, *_COMMON), r"HTTP/1\.1")


HEADER = (
    _broken("no host", message(_GET, *_COMMON[1:])),
    _broken("host with a fragment", message(_GET, "Host: a#@b", *_COMMON[1:])),
    _broken("host with a path", message(_GET, "Host: a/b", *_COMMON[1:])),
    _broken("two hosts", message(_GET, "Host: other", *_COMMON)),
    _broken("two content lengths, equal", message(_POST, *_COMMON, *_SENT, "Content-Length: 2", body=b"{}")),
    _broken("two content lengths, different", message(_POST, *_COMMON, *_SENT, "Content-Length: 3", body=b"{} ")),
    _broken("content length as a list", message(_POST, *_COMMON, "Content-Length: 2, 2", body=b"{}")),
    _broken("content length negative", message(_POST, *_COMMON, "Content-Length: -1")),
    _broken("content length with a sign", message(_POST, *_COMMON, "Content-Length: +2", body=b"{}")),
    _broken("content length of 23 digits", message(_POST, *_COMMON, f"Content-Length: {'9' * 23}")),
    _broken(
        "content length and chunks",
        message(_POST, *_COMMON, *_SENT, "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    _broken("unknown transfer encoding", message(_POST, *_COMMON, "Transfer-Encoding: xchunked")),
    malformed(
        "coding before chunked",
        message(_POST, *_COMMON, _SENT[1], "Transfer-Encoding: gzip, chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        "Transfer-Encoding|not a valid HTTP",
    ),
    _broken("chunked is not last", message(_POST, *_COMMON, "Transfer-Encoding: chunked, identity")),
    _broken("space before the colon", message(_GET, *_COMMON, "X-A : b")),
    _broken("no colon", message(_GET, *_COMMON, "X-A")),
    _broken("no name", message(_GET, *_COMMON, ": b")),
    _broken("name with a space", message(_GET, *_COMMON, "X A: b")),
    _broken("folded line", message(_GET, *_COMMON, "X-A: b", " c")),
    _broken("NUL", message(_GET, *_COMMON, "X-A: b\0c")),
    _broken("bare carriage return", message(_GET, *_COMMON, "X-A: b\rX-B: c")),
    _broken("value of 8.2 KB", message(_GET, *_COMMON, f"X-A: {CANARY * 400}")),
    _broken("200 lines", message(_GET, *_COMMON, *(f"X-{number}: a" for number in range(200)))),
    _broken("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n"),
    _broken("not a request line", message(CANARY, *_COMMON)),
    _broken("method that is no token", message("G(T / HTTP/1.1", *_COMMON)),
    _version("HTTP/0.9", "GET /api/requests"),
    _version("HTTP/2.0", "GET /api/requests HTTP/2.0"),
    _version("HTTP/3.7", "GET /api/requests HTTP/3.7"),
    _version("HTTP/2 preface", "PRI * HTTP/2.0"),
    _version("HTTP/1.11", "GET /api/requests HTTP/1.11"),
    Case(
        "preflight of an origin that is not allowed",
        fetch("/api/requests", f"Origin: https://{CANARY}", "Access-Control-Request-Method: POST", method="OPTIONS"),
        403,
        "AUTH_ERROR",
        says="[Oo]rigin",
    ),
    malformed("unknown expectation", create(text2text(), f"Expect: {CANARY}"), "Expect"),
    unauthenticated(
        "stranger expects 100-continue",
        fetch("/api/requests", "Expect: 100-continue", *_SENT, method="POST", token=None),
    ),
)


def _media(name: str, content_type: str | None, *, body: bytes | None = None, says: str = JSON) -> Case:
    sent = encoded(text2text()) if body is None else body
    return malformed(name, create(sent, content_type=content_type), says, status=415)


CONTENT_TYPE = (
    _media("none", None),
    _media("empty", ""),
    _media("text", "text/plain"),
    _media("form", "application/x-www-form-urlencoded", body=f"prompt={CANARY}".encode()),
    _media("multipart", "multipart/form-data; boundary=x", body=b"--x--\r\n"),
    _media("XML", "application/xml"),
    _media("bytes", "application/octet-stream"),
    _media("almost JSON", "application/jsonx"),
    _media("lines of JSON", "application/x-ndjson"),
    _media("JSON as text", "text/json"),
    _media("no slash", "json"),
    _media("list of two", "application/json, text/plain"),
    _media("with bytes outside ASCII", "application/json\xff"),
    _media("with an encoded charset that breaks decoders", f"{JSON}; charset*=idna''%ff", says="charset"),
    _broken("two, equal", create(text2text(), f"Content-Type: {JSON}")),
    _broken("two, different", create(text2text(), "Content-Type: text/plain")),
    malformed(
        "form at sign-in",
        post("/auth/signin", f"password={CANARY}".encode(), content_type="application/x-www-form-urlencoded"),
        JSON,
        status=415,
    ),
)


def _key(name: str, *values: str) -> Case:
    headers = [f"Idempotency-Key: {value}" for value in values]
    return malformed(name, create(text2text(), *headers), "^Idempotency-Key: ", "Idempotency-Key")


def _reused(name: str, body: object) -> Case:
    """The key of a request that was accepted with the usual body."""
    key = f"Idempotency-Key: {name}"
    says = "Idempotency-Key was used with another body"
    return Case(name, create(body, key), 422, "CONFLICT", says=says, before=create(text2text(), key))


IDEMPOTENCY_KEY = (
    _key("empty", ""),
    _key("empty in quotes", '""'),
    _key("blank in quotes", '" "'),
    _key("256 characters", "k" * 256),
    _key("256 characters in quotes", f'"{"k" * 256}"'),
    _key("8000 characters", "k" * 8000),
    _key("sent twice", "one", "two"),
    _key("sent twice, equal", "one", "one"),
    _key("with a tab", "a\tb"),
    _key("in UTF-8", "\xc3\xa9"),
    _key("not UTF-8", "a\xff\xfe"),
    _broken("with NUL", create(text2text(), "Idempotency-Key: a\0b")),
    _reused("used with another prompt", text2text(input_data={"prompt": "something else"})),
    _reused("used with other parameters", with_parameters(temperature=1)),
    _reused("used with another model type", text2text(model_type="chat")),
    _reused("used with another deadline", text2text(deadline_s=60)),
)
