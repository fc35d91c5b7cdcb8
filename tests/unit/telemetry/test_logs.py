"""The log: one line for each event, without credentials."""

import subprocess
import sys

import orjson
from hypothesis import given
from hypothesis import strategies as st

from server.telemetry.logs import _MARKS, _SECRETS, redact

SECRETS = (
    "hf_" + "a" * 20,
    "sk-abcdefgh1",
    "sb_secret_x1",
    "ask_" + "k" * 49,
    "eyJhbGciOi.eyJzdWIi.c2ln",
    "BEARER\tsomething",
    "postgresql://user:pass@host/db",
)
PROGRAM = """
import logging, structlog, sys, uuid
from types import SimpleNamespace
from server.telemetry.logs import logging_to

log = structlog.get_logger("test")
with logging_to(sys.stdout, SimpleNamespace(log_format=None, log_level="info")):
    log.debug("quiet")
    log.info("http", status=200, ms=0.1, user=uuid.UUID(int=7), id=None)
    for secret in sys.argv[1:]:
        log.warning("leak", text=f"line\\n{secret} rest", number=1)
    try:
        raise ValueError(sys.argv[1])
    except ValueError:
        log.exception("crashed", odd=object)
    logging.getLogger("library").error("it says %s", sys.argv[1])
"""


def test_a_line_is_json_with_time_and_level_first_and_without_credentials() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *SECRETS], check=True, capture_output=True, text=True)
    http, *leaks, crashed, library = (orjson.loads(line) for line in done.stdout.splitlines())
    assert list(http)[:3] == ["timestamp", "level", "event"]
    assert http["timestamp"].endswith("Z")
    del http["timestamp"]
    user = "00000000-0000-0000-0000-000000000007"
    assert http == {"level": "info", "event": "http", "status": 200, "ms": 0.1, "user": user, "id": None}
    assert [(line["level"], line["number"]) for line in leaks] == [("warning", 1)] * len(SECRETS)
    assert all("[redacted]" in line["text"] for line in leaks)
    assert "ValueError: [redacted]" in crashed["exception"]
    assert (crashed["level"], crashed["odd"]) == ("error", "<class 'object'>")
    assert (library["level"], library["event"], library["logger"]) == ("error", "it says [redacted]", "library")
    assert not any(secret in done.stdout for secret in SECRETS)


@given(st.from_regex(_SECRETS), st.text(max_size=20), st.text(max_size=20))
def test_a_line_with_a_credential_has_a_mark(secret: str, before: str, after: str) -> None:
    text = f"{before} {secret} {after}"
    if redact(text) != text:
        assert any(mark in orjson.dumps(text).decode().lower() for mark in _MARKS)
