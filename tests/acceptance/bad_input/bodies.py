"""Bodies that cannot be read: syntax, encoding, size, NUL and surrogates, depth."""

from typing import Any

from server.http.bodies import MAX_DEPTH, MAX_MEMBERS
from server.routes.auth import MAX_BODY_BYTES as MAX_FORM_BYTES
from tests.acceptance.bad_input.case import (
    CANARY,
    JSON,
    SYNTAX,
    Case,
    account,
    create,
    encoded,
    fetch,
    invalid,
    malformed,
    post,
    post_chunks,
    raw_parameter,
    raw_text2text,
    sign_in,
    text2text,
    with_input,
    with_parameters,
)

_GOOD = encoded(text2text())
_FORM = encoded(sign_in())
_CANARY = CANARY.encode()


def _not_json(name: str, body: bytes, says: str = SYNTAX) -> Case:
    return malformed(name, create(body), says)


SYNTAX_CASES = (
    _not_json("empty", b"", "empty"),
    _not_json("blank", b" \r\n\t ", "empty"),
    _not_json("unclosed", _GOOD[:-1]),
    _not_json("trailing comma", _GOOD[:-1] + b",}"),
    _not_json("trailing garbage", _GOOD + b"x"),
    _not_json("two documents", _GOOD + b"\n" + _GOOD),
    _not_json("single quotes", _GOOD.replace(b'"', b"'")),
    _not_json("bare key", b'{model_type:"%b"}' % _CANARY),
    _not_json("comment", _GOOD + b" // why"),
    _not_json("form", b"prompt=%b" % _CANARY),
    _not_json("unknown escape", raw_text2text(rb'"\x41"')),
    _not_json("raw line feed", raw_text2text(b'"a\nb"')),
    _not_json("NaN", raw_parameter("temperature", b"NaN")),
    _not_json("Infinity", raw_parameter("temperature", b"-Infinity")),
    _not_json("leading zero", raw_parameter("max_tokens", b"01")),
    _not_json("hexadecimal", raw_parameter("max_tokens", b"0x10")),
    malformed("unclosed at sign-in", account("signin", _FORM[:-1]), SYNTAX),
    malformed("empty at sign-up", account("signup", b""), "empty"),
)


def _charset(name: str, charset: str, body: bytes = _GOOD) -> Case:
    return malformed(name, create(body, content_type=f"{JSON}; charset={charset}"), "charset|UTF-8", status=415)


def _coding(coding: str) -> Case:
    request = create(_GOOD, f"Content-Encoding: {coding}")
    return malformed(f"content encoding {coding}", request, "Content-Encoding", status=415)


ENCODING = (
    _not_json("UTF-16 with a byte order mark", _GOOD.decode().encode("utf-16")),
    _not_json("UTF-16 without a byte order mark", _GOOD.decode().encode("utf-16-be")),
    _not_json("UTF-32", _GOOD.decode().encode("utf-32")),
    _not_json("Latin-1", raw_text2text('"é"'.encode("latin-1"))),
    _not_json("byte 0xFF", raw_text2text(b'"\xff"')),
    _not_json("overlong slash", raw_text2text(b'"\xc0\xaf"')),
    _not_json("character cut short", raw_text2text(b'"\xe2\x82"')),
    _not_json("beyond U+10FFFF", raw_text2text(b'"\xf4\x90\x80\x80"')),
    malformed("byte 0xFF in a password", account("signin", _FORM.replace(_CANARY, _CANARY + b"\xff")), SYNTAX),
    _charset("charset utf-16", "utf-16", _GOOD.decode().encode("utf-16")),
    _charset("charset utf-7", "utf-7"),
    _charset("charset hex", "hex"),
    _charset("charset idna", "idna"),
    _charset("charset unknown", "bogus"),
    _charset("charset empty", '""'),
    _coding("gzip"),
    _coding("br"),
    _coding("bogus"),
)


def _too_large(name: str, request: bytes, limit: int) -> Case:
    return malformed(name, request, f"at most {limit} bytes", status=413)


def _late(name: str, request: bytes) -> Case:
    return malformed(name, request, "did not arrive", status=408)


def _chunks(name: str, chunks: bytes) -> Case:
    """Broken once the handler reads, unlike what comes along with the headers."""
    request = post_chunks("/api/requests", b"", "Expect: 100-continue")
    return Case(name, request, 400, "VALIDATION_ERROR", says="not framed as its headers say", then=chunks)


_JSON_POST = (f"Content-Type: {JSON}",)

SIZE = (
    _too_large("one byte too many at sign-in", account("signin", _FORM.ljust(MAX_FORM_BYTES + 1)), MAX_FORM_BYTES),
    malformed(
        "one byte more than MAX_BODY_MB announced",
        fetch("/api/requests", *_JSON_POST, f"Content-Length: {20 * 1024 * 1024 + 1}", method="POST"),
        r"at most 20 MB \(MAX_BODY_MB\)",
        status=413,
    ),
    _late("shorter than announced", post("/api/requests", _GOOD)[:-1]),
    _late("announced, never sent", fetch("/api/requests", *_JSON_POST, "Content-Length: 9", method="POST")),
    _late("chunks without an end", post_chunks("/api/requests", b"2\r\n{}\r\n")),
    malformed("chunk along with the headers", post_chunks("/api/requests", b"ZZ\r\n{}\r\n"), "not a valid HTTP"),
    _chunks("chunk size that is no number", b"ZZ\r\n{}\r\n0\r\n\r\n"),
    _chunks("chunk size negative", b"-1\r\n{}\r\n0\r\n\r\n"),
    _chunks("chunk size of 80 bits", b"1" + b"0" * 20 + b"\r\n{}\r\n"),
    _chunks("chunk longer than its size", b"1\r\n{}\r\n0\r\n\r\n"),
    invalid("too many members", create(with_input(messages=[0] * MAX_MEMBERS)), "input_data.messages"),
    invalid("prompt empty", create(with_input(prompt="")), "input_data.prompt"),
    invalid("conversation empty", create(with_input(messages=[])), "input_data.messages"),
    invalid("model type too long", create(text2text(model_type="x" * 65)), "model_type"),
    invalid("model too long", create(text2text(model="x" * 201)), "model"),
    invalid("too many stops", create(with_parameters(stop=["x"] * 65)), "parameters.stop"),
    invalid("stop too long", create(with_parameters(stop="x" * 1001)), "parameters.stop.0"),
    invalid("one stop too long", create(with_parameters(stop=["a", "x" * 1001])), "parameters.stop.1"),
    invalid("e-mail too long", account("signup", sign_in(email=f"{'a' * 60}@{'b.' * 100}org")), "email"),
    invalid("password too short", account("signup", sign_in(password=CANARY[:7])), "password"),
    invalid("password too long", account("signup", sign_in(password=CANARY.ljust(129, "x"))), "password"),
    invalid("guess too long", account("signin", sign_in(password=CANARY.ljust(1025, "x"))), "password"),
    invalid("refresh token too long", account("refresh", {"refresh_token": CANARY.ljust(1025, "x")}), "refresh_token"),
)


def _nul(name: str, body: Any, field: str) -> Case:
    return invalid(name, create(body), field, says="NUL")


def _half(name: str, text: bytes) -> Case:
    return _not_json(name, raw_text2text(b'"%b"' % text))


NUL_AND_SURROGATES = (
    _nul("NUL in the prompt", with_input(prompt=f"{CANARY}\0"), "input_data.prompt"),
    _nul("NUL in a message", with_input(messages=[{"role": "user", "content": "\0"}]), "input_data.messages.0.content"),
    _nul("NUL in a stop", with_parameters(stop=["a", "\0"]), "parameters.stop.1"),
    _nul("NUL in the model type", text2text(model_type="text2text\0"), "model_type"),
    _nul("NUL in the model", text2text(model="\0"), "model"),
    _nul("NUL in a key", with_input(**{"prompt": CANARY, "a\0": 1}), "input_data"),
    _nul("NUL in a key of the body", text2text(**{"\0": 1}), "(body)"),
    invalid("NUL in an e-mail", account("signup", sign_in(email="a\0@example.com")), "email", says="NUL"),
    invalid("NUL in a password", account("signin", sign_in(password=f"{CANARY}\0")), "password", says="NUL"),
    _not_json("raw NUL in a text", raw_text2text(b'"\0"')),
    _not_json("raw NUL after the end", _GOOD + b"\0"),
    _half("high half alone", rb"\ud800"),
    _half("low half alone", rb"\udc00"),
    _half("halves in the wrong order", rb"\ude00\ud83d"),
    _half("half encoded in UTF-8", b"\xed\xa0\x80"),
    _not_json("half in a key", raw_text2text(rest=rb',"\ud800":1')),
    malformed("half in a password", account("signup", sign_in(password=f"{CANARY}\ud800")), SYNTAX),
    malformed("half in an e-mail", account("signin", sign_in(email="\udfff@example.com")), SYNTAX),
)


def _deep(name: str, body: bytes, says: str = f"more than {MAX_DEPTH} levels") -> Case:
    return malformed(name, create(body), says)


def _lists(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def _objects(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


_PROMPT_DEPTH = MAX_DEPTH - 2  # of a prompt, below the body and input_data

DEPTH = (
    invalid("as deep as allowed", create(raw_text2text(_lists(_PROMPT_DEPTH))), "input_data.prompt", "input_data.x"),
    _deep("one list too deep", raw_text2text(_lists(_PROMPT_DEPTH + 1))),
    _deep("one object too deep", raw_text2text(_objects(_PROMPT_DEPTH + 1))),
    _deep("lists and objects in turn", raw_text2text(b'[{"a":' * 70 + b"0" + b"}]" * 70)),
    _deep("in a parameter", raw_parameter("stop", _lists(_PROMPT_DEPTH + 1))),
    _deep("in an unknown field", raw_text2text(rest=b',"z":' + _lists(MAX_DEPTH))),
    _deep("the body itself", _lists(MAX_DEPTH + 1)),
    _deep("as deep as the parser goes", raw_text2text(_lists(1000))),
    _deep("deeper than the parser goes", raw_text2text(_lists(100_000))),
    _deep("deep and unclosed", b"[" * 100_000),
    malformed("at sign-in", account("signin", b'{"password":%b}' % _lists(500)), f"more than {MAX_DEPTH} levels"),
    malformed("deeper than the parser goes at sign-up", account("signup", b"[" * 2000), SYNTAX),
)
