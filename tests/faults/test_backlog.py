"""Some users fill the backlog, each as far as it goes: what is left for the others."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.processes import ServerProcess, server_process

HOLDERS = 4
BACKLOG = 60
PER_USER = 40
_SLOW = "offline/slow-20s"


@contextmanager
def _server(tmp_path: Path, **settings: str) -> Iterator[ServerProcess]:
    limits = {"CONCURRENCY": "1", "MAX_BACKLOG": str(BACKLOG), "MAX_BACKLOG_PER_USER": str(PER_USER), "DRAIN_S": "0"}
    with server_process(tmp_path / "data", **(limits | settings)) as server:
        yield server


def _fill(server: ServerProcess, name: str) -> "Counter[int]":
    """One user more, who sends more than any limit lets in; how often it got which status."""
    server.sign_up(f"{name}@example.com")
    return Counter(server.create(model=_SLOW)[0] for _ in range(PER_USER + 20))


def test_i2_requests_that_are_not_due_take_no_place_of_others(tmp_path: Path) -> None:
    """At ten requests a minute, nearly all of what four users send is put off."""
    with _server(tmp_path, RATE_LIMIT_PER_MINUTE="10") as server:
        answers = [_fill(server, f"holder-{number}") for number in range(HOLDERS)]
        assert all(set(answer) == {202, 429} for answer in answers)
        server.sign_up("late@example.com")
        assert [server.create()[0] for _ in range(5)] == [202] * 5


def test_i2_a_full_backlog_refuses_its_largest_holders_and_nobody_who_holds_nothing(tmp_path: Path) -> None:
    with _server(tmp_path) as server:
        answers = [_fill(server, f"holder-{number}") for number in range(HOLDERS)]
        assert answers[0][202] >= PER_USER
        assert all(answer[429] + answer[503] > 0 for answer in answers)
        for number in range(10):
            server.sign_up(f"late-{number}@example.com")
            assert server.create()[0] == 202


def test_i4_nobody_waits_for_the_end_of_one_users_slow_generations(tmp_path: Path) -> None:
    """One user fills every slot that one user can have, and the backlog behind them. Two others come then."""
    with _server(tmp_path, CONCURRENCY="16") as server:
        _fill(server, "holder")
        for number in range(2):
            server.sign_up(f"late-{number}@example.com")
            status, request = server.create(prefer="wait=15")
            assert (status, request["status"]) == (200, "completed")
            assert request["processing_time"] < 10
