import tracemalloc
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from server.errors import BadSyntax, Invalid
from server.http.bodies import MAX_DEPTH, MAX_MEMBERS, is_encoded, parse_json, parse_json_cleaned


def _lists(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def _objects(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def _zeros(count: int) -> bytes:
    return b"[" + b",".join([b"0"] * count) + b"]"


def _members(count: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % number for number in range(count)) + b"}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {}),
        (b' \r\n\t{"a": [1, 2.5, true, false, null, "x"]}\n', {"a": [1, 2.5, True, False, None, "x"]}),
        (b"[]", []),
        (b'"text"', "text"),
        (b"null", None),
        ('"\N{GRINNING FACE}"'.encode(), "\N{GRINNING FACE}"),
        (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        (rb'"\\u0000"', r"\u0000"),
        (rb'"\u0001"', "\x01"),
    ],
)
def test_json_is_read_as_sent(body: bytes, expected: Any) -> None:
    assert parse_json(body) == expected


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t "])
def test_an_empty_body_is_called_empty(body: bytes) -> None:
    with pytest.raises(BadSyntax, match="empty"):
        parse_json(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="unclosed"),
        pytest.param(b"[1,]", id="trailing comma"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b"{a: 1}", id="bare key"),
        pytest.param(b"{1: 1}", id="number as key"),
        pytest.param(b"{}x", id="trailing garbage"),
        pytest.param(b"{} {}", id="second document"),
        pytest.param(b"{}\x00", id="trailing NUL"),
        pytest.param(b"{} // why", id="comment"),
        pytest.param(b"01", id="leading zero"),
        pytest.param(b"+1", id="plus sign"),
        pytest.param(b'"\x00"', id="raw NUL"),
        pytest.param(b'"a\nb"', id="raw line feed"),
        pytest.param("{}".encode("utf-16"), id="UTF-16"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b'"\xc0\x80"', id="overlong NUL"),
    ],
)
def test_what_is_not_json_is_bad_syntax(body: bytes) -> None:
    with pytest.raises(BadSyntax, match=r"not valid JSON: .+ at line \d+, column \d+"):
        parse_json(body)


@pytest.mark.parametrize("number", [b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"1e400", b"-1e400"])
@pytest.mark.parametrize("template", [b"%s", b"[%s]", b'{"a":%s}'])
def test_a_number_that_is_not_finite_is_bad_syntax(template: bytes, number: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_json(template % number)


@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00", rb"\ud800x", rb"\ude00\ud83d", b"\xed\xa0\x80"])
@pytest.mark.parametrize("template", [b'"%s"', b'{"a":["%s"]}', b'{"%s":1}'])
def test_a_lone_surrogate_is_bad_syntax(template: bytes, text: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_json(template % text)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'"\u0000"', "(body)"),
        (rb'{"a": "x\u0000y"}', "a"),
        (rb'{"a": [1, {"b": "\u0000"}]}', "a.1.b"),
        (rb'["x", "\u0000"]', "1"),
        (rb'{"\u0000": 1}', "(body)"),
        (rb'{"a": {"x\u0000": 1}}', "a"),
        (rb'[[{"\u0000": {}}]]', "0.0"),
    ],
)
def test_nul_in_a_key_or_value_is_refused_naming_its_place(body: bytes, field: str) -> None:
    with pytest.raises(Invalid, match="NUL") as caught:
        parse_json(body)
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'"\u0000"', "\ufffd"),
        (rb'{"a": "x\u0000\u0000y"}', {"a": "x\ufffd\ufffdy"}),
        (rb'{"a\u0000": 1}', {"a\ufffd": 1}),
        (rb'"\\u0000"', r"\u0000"),
        (rb'"\\\u0000"', "\\\ufffd"),
        (rb'"\\\\u0000"', r"\\u0000"),
        (rb'"\n\u0000\u00000"', "\n\ufffd\ufffd0"),
        (rb'"\ud83d\ude00\u0000"', "\N{GRINNING FACE}\ufffd"),
        (rb'"a\uD83D"', "a\ufffd"),
        (rb'"\ude00\ud83d\ude00"', "\ufffd\N{GRINNING FACE}"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\N{GRINNING FACE}"),
        (rb'["\\ud83d", "\ud83d"]', [r"\ud83d", "\ufffd"]),
    ],
)
def test_what_cannot_be_stored_is_replaced_where_that_is_wanted_and_nothing_else_is(body: bytes, expected: Any) -> None:
    assert parse_json_cleaned(body) == expected


@pytest.mark.parametrize("body", [b"", b"{", b'"\xed\xa0\x80"', b'"\xff\\u0000"', rb'"\u00"', rb'{"a": "\u0000",}'])
def test_what_is_no_json_stays_bad_syntax(body: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_json_cleaned(body)


@pytest.mark.parametrize("innermost", [rb'"\u0000"', rb'{"\u0000":1}'])
def test_nul_is_found_at_the_greatest_depth(innermost: bytes) -> None:
    depth = MAX_DEPTH - 1
    with pytest.raises(Invalid, match="NUL"):
        parse_json(b"[" * depth + innermost + b"]" * depth)


def test_a_long_path_is_cut_in_the_error() -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(b'{"' + b"k" * 5000 + rb'":"\u0000"}')
    assert caught.value.errors[0].field == "k" * 200
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("body", [_lists(MAX_DEPTH), _objects(MAX_DEPTH), b"[" * MAX_DEPTH + b"0" + b"]" * MAX_DEPTH])
def test_the_greatest_depth_is_allowed(body: bytes) -> None:
    parse_json(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_lists(MAX_DEPTH + 1), id="lists"),
        pytest.param(_objects(MAX_DEPTH + 1), id="objects"),
        pytest.param(_lists(1024), id="as deep as the parser goes"),
        pytest.param(_lists(100_000), id="deeper than the parser goes"),
        pytest.param(b"[" * 100_000, id="deep and unclosed"),
    ],
)
def test_more_depth_is_bad_syntax(body: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_json(body)


@pytest.mark.parametrize("number", [0, 2**53 + 1, 2**63, 2**64 - 1, -(2**63)])
def test_an_integer_within_64_bits_is_kept_exactly(number: int) -> None:
    parsed = parse_json(b"[%d]" % number)
    assert parsed == [number]
    assert type(parsed[0]) is int


@pytest.mark.parametrize("number", [b"%d" % 2**64, b"-%d" % 2**64, b"9" * 300, b"1e300", b"-1e19"])
@pytest.mark.parametrize(("template", "field"), [(b"%s", "(body)"), (b'{"a":[0,%s]}', "a.1")])
def test_a_number_out_of_range_is_refused_naming_its_place(template: bytes, field: str, number: bytes) -> None:
    with pytest.raises(Invalid, match="2\\^64") as caught:
        parse_json(template % number)
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize("number", [-(2**63) - 1, -(2**63) - 1000])
def test_an_integer_just_below_the_range_is_refused(number: int) -> None:
    with pytest.raises(Invalid):
        parse_json(b"%d" % number)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_zeros(MAX_MEMBERS), id="list"),
        pytest.param(_members(MAX_MEMBERS), id="object"),
        pytest.param(b"[" + _zeros(MAX_MEMBERS - 1) + b"]", id="nested"),
    ],
)
def test_as_many_members_as_allowed_are_read(body: bytes) -> None:
    parse_json(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_zeros(MAX_MEMBERS + 1), id="list"),
        pytest.param(_members(MAX_MEMBERS + 1), id="object"),
        pytest.param(b"[" + _zeros(MAX_MEMBERS) + b"]", id="nested"),
        pytest.param(b"[" + b",".join([_zeros(9)] * (MAX_MEMBERS // 10)) + b",0]", id="spread over many lists"),
    ],
)
def test_more_members_in_all_are_refused(body: bytes) -> None:
    with pytest.raises(Invalid, match="too many members"):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"a":1,"a":2}', {"a": 2}), (rb'{"a":1,"\u0061":2}', {"a": 2}), (rb'{"a":"\u0000","a":2}', {"a": 2})],
)
def test_of_duplicate_keys_the_last_counts(body: bytes, expected: Any) -> None:
    assert parse_json(body) == expected


def test_a_long_key_is_not_copied_for_every_member_below_it() -> None:
    body = b'{"' + b"k" * 10_000 + b'":' + _zeros(2000) + b"}"
    tracemalloc.start()
    try:
        parse_json(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_around_a_byte_order_mark_at_the_start_is_ignored() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}') == {"a": "\ufeff"}


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_around_a_byte_order_mark_alone_is_an_empty_body(body: bytes) -> None:
    with pytest.raises(BadSyntax, match="empty"):
        parse_json(body)


@pytest.mark.parametrize(
    ("codings", "expected"),
    [
        ([], False),
        (["identity"], False),
        (["Identity"], False),
        (["identity, identity"], False),
        (["gzip"], True),
        (["identity", "gzip"], True),
        (["identity,br"], True),
        ([""], True),
    ],
)
def test_around_identity_is_no_content_encoding(codings: list[str], *, expected: bool) -> None:
    headers = CIMultiDict([("Content-Encoding", coding) for coding in codings])
    assert is_encoded(make_mocked_request("POST", "/", headers=headers)) is expected
