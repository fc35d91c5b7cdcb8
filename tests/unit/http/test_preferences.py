import pytest

from server.errors import FieldError, Invalid
from server.http.preferences import Waiting, read_preferences, read_wait_parameter


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["wait=5"], Waiting(5.0, "wait=5")),
        (["WAIT = 5"], Waiting(5.0, "wait=5")),
        (['wait="5"'], Waiting(5.0, "wait=5")),
        (["wait=5; strict=1"], Waiting(5.0, "wait=5")),
        (["return=minimal, wait=5"], Waiting(5.0, "wait=5")),
        (["return=minimal", "wait=5"], Waiting(5.0, "wait=5")),
        (["wait=0"], Waiting(0.0, "wait=0")),
    ],
)
def test_wait_is_followed_however_it_is_spelled(headers: list[str], expected: Waiting) -> None:
    assert read_preferences(headers, default_s=20, max_s=60) == expected


@pytest.mark.parametrize(("asked", "given"), [("59", 59), ("60", 60), ("61", 60), ("999999999", 60)])
def test_wait_is_capped_and_the_cap_is_what_is_said_to_be_applied(asked: str, given: int) -> None:
    assert read_preferences([f"wait={asked}"], default_s=20, max_s=60) == Waiting(given, f"wait={given}")


@pytest.mark.parametrize("headers", [["wait=5, wait=7"], ["wait=5", "wait=7"], ["wait=x, wait=5"]])
def test_the_first_well_formed_wait_counts(headers: list[str]) -> None:
    assert read_preferences(headers, default_s=20, max_s=60) == Waiting(5.0, "wait=5")


@pytest.mark.parametrize(
    "headers",
    [
        ["respond-async"],
        ["Respond-Async"],
        [" respond-async ; foo=bar"],
        ["respond-async, wait=5"],
        ["wait=5, respond-async"],
        ["wait=5", "respond-async"],
    ],
)
def test_respond_async_does_not_wait_and_wins_over_wait(headers: list[str]) -> None:
    assert read_preferences(headers, default_s=20, max_s=60) == Waiting(0.0, "respond-async")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        [",;,"],
        ["wait"],
        ["wait="],
        ["wait=-1"],
        ["wait=1.5"],
        ["wait=1e1"],
        ["wait=1_0"],
        ["wait=soon"],
        ["wait=\N{ARABIC-INDIC DIGIT THREE}"],
        ["wait=5 6"],
        ["await=5"],
        ["respond-async-later"],
        ["return=minimal"],
    ],
)
def test_what_is_malformed_or_unknown_leaves_the_default_and_claims_nothing(headers: list[str]) -> None:
    waiting = read_preferences(headers, default_s=20, max_s=60)
    assert waiting == Waiting(20)
    assert waiting.headers == {}


@pytest.mark.parametrize("header", ['wait="5', 'wait=5"', 'note="a, wait=5, b"', 'note="a, respond-async, b"'])
def test_a_quoted_string_is_read_as_one_value(header: str) -> None:
    assert read_preferences([header], default_s=20, max_s=60) == Waiting(20)


@pytest.mark.parametrize("applied", ["respond-async", "wait=5"])
def test_what_was_applied_is_said_in_the_header(applied: str) -> None:
    assert Waiting(5.0, applied).headers == {"Preference-Applied": applied}


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0), ("0.5", 0.5), ("30", 30), ("60", 60), ("61", 60), ("9" * 19, 60)]
)
def test_wait_parameter_is_read_and_capped_and_is_no_preference(value: str, seconds: float) -> None:
    assert read_wait_parameter(value, max_s=60) == Waiting(seconds)


@pytest.mark.parametrize("value", ["", " ", "x", "-1", "-0.1", "nan", "inf", "-inf", "1e999", "0x10", "1,5", "9" * 20])
def test_wait_parameter_that_is_no_number_of_seconds_is_refused(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_wait_parameter(value, max_s=60)
    assert caught.value.errors == (FieldError("wait", "must be a number"),)
