"""Tries every client on two real servers: `python -m tests.clients.v1`.

One server has an upstream, the other one the offline double. Prints a table of clients and scenarios for each. Exits
with 1 if a client fails in a scenario that it has, or if none could be installed.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.v1 import expected, scenarios
from tests.clients.v1.clients import CLIENTS, DENO, Client
from tests.clients.v1.environments import Unreachable, python_of
from tests.clients.v1.scenarios import Target
from tests.clients.v1.upstream import respond
from tests.deno import fetch_packages
from tests.fakes.huggingface import FakeHuggingFace
from tests.faults.processes import serving

AT_ONCE = 2
WIDTH = 48
Row = dict[str, str | None]


def installed(wanted: str) -> dict[Client, Path]:
    """The clients whose names contain this text, with the interpreter of each; says what cannot be installed."""
    found: dict[Client, Path] = {}
    for client in CLIENTS:
        if wanted not in client.name:
            continue
        try:
            if client.environment == DENO:
                fetch_packages(client.path)
            found[client] = Path() if client.environment == DENO else python_of(client.environment)
        except (Unreachable, pytest.skip.Exception) as reason:
            print(f"skipped: {client.name}: {reason}", flush=True)
    return found


async def try_all(clients: dict[Client, Path], wanted: str) -> bool:
    """Print the tables; returns whether there was no fault."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = await stack.enter_async_context(FakeHuggingFace(default=respond))
        online = await stack.enter_async_context(
            serving(
                folder / "online", INFERENCE_BACKEND="huggingface", HF_BASE_URL=upstream.url, TEXT_MODELS="org/model"
            )
        )
        offline = await stack.enter_async_context(serving(folder / "offline", INFERENCE_BACKEND="offline"))
        tables = [
            ("With an upstream", online, expected.SCENARIOS, expected.fault),
            ("With the offline double", offline, expected.OFFLINE, expected.offline_fault),
        ]
        are_good = True
        for title, server, names, check in tables:
            some = [name for name in names if wanted in name]
            url = f"http://127.0.0.1:{server.port}/v1"
            target = Target(url, server.token, some, check, is_offline=server is offline)
            are_good &= show(title, target, await rows_of(clients, target))
    return are_good


async def rows_of(clients: dict[Client, Path], target: Target) -> dict[Client, Row]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def row(client: Client, python: Path) -> Row:
        async with slots:
            return await scenarios.run(client, target, python)

    rows = await asyncio.gather(*(row(client, python) for client, python in clients.items()))
    return dict(zip(clients, rows, strict=True))


def show(title: str, target: Target, rows: dict[Client, Row]) -> bool:
    """Print one table, then its faults and reasons; returns whether there was no fault."""
    names = target.scenarios
    reasons = {client: client.reasons_at(is_offline=target.is_offline) for client in rows}
    print(f"\n{title}\n{'':{WIDTH}}" + "".join(f"{name:12}" for name in names))
    for client, row in rows.items():
        cells = ["-" if name in reasons[client] else "FAILS" if row[name] else "ok" for name in names]
        print(f"{client.name + ' ' + client.version:{WIDTH}}" + "".join(f"{cell:12}" for cell in cells))
    for client in rows:
        for name in reasons[client].keys() & set(names):
            print(f"-  {client.name}, {name}: {reasons[client][name]}")
    faults = [(client, name, fault) for client, row in rows.items() for name, fault in row.items() if fault]
    for client, name, fault in faults:
        print(f"\n{client.name}, {name}: {fault[-600:]}")
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.v1", description=__doc__)
    parser.add_argument("--client", default="", help="only clients whose names contain this text")
    parser.add_argument("--scenario", default="", help="only scenarios whose names contain this text")
    options = parser.parse_args()
    clients = installed(options.client)
    if not clients:
        return 1
    are_good = asyncio.run(try_all(clients, options.scenario))
    return 0 if are_good else 1


if __name__ == "__main__":
    sys.exit(main())
