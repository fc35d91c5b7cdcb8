"""The files inside a JSON body: found, decoded, and left out of the rest, however the bytes arrive."""

import json
from base64 import b64encode
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.http.body_scanner import (
    MIN_FILE_CHARS,
    BadBase64,
    Base64Decoder,
    BodyScanner,
    FileEnd,
    FileStart,
    TooComplex,
)

CONTENT = bytes(range(256)) * 300
BASE64 = b64encode(CONTENT).decode()
URL = "data:image/png;base64,"


class Scan(NamedTuple):
    rest: Any
    files: list[tuple[str, str, bytes]]


def scan(body: bytes, step: int) -> Scan:
    """Feed the body in chunks of that size; each file is replaced by `<its number>`."""
    scanner, files, content = BodyScanner(40, 10_000), list[tuple[str, str, bytes]](), bytearray()
    for start in range(0, len(body), step):
        for piece in scanner.feed(body[start : start + step]):
            if isinstance(piece, FileStart):
                files.append((piece.path, piece.content_type, b""))
                content = bytearray()
            elif isinstance(piece, FileEnd):
                files[-1] = (*files[-1][:2], bytes(content))
                scanner.rest += b"<%d>" % (len(files) - 1)
            else:
                content += piece
    return Scan(json.loads(bytes(scanner.rest)), files)


def plain(text: str) -> str:
    return text


def php(text: str) -> str:
    return text.replace("/", "\\/")


def dot_net(text: str) -> str:
    return text.replace("+", "\\u002B")


def android(text: str) -> str:
    return URL + "\\n".join(text[len(URL) :][at : at + 76] for at in range(0, len(text), 76)) + "\\n"


def unpadded(text: str) -> str:
    return text.rstrip("=")


def url_safe(text: str) -> str:
    return URL + text[len(URL) :].replace("+", "-").replace("/", "_")


def with_blanks(text: str) -> str:
    return "data:image/png; base64, " + text[len(URL) : 5000] + " " + text[5000:]


@pytest.mark.parametrize("spelled", [plain, php, dot_net, android, unpadded, url_safe, with_blanks])
@pytest.mark.parametrize("step", [1, 7, 4096, 65_536, 10**7])
def test_a_file_in_any_spelling_is_found_in_any_chunks(spelled: Callable[[str], str], step: int) -> None:
    body = '{"a": [1, {"image_url": {"url": "' + spelled(URL + BASE64) + '"}, "b": "\\"}"}]}'
    found = scan(body.encode(), step)
    assert found.rest == {"a": [1, {"image_url": {"url": "<0>"}, "b": '"}'}]}
    assert found.files == [("a.1.image_url.url", "image/png", CONTENT)]


@pytest.mark.parametrize(
    ("member", "content_type"),
    [
        ('"url": "DATA:Image/JPEG;name=a.jpg;base64,%s"', "image/jpeg"),
        ('"\\u0075rl": "data:image/png;base64,%s"', "image/png"),
        ('"url": "data:;base64,%s"', "application/octet-stream"),
        ('"url": "data:base64,%s"', "application/octet-stream"),
        ('"url": "data:image/*;base64,%s"', "image/*"),
        ('"data": "%s"', "audio/unknown"),
        ('"data": "data:audio/wav;base64,%s"', "audio/wav"),
        ('"file_data": "data:application/pdf;base64,%s"', "application/pdf"),
        ('"file_data": "%s"', "application/octet-stream"),
    ],
)
def test_the_field_and_the_header_name_the_type(member: str, content_type: str) -> None:
    [(_, found, content)] = scan(b"{%b}" % (member % BASE64).encode(), 1000).files
    assert (found, content) == (content_type, CONTENT)


@pytest.mark.parametrize(
    "member",
    [
        '"text": "data:image/png;base64,%s"',
        '"url": "https://example.com/%s"',
        '"url": "data:image/png,%s"',
        '"data": "data:image/png,%s"',
        '"data:image/png;base64,%s": 1',
        '"url": ["data:image/png;base64,%s"]',
    ],
)
def test_other_strings_stay(member: str) -> None:
    body = "{%s}" % (member % BASE64)
    assert scan(body.encode(), 5000) == (json.loads(body), [])


def test_a_short_file_stays() -> None:
    text = URL + "A" * (MIN_FILE_CHARS - len(URL))
    assert scan(b'{"url":"%b"}' % text.encode(), 100) == ({"url": text}, [])
    assert len(scan(b'{"url":"%bAAAA"}' % text.encode(), 100).files) == 1


@pytest.mark.parametrize("wrong", ["A", "*AAA", "AAAA\\u00e9", "AAAA=AAA", "A===", "\\\\AAA", "\\x"])
@pytest.mark.parametrize("step", [3, 70_000])
def test_what_is_not_base64_is_refused(wrong: str, step: int) -> None:
    body = ('{"a":{"url":"' + URL + "A" * MIN_FILE_CHARS + wrong + '"}}').encode()
    scanner = BodyScanner(40, 10_000)
    pieces = chain.from_iterable(scanner.feed(body[start : start + step]) for start in range(0, len(body), step))
    with pytest.raises(BadBase64):
        list(pieces)
    assert scanner.path == "a.url"


@pytest.mark.parametrize("body", [b"[" * 41, b"[" + b"0," * 10_001])
def test_what_is_too_complex_is_refused_at_once(body: bytes) -> None:
    scanner = BodyScanner(40, 10_000)
    with pytest.raises(TooComplex):
        list(scanner.feed(body + b"[" * 1_000_000))
    assert scanner.depth <= 41


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("url"), inner, max_size=4),
)


@settings(max_examples=200)
@given(ANY_JSON, st.integers(1, 20), st.booleans())
def test_a_body_without_files_stays_as_it_is(value: Any, step: int, ascii_only: bool) -> None:  # noqa: FBT001
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    scanner = BodyScanner(40, 10_000)
    for start in range(0, len(body), step):
        assert list(scanner.feed(body[start : start + step])) == []
    assert bytes(scanner.rest) == body
    assert scanner.depth == 0


@given(st.binary(max_size=60), st.integers(1, 9))
def test_base64_decodes_in_any_pieces(content: bytes, step: int) -> None:
    text = b64encode(content).replace(b"/", b"\\/").replace(b"+", b"\\u002b")
    decoder = Base64Decoder()
    pieces = [decoder.feed(text[at : at + step]) for at in range(0, len(text), step)]
    assert b"".join([*pieces, decoder.close()]) == content
