"""Places for connections: a limit for all, a cap on idle ones per address, and a reserve for health checks.

A connection is idle while no request is in progress on it: it has sent nothing or incomplete headers, or it is between
two requests. Only idle connections are closed to make room, so that thousands of clients may wait behind one proxy.
"""

import asyncio
import contextlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum, auto
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Protocol

import structlog

MAX_CONNECTIONS = 10_000
"""Waiting clients and a few more: each takes 15 to 30 KB, and a container has 512 MB."""
MAX_IDLE_PER_ADDRESS = 1_000
RESERVE = 64
"""Places beyond the limit. Only health checks are answered there."""
_FIRST_REPORT_S, _REPORT_S = 1.0, 60.0
_VICTIMS = 64

Network = IPv4Network | IPv6Network

log = structlog.get_logger(__name__)


class Place(Enum):
    NONE = auto()
    ORDINARY = auto()
    RESERVE = auto()


_NONE, _ORDINARY, _RESERVE = Place  # access to an enum member costs as much as the rest of `begin`


class Connection(Protocol):
    """`address` and `place` belong to `Connections`."""

    address: str
    place: Place

    def drop(self) -> None:
        """Close at once and discard unsent data."""


class Connections:
    """All open connections of one server. `proxies` are networks whose addresses have no cap of their own.

    The cost of a method does not depend on the number of connections: one search finds many connections to close.
    """

    def __init__(
        self,
        limit: int = MAX_CONNECTIONS,
        *,
        max_idle_per_address: int = MAX_IDLE_PER_ADDRESS,
        reserve: int = RESERVE,
        proxies: Iterable[Network] = (),
    ) -> None:
        self._limit = limit
        self._max_idle = max_idle_per_address
        self._reserve = reserve
        self._proxies = tuple(proxies)
        self._sizes = {_ORDINARY: 0, _RESERVE: 0}
        self._idle: dict[str, dict[Connection, None]] = {}  # per address, the longest idle first
        self._idle_in_reserve: dict[Connection, None] = {}
        self._victims: list[Connection] = []
        self._report = RareReport(self._log_full)

    def __len__(self) -> int:
        return sum(self._sizes.values())

    def admit(self, connection: Connection, address: str) -> None:
        """Give a new connection its `place`, closing another one if necessary; `Place.NONE`: it was closed itself."""
        connection.address = address
        idle = self._idle.get(address, {})
        if len(idle) >= self._max_idle and not self._is_proxy(address):
            self._close(next(iter(idle)), "closed_over_cap")
        if self._sizes[_ORDINARY] >= self._limit and (victim := self._find_victim()) is not None:
            self._close(victim, "closed_for_room")
        if self._sizes[_ORDINARY] < self._limit:
            self._seat(connection, _ORDINARY)
            return
        if self._sizes[_RESERVE] >= self._reserve and self._idle_in_reserve:
            self._close(next(iter(self._idle_in_reserve)), "closed_in_reserve")
        if self._sizes[_RESERVE] < self._reserve:
            self._seat(connection, _RESERVE)
            return
        self._report.count("dropped")
        connection.drop()

    def begin(self, connection: Connection) -> None:
        """Mark the connection busy: a complete request head has arrived."""
        if (idle := self._idle.get(connection.address)) is not None:
            idle.pop(connection, None)
        if self._idle_in_reserve:
            self._idle_in_reserve.pop(connection, None)

    def end(self, connection: Connection) -> None:
        """Mark the connection idle: its last request was answered."""
        if connection.place is _ORDINARY:
            idle = self._idle.get(connection.address)
            if idle is None:
                self._idle[connection.address] = {connection: None}
            else:
                idle[connection] = None
        elif connection.place is _RESERVE:
            self._idle_in_reserve[connection] = None

    def leave(self, connection: Connection) -> None:
        """Free the place of a closed connection without a running handler. May be called twice."""
        if connection.place is _NONE:
            return
        self.begin(connection)
        if not self._idle.get(connection.address, True):
            del self._idle[connection.address]
        self._sizes[connection.place] -= 1
        connection.place = _NONE

    def refuse(self) -> None:
        """Count a request that was refused because its connection is in the reserve."""
        self._report.count("refused")

    def _seat(self, connection: Connection, place: Place) -> None:
        connection.place = place
        self._sizes[place] += 1
        self.end(connection)

    def _close(self, connection: Connection, why: str) -> None:
        self._report.count(why)
        self.leave(connection)
        connection.drop()

    def _is_proxy(self, address: str) -> bool:
        with contextlib.suppress(ValueError):
            here = ip_network(address)
            return any(here.version == network.version and here.overlaps(network) for network in self._proxies)
        return False

    def _find_victim(self) -> Connection | None:
        """The longest idle connection of the address with the most idle connections."""
        for _ in range(2):
            while self._victims:
                victim = self._victims.pop()
                if victim in self._idle.get(victim.address, ()):
                    return victim
            self._victims = self._choose_victims()[::-1]
        return None

    def _choose_victims(self) -> list[Connection]:
        """The next connections to close; one search for many of them, since it visits all addresses."""
        heap = [(-len(idle), number, iter(idle)) for number, idle in enumerate(self._idle.values()) if idle]
        heapq.heapify(heap)
        victims: list[Connection] = []
        while heap and len(victims) < _VICTIMS:
            left, number, oldest = heap[0]
            victims.append(next(oldest))
            if left == -1:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (left + 1, number, oldest))
        return victims

    def _log_full(self, counts: "Counter[str]") -> None:
        address, idle = max(self._idle.items(), key=lambda item: len(item[1]), default=("", {}))
        sizes = {"open": self._sizes[_ORDINARY], "in_reserve": self._sizes[_RESERVE], "limit": self._limit}
        log.warning("connections_full", **counts, **sizes, most_idle_from=address, most_idle=len(idle))


class RareReport:
    """Counts frequent events. `write` gets the counts one second after the first event, then once a minute at most."""

    def __init__(self, write: "Callable[[Counter[str]], Any]") -> None:
        self._write = write
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0

    def count(self, what: str) -> None:
        self._counts[what] += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + _FIRST_REPORT_S, self._next_at), self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._next_at = asyncio.get_running_loop().time() + _REPORT_S
        counts, self._counts = self._counts, Counter()
        self._write(counts)
