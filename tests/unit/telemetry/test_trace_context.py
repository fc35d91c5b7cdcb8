"""`traceparent`: taken from callers that send a valid one, and from no others."""

import pytest

from server.telemetry.trace_context import read_traceparent, trace_id_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
VALID = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def test_a_valid_header_is_kept_with_its_trace_id() -> None:
    assert read_traceparent(VALID) == VALID
    assert trace_id_of(VALID) == TRACE_ID


def test_a_later_version_is_reduced_to_the_fields_of_version_00() -> None:
    assert read_traceparent(f"cc{VALID[2:]}-what-comes-later") == VALID


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        VALID.upper(),
        f"{VALID}-more",
        f"ff{VALID[2:]}",
        VALID.replace(TRACE_ID, "0" * 32),
        VALID.replace("00f067aa0ba902b7", "0" * 16),
        VALID[:-1],
        f"{VALID}\n",
    ],
)
def test_an_invalid_header_is_ignored(header: str | None) -> None:
    assert read_traceparent(header) is None
    assert trace_id_of(None) is None
