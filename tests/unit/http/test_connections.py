"""Places for connections: who is closed for whom, what is kept for health checks, and that the counts stay right."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from server.http import connections as connections_module
from server.http.connections import Connections, Place, RareReport
from tests.signals import log_lines


@dataclass(eq=False)
class Fake:
    """A connection that notes that it was closed."""

    address: str = ""
    place: Place = Place.NONE
    is_dropped: bool = field(default=False)

    def drop(self) -> None:
        self.is_dropped = True


def _open(places: Connections, address: str, count: int, *, busy: bool = False) -> list[Fake]:
    opened = [Fake() for _ in range(count)]
    for one in opened:
        places.admit(one, address)
        if busy:
            places.begin(one)
    return opened


def _dropped(fakes: list[Fake]) -> list[int]:
    return [number for number, fake in enumerate(fakes) if fake.is_dropped]


async def test_beyond_its_cap_the_oldest_idle_one_of_an_address_is_closed() -> None:
    places = Connections(100, max_idle_per_address=3)
    ours = _open(places, "192.0.2.1", 5)
    others = _open(places, "192.0.2.2", 3)
    assert _dropped(ours) == [0, 1]
    assert _dropped(others) == []
    assert len(places) == 6


async def test_busy_ones_do_not_count_for_the_cap_and_rest_at_the_end_of_the_queue() -> None:
    places = Connections(100, max_idle_per_address=2)
    busy = _open(places, "192.0.2.1", 50, busy=True)
    first, second = _open(places, "192.0.2.1", 2)
    places.begin(first)
    places.end(first)
    _open(places, "192.0.2.1", 1)
    assert (first.is_dropped, second.is_dropped) == (False, True)
    assert _dropped(busy) == []


async def test_a_trusted_proxy_has_no_cap() -> None:
    places = Connections(100, max_idle_per_address=2, proxies=[ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
    for address in ("10.1.2.3", "2001:db8::/64"):
        assert _dropped(_open(places, address, 9)) == []
    for address in ("192.0.2.1", "2001:db9::/64", "", "unknown"):
        assert _dropped(_open(places, address, 3)) == [0]


async def test_without_a_place_left_the_address_with_most_idle_ones_gives_its_oldest() -> None:
    places = Connections(10)
    waiting = _open(places, "192.0.2.1", 5, busy=True)
    crowd = _open(places, "192.0.2.2", 4)
    single = _open(places, "192.0.2.3", 1)
    [newcomer] = _open(places, "192.0.2.4", 1)
    assert _dropped(crowd) == [0]
    assert not _dropped(waiting + single)
    assert newcomer.place is Place.ORDINARY
    assert len(places) == 10


async def test_a_crowd_cannot_close_the_few_of_others() -> None:
    places = Connections(200)
    few = [one for number in range(20) for one in _open(places, f"192.0.2.{number}", 1)]
    _open(places, "198.51.100.1", 1000)
    assert _dropped(few) == []
    assert len(places) == 200


async def test_a_newcomer_outlives_as_many_newcomers_as_its_address_holds() -> None:
    places = Connections(50)
    _open(places, "192.0.2.1", 60)
    [probe] = _open(places, "192.0.2.1", 1)
    _open(places, "192.0.2.1", 49)
    assert not probe.is_dropped


async def test_with_nothing_idle_newcomers_get_the_reserve_and_the_oldest_there_that_is_silent_goes() -> None:
    places = Connections(3, reserve=2)
    waiting = _open(places, "192.0.2.1", 3, busy=True)
    first, second = _open(places, "192.0.2.2", 2)
    assert (first.place, second.place) == (Place.RESERVE, Place.RESERVE)
    places.begin(first)
    [third] = _open(places, "192.0.2.2", 1)
    assert (first.is_dropped, second.is_dropped, third.place) == (False, True, Place.RESERVE)
    places.begin(third)
    [fourth] = _open(places, "192.0.2.2", 1)
    assert (fourth.is_dropped, fourth.place) == (True, Place.NONE)
    assert not _dropped(waiting)
    assert len(places) == 5


async def test_whoever_leaves_makes_room_once() -> None:
    places = Connections(2, reserve=1)
    first, second = _open(places, "192.0.2.1", 2, busy=True)
    for _ in range(2):
        places.leave(first)
    places.end(first)  # its handler ends later
    assert len(places) == 1
    [third] = _open(places, "192.0.2.1", 1)
    assert third.place is Place.ORDINARY
    for one in (second, third):
        places.leave(one)
    assert len(places) == 0
    assert not places._idle


async def test_counts_are_logged_with_who_holds_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_FIRST_REPORT_S", 0.0)
    places = Connections(3, max_idle_per_address=2, reserve=1)
    _open(places, "192.0.2.1", 4)
    _open(places, "192.0.2.2", 2)
    with log_lines() as log:
        await log.wait("connections_full")
    [line] = log.lines
    assert (line["log_level"], line["limit"]) == ("warning", 3)
    assert (line["closed_over_cap"], line["closed_for_room"]) == (2, 1)
    assert line["most_idle"] == 2


async def test_a_report_comes_once_in_its_time_and_leaves_no_count_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_FIRST_REPORT_S", 0.0)
    monkeypatch.setattr(connections_module, "_REPORT_S", 0.05)
    reports: asyncio.Queue[Counter[str]] = asyncio.Queue()
    report = RareReport(reports.put_nowait)
    report.count("a")
    assert await reports.get() == {"a": 1}
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        report.count("a")
    report.count("b")
    assert await reports.get() == {"a": 3, "b": 1}
    assert asyncio.get_running_loop().time() - began > 0.02
