"""Workers ask each other: those that are dead or hang do not keep the others from answering."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.monitoring import siblings as module
from server.monitoring.siblings import ALONE, Siblings


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")  # short: the path of a socket has at most 107 characters


async def test_each_worker_gets_the_answers_of_the_others(folder: Path) -> None:
    workers = [Siblings(folder, number, 3) for number in range(3)]
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker.answering(str(worker.number).encode))
        assert await workers[0].ask() == {1: b"1", 2: b"2"}
        assert await workers[2].ask() == {0: b"0", 1: b"1"}


async def test_a_dead_and_a_hanging_worker_have_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    over = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with await asyncio.start_unix_server(hang, str(folder / "1.sock")):
        assert await Siblings(folder, 0, 3).ask() == {1: None, 2: None}
        over.set()


async def test_a_restarted_worker_takes_the_place_of_its_predecessor(folder: Path) -> None:
    killed = await asyncio.start_unix_server(lambda _r, _w: None, str(folder / "0.sock"))
    killed.close()
    assert (folder / "0.sock").exists()  # as after SIGKILL
    async with Siblings(folder, 0, 2).answering(lambda: b"new"):
        assert await Siblings(folder, 1, 2).ask() == {0: b"new"}


async def test_a_server_without_workers_opens_no_socket() -> None:
    async with ALONE.answering(lambda: b""):
        assert await ALONE.ask() == {}


async def test_a_worker_that_cannot_open_its_socket_works_without(folder: Path) -> None:
    with capture_logs() as logs:
        async with Siblings(folder / ("x" * 200), 0, 2).answering(lambda: b""):
            assert await Siblings(folder, 1, 2).ask() == {0: None}
    assert [entry["event"] for entry in logs] == ["metrics_not_shared"]
