"""E-mail addresses: one spelling for each account, in the time that a short text may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.emails import MAX_EMAIL_LENGTH, normalise_email
from server.errors import Invalid

WORDS = "email: must be an e-mail address such as alice@example.com, at most 254 characters long."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Alice@EXAMPLE.com", "alice@example.com"),
        ("a@app.test", "a@app.test"),
        ("a.b-c_d+tag@mail.example.org", "a.b-c_d+tag@mail.example.org"),
        ("o'neil@example.ie", "o'neil@example.ie"),
        ("a" * 64 + "@b.co", "a" * 64 + "@b.co"),
        # other spellings of ASCII letters are the ASCII letters
        ("\uff21lice@example.com", "alice@example.com"),
        ("a@\uff42.co", "a@b.co"),
        ("\u212aate@b.co", "kate@b.co"),
        ("a\uff20b.co", "a@b.co"),
        ("a@b\u3002co", "a@b.co"),
        # the domain may be of any script; it is kept as DNS knows it
        ("a@b\u00fccher.de", "a@xn--bcher-kva.de"),
        ("a@bu\u0308cher.de", "a@xn--bcher-kva.de"),
        ("a@XN--BCHER-KVA.de", "a@xn--bcher-kva.de"),
    ],
)
def test_every_spelling_of_an_address_becomes_one(text: str, expected: str) -> None:
    assert normalise_email(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "alice",
        "@example.com",
        "alice@",
        "alice@@example.com",
        "a@b@c.co",
        "a@localhost",
        "a@test",
        "a@server.local",
        "a@example.invalid",
        "a@b..co",
        "a@.co",
        "a@-b.co",
        "a@b.co.",
        "a@b_c.co",
        "a@1.2.3.4",
        "a@127.1",
        "a@[127.0.0.1]",
        "a@[IPv6:::1]",
        "a..b@b.co",
        ".a@b.co",
        "a.@b.co",
        '"a b"@b.co',
        "<a@b.co>",
        "Alice <a@b.co>",
        "a@b.co, b@b.co",
        "a b@b.co",
        "a @b.co",
        "a@ b.co",
        "a@b.co\r\nBcc: x@y.co",
        "a\0@b.co",
        "a\u200b@b.co",
        "\u202ea@b.co",
        "\u0430dmin@b.co",
        "\u0130@b.co",
        "\u00df@b.co",
        "\u00e9@b.co",
        "e\u0301@b.co",
        "\U0001f600@b.co",
        "a\udc80@b.co",
        "a@b\udc80.co",
        "a" * 65 + "@b.co",
        "a@" + ".".join(["b" * 60] * 4) + ".co.uk.example",
        "\ufdfa" * 250 + "@b",
        "a@" + ".".join(["\u00fc" * 50] * 4) + ".de",
    ],
)
def test_what_is_no_address_is_refused_by_field_in_always_the_same_words(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        normalise_email(text)
    assert [error.field for error in caught.value.errors] == ["email"]
    assert caught.value.detail == WORDS


def test_the_longest_address_is_taken_and_a_longer_one_is_not() -> None:
    longest = "a" * 64 + "@" + ".".join(["b" * 61] * 3) + ".cc"
    assert len(longest) == MAX_EMAIL_LENGTH - 1
    assert normalise_email(longest) == longest
    with pytest.raises(Invalid):
        normalise_email(longest.replace(".cc", ".cccc"))


@pytest.mark.parametrize("text", ["a" * 100_000, "a@" + "b." * 50_000, "@" * 100_000, "a" * 250 + "@b.co"])
def test_a_long_text_is_refused_before_any_pattern_sees_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A quadratic pattern takes seconds for 100 kB."""
    monkeypatch.setattr("email_validator.validate_email", lambda *_, **__: pytest.fail("was looked at"))
    with pytest.raises(Invalid):
        normalise_email(text)


@given(st.text(max_size=300) | st.emails())
def test_a_normal_form_is_ascii_lower_case_short_and_its_own_normal_form(text: str) -> None:
    try:
        address = normalise_email(text)
    except Invalid:
        return
    assert address == address.lower()
    assert address.isascii()
    assert len(address) <= MAX_EMAIL_LENGTH
    assert normalise_email(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "a@b.co ",
        " a@b.co",
        "\ta@b.co\r\n",
        "a@b.co\u00a0",
        "\u200ea@b.co\u200b ",
        "\ufeff a@b.co",
        "a@b.co\u00ad",
        "a@b.co\ufffc",
        "a@b.co\ufe0f",
        " " * 300 + "a@b.co",
    ],
)
def test_c1_blanks_and_invisible_marks_around_an_address_are_removed(text: str) -> None:
    assert normalise_email(text) == "a@b.co"
