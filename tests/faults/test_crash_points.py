"""The server dies at the beginning of its Nth write, for every N: to Postgres, to a client, to upstream."""

import asyncio
import contextlib
import http.client
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import tools
from tests.faults.audit import Audit, audit, settle
from tests.faults.clients import GONE, Clients, Told
from tests.faults.processes import ServerProcess, serving
from tests.faults.strace import NEVER, Strace
from tests.faults.upstream import CountingUpstream
from tests.postgres import Cluster

AT_START, AT_WORK = 1, 6
"""Crash points of the short form, evenly spread over the writes until the server is ready and over those after."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@tools.needs(tools.STRACE)
async def test_no_write_is_one_at_which_a_crash_loses_or_repeats_a_request(
    tmp_path: Path, cluster_18: Cluster, database: str, *, is_soak: bool
) -> None:
    killed: Counter[str] = Counter()
    async with (
        CountingUpstream(delay_s=lambda _: 0.02) as upstream,
        serving(tmp_path / "data", DATABASE_URL=database, HF_BASE_URL=upstream.url) as server,
    ):
        await asyncio.to_thread(server.stop)  # the databases of the crashes are copies of its own
        crashes = _Crashes(server, upstream, cluster_18, Strace(server, tmp_path / "strace"))
        assert await crashes.run(NEVER) is None
        ready, total = crashes.sends_until_ready, len(crashes.targets)
        print(f"{ready} writes until it is ready, {total} in all: {dict(Counter(crashes.targets))}")
        for number in itertools.count(1) if is_soak else _spread(ready, total):
            if (target := await crashes.run(number)) is None:
                break
            killed[target] += 1
    print(f"{killed.total()} crashes: {dict(killed)}")
    assert killed.total() >= (total if is_soak else AT_START + AT_WORK)
    assert set(killed) >= ({"Postgres", "client", "upstream"} if is_soak else {"Postgres"})


def _spread(ready: int, total: int) -> Iterable[int]:
    yield from (ready * (2 * number + 1) // (2 * AT_START) for number in range(AT_START))
    yield from (ready + (total - ready) * (2 * number + 1) // (2 * AT_WORK) for number in range(AT_WORK))


@dataclass(slots=True)
class _Script:
    """What one client does, once and in this order, whether or not the server is there to answer."""

    clients: Clients
    prompt: str
    heard: dict[str, int] = field(default_factory=dict)
    """The statuses of the answers."""
    keyed: list[Told] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    is_late: bool = False
    """It was played after the crash, because the server never got ready before it."""

    @property
    def is_cut(self) -> bool:
        return GONE in self.heard.values()

    async def play(self) -> None:
        first = await self._create("create", has_key=True)
        second = await self._create("create and wait", has_key=True, waits=True)
        self.keyed = [first, second]
        if first.is_acknowledged:
            status, item = await self._get("long-poll", f"/api/requests/{first.id}?wait=30")
            first.item = item if status == 200 else first.item
        await self._create("create again")
        status, items = await self._get("list", "/api/requests?limit=1000")
        self.listed = items if status == 200 else []
        assert set(self.heard.values()) <= {200, 202, GONE}

    async def _create(self, step: str, *, has_key: bool = False, waits: bool = False) -> Told:
        [told] = await self.clients.send(1, prompt=self.prompt, has_key=has_key, waits=waits)
        assert told.status is not None
        self.heard[step] = told.status
        return told

    async def _get(self, step: str, path: str) -> tuple[int, Any]:
        status, body = GONE, None
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, body = await asyncio.to_thread(self.clients.server.call, "GET", path)
        self.heard[step] = status
        return status, body


@dataclass(slots=True)
class _Crashes:
    """Each against a database of its own, cleared up by a server that nobody kills."""

    server: ServerProcess
    upstream: CountingUpstream
    cluster: Cluster
    strace: Strace
    sends_until_ready: int = 0
    targets: list[str] = field(default_factory=list)
    """Of a run that nothing ended."""

    async def run(self, number: int) -> str | None:
        """Let it die at this write; returns to whom that went, None if the script was over before so many writes."""
        settings = self.server.settings
        with self.cluster.database(urlsplit(settings["DATABASE_URL"]).path[1:]) as url:
            self.server.settings = settings | {"DATABASE_URL": url}
            script = _Script(Clients(self.server), f"write {number}")
            try:
                target = await self._crash(number, script)
                result = await self._clear_up(url, script)
            finally:
                await asyncio.to_thread(self.server.kill_all)
                self.server.settings = settings
        heard = ", ".join(f"{step} {status or '-'}" for step, status in script.heard.items())
        when = "after it" if script.is_late else "heard"
        print(f"write {number:5} to {target or 'nobody':8} | {when}: {heard} | rows {dict(result.statuses)}")
        return target

    async def _crash(self, number: int, script: _Script) -> str | None:
        async with self.strace.killing_at(number) as is_ready:
            if is_ready:
                self.sends_until_ready = len(self.strace.targets())
                await script.play()
            if not is_ready or script.is_cut or number <= len(self.targets):
                return await self.strace.prove_killed(number)
            self.targets = self.strace.targets()
            return None

    async def _clear_up(self, url: str, script: _Script) -> Audit:
        """What was acknowledged completes without its client, and a repeat under its key finds it."""
        clients = script.clients
        await asyncio.to_thread(self.server.start)
        await self._audit(url, script)
        if not script.heard:
            script.is_late = True
            await script.play()
            assert not script.is_cut
        for told in script.keyed:
            again = await clients.repeat(told)
            assert again.is_acknowledged
            assert not told.is_acknowledged or again.id == told.id
        result = await self._audit(url, script)  # one row for each key
        await asyncio.to_thread(self.server.kill)
        return result

    async def _audit(self, url: str, script: _Script) -> Audit:
        await settle(url, timeout_s=60)
        result = await audit(url, script.clients, self.upstream)
        assert set(result.statuses) <= {"completed"}
        assert {item["id"] for item in script.listed} <= set(result.rows)
        return result
