"""The server dies just before its Nth write, for every N: to Postgres, to a client, to upstream, to its log."""

import asyncio
import contextlib
import re
import shutil
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from tests.faults.audit import audit, settle
from tests.faults.clients import Clients, Told
from tests.faults.processes import ServerProcess, serving
from tests.faults.upstream import CountingUpstream

POINTS = 8
"""Of the short form, evenly spread."""
NEVER = 65_535
"""The greatest number that strace takes."""
# uvloop writes with write(2) whatever it writes to; the others stand here for another loop.
SENDS = "write,writev,sendto,sendmsg"
_WRITE = re.compile(r"^(\d+) +(?:write|writev|sendto|sendmsg)\(\d+<([^>]*->[^>]*|[^>]*)>", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (apt-get install strace)")
async def test_no_write_is_one_too_many_or_too_few(tmp_path: Path, database: str, *, is_soak: bool) -> None:
    async with CountingUpstream(delay_s=lambda _: 0.02) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url}
        async with serving(tmp_path / "data", **settings) as server:
            crashes = _Crashes(server, Clients(server), upstream, database, tmp_path / "strace")
            await asyncio.to_thread(server.stop)
            await crashes.run(NEVER)
            total = crashes.writes()
            points = count(1) if is_soak else range(total // POINTS, total, total // POINTS)
            killed: Counter[str] = Counter()
            for number in points:
                target = await crashes.run(number)
                print(f"write {number} of about {total}: {target or 'survived'}")
                if target is None:
                    break
                killed[target] += 1
        result = await audit(database, crashes.clients, upstream)
    print(f"{killed.total()} crashes: {dict(killed)}; rows {dict(result.statuses)}")
    assert set(result.statuses) == {"completed"}
    assert killed.total() >= (total * 0.9 if is_soak else POINTS - 2)


class _Crashes:
    """Runs one script against a server that dies at a given write, then lets another one clear up."""

    def __init__(
        self, server: ServerProcess, clients: Clients, upstream: CountingUpstream, database: str, trace: Path
    ) -> None:
        self.clients = clients
        self._server = server
        self._upstream = upstream
        self._database = database
        self._trace = trace

    def writes(self) -> int:
        """How many writes the main thread of the last run began."""
        found = _WRITE.findall(self._trace.read_text())
        return Counter(thread for thread, _ in found)[found[0][0]]

    async def run(self, number: int) -> str | None:
        """One crash; returns what it was about to write to, None if it survived the script."""
        server = self._server
        # Without --seccomp-bpf: with it strace 6.1 loses count.
        options = ("-f", "-yy", "-o", str(self._trace), "-e", f"trace={SENDS}")
        server.prefix = ("strace", *options, "-e", f"inject={SENDS}:signal=KILL:when={number}")
        keyed: list[Told] = []
        with contextlib.suppress(AssertionError):  # it may die before it is ready
            await asyncio.to_thread(server.start)
            keyed = await self._play()
        crashed = server.process is not None and server.process.poll() is not None
        await asyncio.to_thread(server.kill_all)
        server.prefix = ()
        await asyncio.to_thread(server.start)
        await settle(self._database, timeout_s=60)
        await audit(self._database, self.clients, self._upstream)
        for told in keyed:
            again = await self.clients.repeat(told)
            assert again.is_acknowledged
            assert not told.is_acknowledged or again.id == told.id
        await audit(self._database, self.clients, self._upstream)  # one row for each key
        await asyncio.to_thread(server.kill)
        return self._last_target() if crashed else None

    async def _play(self) -> list[Told]:
        """What the clients do: nothing is repeated, and nobody minds if the server is gone."""
        [first] = await self.clients.send(1, has_key=True)
        [second] = await self.clients.send(1, has_key=True, waits=True)
        await self.clients.send(1, polls=True)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._server.call, "GET", "/api/requests")
        return [first, second]

    def _last_target(self) -> str:
        text = self._trace.read_text()
        assert "killed by SIGKILL" in text
        _, target = _WRITE.findall(text)[-1]
        if target.startswith("UNIX"):
            return "Postgres"
        if target.startswith("TCP"):
            return "a client" if f"127.0.0.1:{self._server.port}->" in target else "upstream"
        return "its log" if target.endswith(".log") else "itself"
