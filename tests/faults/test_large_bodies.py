"""Bodies of megabytes in real processes: what they cost in memory, and what is left of them after a kill."""

import asyncio
import http.client
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fakes.huggingface import Answer, End, FakeHuggingFace, chat_answer
from tests.fakes.media import PNG
from tests.faults.copy_file import MIB
from tests.faults.processes import ServerProcess, serving, until
from tests.faults.test_file_memory import Growth
from tests.faults.test_files import ALL_DUE, files_in, query

AT_ONCE, MAX_GROWTH_MIB_EACH, WARM_UP_MIB = 6, 3, 12
TEXTS, TEXT_BYTES, MAX_GROWTH_OF_TEXTS_MIB = 20, 8 * MIB, 260
PHOTO = PNG + Random(1).randbytes(15_700_000)  # noqa: S311 - the same in every run
URL = f"data:image/png;base64,{b64encode(PHOTO).decode()}"
SILENT = Answer(is_silent=True, end=End.STALL)


def message() -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": URL}}
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}


BODY = json.dumps({"model_type": "chat", "input_data": {"messages": [message()]}}).encode()


def begin(server: ServerProcess, size: int) -> http.client.HTTPConnection:
    """A create whose body has come so far."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
    connection.putrequest("POST", "/api/requests")
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json", "Prefer": "respond-async"}
    for name, value in (headers | {"Content-Length": str(len(BODY))}).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(BODY[:size])
    return connection


def finish(connection: http.client.HTTPConnection, begun: int) -> tuple[int, Any]:
    connection.send(BODY[begun:])
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def sent(upstream: FakeHuggingFace) -> list[bool]:
    """Of each call, whether it had the photograph as it was sent."""
    return [call.body["messages"] == [message()] for call in upstream.calls]


@pytest.mark.timeout(180)
async def test_bodies_of_20_mb_in_flight_take_less_than_3_mb_each(tmp_path: Path, database: str) -> None:
    begun = len(BODY) - 1000

    def send_all(process: ServerProcess) -> list[str]:
        connections = [begin(process, begun) for _ in range(AT_ONCE)]
        until(lambda: query(database, "SELECT count(*) FROM public.files WHERE state = 'arriving'")[0][0] == AT_ONCE)
        created = [finish(connection, begun) for connection in connections]
        assert [status for status, _ in created] == [202] * AT_ONCE, created
        return [item["id"] for _, item in created]

    async with (
        FakeHuggingFace(default=lambda _: chat_answer("Seen.")) as upstream,
        serving(tmp_path / "data", DATABASE_URL=database, HF_BASE_URL=upstream.url, TEXT_MODELS="org/m") as process,
    ):
        with Growth(process) as growth:
            ids = await asyncio.to_thread(send_all, process)
            for request_id in ids:
                _, item = await asyncio.to_thread(process.call, "GET", f"/api/requests/{request_id}?wait=60")
                assert item["status"] == "completed", item
        print(f"{AT_ONCE} bodies of {len(BODY) / MIB:.1f} MiB at once: memory grew by {growth.mib:.1f} MiB")
        assert growth.mib < AT_ONCE * MAX_GROWTH_MIB_EACH + WARM_UP_MIB
    assert sent(upstream) == [True] * AT_ONCE


@pytest.mark.timeout(180)
async def test_large_texts_wait_for_memory_and_all_are_answered(tmp_path: Path, database: str) -> None:
    body = {"model_type": "text2text", "input_data": {"prompt": "lorem ipsum " * (TEXT_BYTES // 12)}}

    def create_all(process: ServerProcess) -> list[str]:
        created = [process.call("POST", "/api/requests", body, Prefer="respond-async") for _ in range(TEXTS)]
        assert [status for status, _ in created] == [202] * TEXTS
        return [item["id"] for _, item in created]

    settings = {"DATABASE_URL": database, "TEXT_MODELS": "org/m", "RATE_LIMIT_PER_MINUTE": "0"}
    async with (
        FakeHuggingFace(default=lambda _: replace(chat_answer("Read."), delay_s=5.0)) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, **settings) as process,
    ):
        with Growth(process) as growth:
            ids = await asyncio.to_thread(create_all, process)
            rows = "SELECT count(*) FROM public.model_requests WHERE status = 'completed'"
            await asyncio.to_thread(until, lambda: query(database, rows)[0][0] == len(ids), timeout_s=100)
        print(f"{TEXTS} texts of {TEXT_BYTES / MIB:.0f} MiB: memory grew by {growth.mib:.0f} MiB")
        assert growth.mib < MAX_GROWTH_OF_TEXTS_MIB


@pytest.mark.timeout(180)
async def test_a_kill_between_a_body_and_its_answer_loses_nothing(tmp_path: Path, database: str) -> None:
    data_dir = tmp_path / "data"
    async with (
        FakeHuggingFace(SILENT, default=lambda _: chat_answer("Seen.")) as upstream,
        serving(data_dir, DATABASE_URL=database, HF_BASE_URL=upstream.url, TEXT_MODELS="org/m") as process,
    ):
        status, item = await asyncio.to_thread(lambda: finish(begin(process, 1000), 1000))
        assert status == 202, item
        await upstream.called.wait()
        process.kill()
        await asyncio.to_thread(process.start)
        _, item = await asyncio.to_thread(process.call, "GET", f"/api/requests/{item['id']}?wait=90")
        assert item["status"] == "completed", item
        assert [path.stat().st_size for path in files_in(data_dir)] == [len(PHOTO)]
    assert sent(upstream) == [True, True]


@pytest.mark.timeout(180)
async def test_a_kill_in_the_middle_of_a_body_leaves_no_file(tmp_path: Path, database: str) -> None:
    async with serving(tmp_path / "data", DATABASE_URL=database, INFERENCE_BACKEND="offline") as process:
        connection = await asyncio.to_thread(begin, process, len(BODY) // 2)
        await asyncio.to_thread(until, lambda: any("#" in path.name for path in files_in(process.data_dir)))
        process.kill()
        connection.close()
        await asyncio.to_thread(query, database, ALL_DUE)
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(
            until, lambda: query(database, "SELECT count(*) FROM public.files")[0][0] == 0, timeout_s=50
        )


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_another_instance_sends_the_photograph_of_one_that_died(tmp_path: Path, database: str) -> None:
    """Both have their files on one volume."""
    shared = tmp_path / "volume"
    shared.mkdir()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "files").symlink_to(shared)
    async with FakeHuggingFace(SILENT, default=lambda _: chat_answer("Seen.")) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url, "TEXT_MODELS": "org/m"}
        async with serving(tmp_path / "one", **settings) as one, serving(tmp_path / "other", **settings) as other:
            other.token = one.token
            status, item = await asyncio.to_thread(lambda: finish(begin(one, 1000), 1000))
            assert status == 202, item
            await upstream.called.wait()
            one.kill()
            _, item = await asyncio.to_thread(other.call, "GET", f"/api/requests/{item['id']}?wait=90")
            assert item["status"] == "completed", item
    assert sent(upstream) == [True, True]
