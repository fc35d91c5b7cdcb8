"""File descriptors: how many connections they allow, and that their end is logged on both loops, rarely."""

import asyncio
import errno

import pytest
from structlog.testing import capture_logs

from server.commands.descriptors import connections_within, raise_limit, reporting_exhaustion
from server.http import connections
from server.http.connections import MAX_CONNECTIONS
from tests.signals import log_lines


@pytest.mark.parametrize(
    ("descriptors", "limit"),
    [(None, MAX_CONNECTIONS), (1_048_576, MAX_CONNECTIONS), (1024, 768), (256, 64), (64, 16)],
)
def test_clients_leave_descriptors_for_the_rest(descriptors: int | None, limit: int) -> None:
    with capture_logs() as logs:
        assert connections_within(descriptors, upstream=64) == limit
    assert [line["event"] for line in logs] == ["connections_limited"] * (limit < MAX_CONNECTIONS)
    assert all("ulimit -n" in line["fix"] for line in logs)


def test_the_soft_limit_becomes_the_hard_one() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        raised = raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert raised == (None if hard == resource.RLIM_INFINITY else hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_accepts_that_fail_are_logged_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_FIRST_REPORT_S", 0.0)
    loop = asyncio.get_running_loop()
    with log_lines() as log, reporting_exhaustion():
        for _ in range(1000):
            loop.call_exception_handler({"message": "accept", "exception": OSError(errno.EMFILE, "too many")})
        await log.wait("out_of_file_descriptors")
    [line] = log.lines
    assert line["accepts_failed"] == 1000


async def test_other_errors_of_the_loop_are_reported_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    with reporting_exhaustion():
        asyncio.get_running_loop().call_exception_handler({"message": "something else"})
    assert "something else" in caplog.text
