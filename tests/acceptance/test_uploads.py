"""Uploads over HTTP: as a body and as a form, by type, size and quota; and whatever of it goes wrong leaves nothing."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from server.actors.writes import NewRequest
from server.errors import Unavailable
from server.http import keys
from server.requests.admission import Admission, Admitted
from server.storage.objects import create_objects
from tests.acceptance.conftest import Api, Start
from tests.fakes.media import PNG, SAMPLES, WAV
from tests.signals import log_lines, until

MIB = 1024 * 1024


@pytest.fixture
async def api(start: Start, tmp_path: Path) -> Api:
    return await (await start(data_dir=tmp_path)).sign_up()


async def rows(database: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetch("SELECT * FROM public.files WHERE state <> 'deleting' ORDER BY id")
    finally:
        await connection.close()


async def objects_of(api: Api) -> list[str]:
    objects = create_objects(api.app[keys.SETTINGS])
    return [found.key async for found in objects.list_files()]


async def send(api: Api, data: Any, content_type: str | None = None, **headers: str) -> Any:
    given = {"Content-Type": content_type} if content_type is not None else {}
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    return await api.post("/api/files", data=data, headers=given | headers)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def form(*parts: tuple[str, bytes, str, str]) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for name, content, content_type, filename in parts:
        data.add_field(name, content, content_type=content_type, filename=filename)
    return data


@pytest.mark.parametrize("prefix", ["/api", ""])
async def test_an_upload_comes_back_as_it_was(api: Api, prefix: str) -> None:
    reply = await api.post(f"{prefix}/files", data=PNG, headers={"Content-Type": "image/png"})
    assert reply.status == 201, reply.body
    assert (reply.json["content_type"], reply.json["size"]) == ("image/png", len(PNG))
    assert reply.headers["Location"] == f"{prefix}/files/{reply.json['id']}"
    assert UUID(reply.json["id"])
    assert reply.json["created_at"].endswith("Z")
    shown = await api.get(reply.headers["Location"])
    assert (shown.status, shown.body) == (200, PNG)
    assert shown.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("name", SAMPLES)
async def test_every_kind_of_file_is_known_by_its_first_bytes(api: Api, name: str) -> None:
    sample = SAMPLES[name]
    reply = await send(api, sample.data, "application/octet-stream")
    assert (reply.status, reply.json.get("content_type")) == (201, sample.content_type), reply.json


async def test_a_form_with_one_file_is_taken_whatever_its_name_says(api: Api) -> None:
    for filename in ("cat.png", "../../etc/passwd", "C:\\boot.ini", "名前.png", "a" * 500):
        reply = await send(api, form(("file", PNG, "image/png", filename)))
        assert (reply.status, reply.json["size"]) == (201, len(PNG)), reply.json
        assert (await api.get(reply.headers["Location"])).body == PNG


async def test_a_form_of_many_pieces_arrives_whole(api: Api) -> None:
    content = WAV + bytes(range(256)) * 4096 + b"\r\n--not the boundary\r\n" * 1000
    boundary = b"--xyz"
    body = boundary + b'\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content
    body += b"\r\n" + boundary + b"--\r\n"
    for step in (7, 4096, 65_537):
        chunks = [body[start : start + step] for start in range(0, 5000 if step == 7 else len(body), step)]
        if step == 7:
            chunks.append(body[len(chunks) * step :])
        reply = await send(api, pieces(*chunks), "multipart/form-data; boundary=xyz")
        assert reply.status == 201, reply.json
        assert (await api.get(reply.headers["Location"])).body == content


async def test_a_form_may_begin_with_an_empty_line(api: Api) -> None:
    reply = await send(api, b"\r\n" + multipart(b"--xyz", FILE, b"", PNG), "multipart/form-data; boundary=xyz")
    assert (reply.status, reply.json["size"]) == (201, len(PNG)), reply.json


async def test_what_stands_before_a_form_is_not_looked_through(api: Api) -> None:
    """Empty lines are the dearest there are: the loop belongs to everybody."""
    longest = asyncio.create_task(_longest_turn())
    body = b"\n" * 4 * MIB + multipart(b"--xyz", FILE, b"", PNG)
    reply = await send(api, body, "multipart/form-data; boundary=xyz")
    longest.cancel()
    assert (reply.status, reply.json["code"]) == (400, "VALIDATION_ERROR"), reply.json
    assert await longest < 0.5


async def _longest_turn() -> float:
    """How long the event loop did not come back, at most, until it is cancelled; in seconds."""
    loop, longest = asyncio.get_running_loop(), 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            began = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - began)
    return longest


@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_what_is_too_large_is_refused_and_leaves_nothing(
    start: Start, tmp_path: Path, database: str, length: str
) -> None:
    api = await (await start(data_dir=tmp_path, max_upload_mb=1)).sign_up()
    content = PNG + bytes(MIB)
    body = content if length == "known" else pieces(content[: MIB // 2], content[MIB // 2 :])
    reply = await send(api, body, "image/png")
    assert (reply.status, reply.json["code"]) == (413, "VALIDATION_ERROR")
    assert "at most 1 MB" in reply.json["detail"]
    assert (await rows(database), await objects_of(api)) == ([], [])
    exact = PNG + bytes(MIB - len(PNG))
    assert (await send(api, exact, "image/png")).status == 201


@pytest.mark.parametrize(
    ("content", "declared", "status", "says"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415, "neither an image nor audio"),
        (b"<!doctype html><script>alert(1)</script>", "image/png", 415, "neither an image nor audio"),
        (b"%PDF-1.7 ", "application/pdf", 415, "neither an image nor audio"),
        (b"", "image/png", 400, "empty"),
    ],
)
async def test_what_is_no_image_and_no_audio_is_refused(
    api: Api, database: str, content: bytes, declared: str, status: int, says: str
) -> None:
    reply = await send(api, content, declared)
    assert reply.status == status
    assert says in reply.json["detail"]
    assert (await rows(database), await objects_of(api)) == ([], [])


def multipart(*lines: bytes, end: bytes = b"--xyz--\r\n") -> bytes:
    return b"\r\n".join(lines) + b"\r\n" + end


FILE = b'Content-Disposition: form-data; name="file"; filename="a.png"'
OTHER_FIELD = b'Content-Disposition: form-data; name="purpose"'


@pytest.mark.parametrize(
    "declared",
    [
        "image/*", "*/*", "image/jpeg", "audio/wav", "text/plain", "application/x-www-form-urlencoded", "image/png;q",
        "png", "multipart/form-data", "multipart/form-data; boundary=in", "multipart/mixed; boundary=xyz",
    ],
)  # fmt: skip
async def test_f1_the_bytes_decide_whatever_type_the_part_or_the_body_has(api: Api, declared: str) -> None:
    part = multipart(b"--xyz", FILE, b"Content-Type: " + declared.encode(), b"", PNG)
    reply = await send(api, part, "multipart/form-data; boundary=xyz")
    assert (reply.status, reply.json.get("content_type"), reply.json.get("size")) == (201, "image/png", len(PNG))
    if not declared.startswith("multipart/form-data"):
        reply = await send(api, PNG, declared)
        assert (reply.status, reply.json.get("content_type")) == (201, "image/png"), reply.json


async def test_f1_a_raw_body_needs_no_type(api: Api) -> None:
    answer = await _raw(api, f"Content-Length: {len(PNG)}\r\n", PNG)
    assert b" 201 " in answer.partition(b"\r\n")[0]
    assert b'"content_type":"image/png"' in answer


@pytest.mark.parametrize("where", ["before", "after", "both"])
async def test_f6_other_fields_of_a_form_are_ignored(api: Api, where: str) -> None:
    before = [b"--xyz", OTHER_FIELD, b"", b"vision"] * (where != "after")
    after = [b"--xyz", OTHER_FIELD, b"", b"", b"--xyz", OTHER_FIELD.replace(b"purpose", b"x"), b"", b"y" * 60_000]
    body = multipart(*before, b"--xyz", FILE, b"", PNG, *after * (where != "before"))
    for length in (body, pieces(body[:100], body[100:])):
        reply = await send(api, length, "multipart/form-data; boundary=xyz")
        assert (reply.status, reply.json.get("size")) == (201, len(PNG)), reply.json
        assert (await api.get(reply.headers["Location"])).body == PNG


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "Multipart/Form-Data; a=b"]
)
async def test_f6_a_form_without_a_boundary_is_named(api: Api, database: str, content_type: str) -> None:
    reply = await send(api, multipart(b"--xyz", FILE, b"", PNG), content_type)
    assert (reply.status, reply.json["code"]) == (400, "VALIDATION_ERROR")
    assert "has no boundary" in reply.json["detail"]
    assert (await rows(database), await objects_of(api)) == ([], [])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=abc", multipart(b"--xyz", FILE, b"", PNG)),
        ("multipart/form-data; boundary=" + "x" * 71, multipart(b"--xyz", FILE, b"", PNG)),
        ("multipart/form-data; boundary=xyz", b""),
        ("multipart/form-data; boundary=xyz", b"--xyz--\r\n"),
        ("multipart/form-data; boundary=xyz", b"\x00" * 100_000),
        ("multipart/form-data; boundary=xyz", multipart(b"--xyz", FILE, b"", PNG, end=b"")),
        ("multipart/form-data; boundary=xyz", multipart(b"--xyz", FILE, b"", PNG, b"--xyz", FILE, b"", PNG)),
        ("multipart/form-data; boundary=xyz", multipart(b"--xyz", FILE.replace(b'"file"', b'"other"'), b"", PNG)),
        ("multipart/form-data; boundary=xyz", multipart(b"--xyz", b"no header at all", b"", PNG)),
        ("multipart/form-data; boundary=xyz", multipart(b"--xyz", b"X-Long: " + b"x" * 10 * MIB, b"", PNG)),
        ("multipart/form-data; boundary=xyz", multipart(b"--xyz", *[b"X-%d: y" % i for i in range(500)], b"", PNG)),
        (
            "multipart/form-data; boundary=xyz",
            multipart(b"--xyz", b"Content-Type: multipart/mixed; boundary=in", b"", b"--in", FILE, b"", PNG, b"--in--"),
        ),
        (
            "multipart/form-data; boundary=xyz",
            multipart(b"--xyz", OTHER_FIELD, b"", b"y" * 70_000, b"--xyz", FILE, b"", PNG),
        ),
        (
            "multipart/form-data; boundary=xyz",
            multipart(b"--xyz", FILE, b"", PNG, *[b"--xyz", OTHER_FIELD, b"", b"y"] * 2000),
        ),
    ],
    ids=[
        "another boundary", "a long boundary", "nothing", "no part", "noise", "truncated", "two files",
        "another name", "no header", "a long header", "many headers", "nested", "a long field", "many fields",
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_garbage_for_a_form_is_refused_and_leaves_nothing(
    api: Api, database: str, content_type: str, body: bytes, length: str
) -> None:
    reply = await send(api, body if length == "known" else pieces(body), content_type)
    assert (reply.status, reply.json["code"]) == (400, "VALIDATION_ERROR"), reply.json
    assert any(words in reply.json["detail"] for words in ("Send one file", "empty", "may have 64 KiB"))
    assert (await rows(database), await objects_of(api)) == ([], [])


async def test_a_content_encoding_is_refused(api: Api) -> None:
    assert (await send(api, PNG, "image/png", **{"Content-Encoding": "br"})).status == 415


async def _raw(api: Api, head: str, *bodies: bytes, is_cut: bool = False) -> bytes:
    """Bytes on a connection of its own; what came back until it was closed, or nothing where we cut it ourselves."""
    port = api.client.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        start = f"POST /api/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\nConnection: close\r\n"
        writer.write((start + head + "\r\n").encode())
        for body in bodies:
            writer.write(body)
            await writer.drain()
        if is_cut:
            return b""
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def _settle(api: Api) -> None:
    """Until no upload is on its way any more in this process."""
    await until(lambda: not api.app[keys.ENGINE].collector.arriving)


@pytest.mark.parametrize("framing", ["Content-Length: 9000000", "Transfer-Encoding: chunked"])
async def test_a_client_that_leaves_in_the_middle_leaves_nothing(api: Api, database: str, framing: str) -> None:
    content = PNG + bytes(200_000)
    body = content if framing.startswith("Content") else b"%x\r\n" % len(content) + content + b"\r\n"
    arriving = api.app[keys.ENGINE].collector.arriving
    cutting = asyncio.create_task(_raw(api, f"Content-Type: image/png\r\n{framing}\r\n", body))
    await until(lambda: arriving)
    assert len(await rows(database)) == 1
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)
    await _settle(api)
    assert (await rows(database), await objects_of(api)) == ([], [])


async def test_continue_is_said_when_nothing_more_can_be_said_against_it(start: Start, tmp_path: Path) -> None:
    api = await (await start(data_dir=tmp_path, max_upload_mb=1)).sign_up()
    head = f"Content-Type: image/png\r\nExpect: 100-continue\r\nContent-Length: {len(PNG)}\r\n"
    answer = await _raw(api, head, PNG)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
    head = f"Content-Type: image/png\r\nExpect: 100-continue\r\nContent-Length: {2 * MIB}\r\n"
    assert (await _raw(api, head)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_stops_coming_times_out(api: Api, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.uploads.GAP_S", 0.3)
    answer = await _raw(api, "Content-Type: image/png\r\nContent-Length: 1000000\r\n", PNG + bytes(1000))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert (await rows(database), await objects_of(api)) == ([], [])


async def test_twenty_uploads_at_once_never_pass_the_quota(start: Start, tmp_path: Path, database: str) -> None:
    """Of 256 KiB each, four of which are a megabyte, half of them with their length unknown."""
    one, other = (await start(data_dir=tmp_path, upload_quota_mb=2), await start(data_dir=tmp_path, upload_quota_mb=2))
    user = await one.sign_up()
    there = Api(other.client, other.app, user.token, user.user_id)
    content = PNG + bytes(MIB // 4 - len(PNG))
    replies = await asyncio.gather(
        *(
            send(user if number % 2 else there, content if number % 4 < 2 else pieces(content), "image/png")
            for number in range(20)
        )
    )
    statuses = sorted(reply.status for reply in replies)
    kept = statuses.count(201)
    assert set(statuses) == {201, 429}
    assert 2 <= kept <= 8, "no more than fit; one of unknown length may hold a megabyte for a moment"
    refused = next(reply for reply in replies if reply.status == 429)
    assert "exceed your 2 MB" in refused.json["detail"]
    assert int(refused.headers["Retry-After"]) > 60
    assert sum(row["size"] for row in await rows(database)) == kept * len(content)
    for _ in range(8 - kept):
        assert (await send(user, content, "image/png")).status == 201
    assert (await send(user, PNG, "image/png")).status == 429
    first = (await rows(database))[0]["id"]
    assert (await there.send("DELETE", f"/api/files/{first}")).status == 204
    assert (await send(user, content, "image/png")).status == 201
    assert (await send(await one.sign_up(), content, "image/png")).status == 201, "the quota is each user's own"


async def test_an_upload_of_unknown_length_is_refused_where_it_passes_the_quota(
    start: Start, tmp_path: Path, database: str
) -> None:
    api = await (await start(data_dir=tmp_path, upload_quota_mb=2)).sign_up()
    reply = await send(api, pieces(PNG, *[bytes(MIB // 2)] * 6), "image/png")
    assert (reply.status, "exceed your 2 MB" in reply.json["detail"]) == (429, True)
    assert (await rows(database), await objects_of(api)) == ([], [])


async def test_an_upload_counts_as_a_create(start: Start, tmp_path: Path) -> None:
    api = await (await start(data_dir=tmp_path, rate_limit_per_minute=2)).sign_up()
    assert (await send(api, PNG, "image/png")).status == 201
    assert (await api.create()).status == 200
    reply = await send(api, PNG, "image/png")
    assert (reply.status, "Retry-After" in reply.headers) == (429, True)


async def test_one_user_cannot_take_the_whole_room(api: Api) -> None:
    room = api.app[keys.UPLOAD_MEMORY]
    assert api.user_id is not None
    user: Any = UUID(api.user_id)
    size = 16 * MIB
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(room.reserve(user, size))
        assert (await send(api, PNG, "image/png")).status == 429
        assert (await send(await api.sign_up(), PNG, "image/png")).status == 201
    assert (await send(api, PNG, "image/png")).status == 201


async def test_what_is_not_yours_is_not_there(api: Api) -> None:
    other = await api.sign_up()
    mine = (await send(api, PNG, "image/png")).json["id"]
    for method in ("GET", "HEAD", "DELETE"):
        assert (await other.send(method, f"/api/files/{mine}")).status == 404
        assert (await api.send(method, "/api/files/00000000-0000-0000-0000-000000000000")).status == 404
        assert (await api.send(method, "/api/files/..%2f..%2fetc")).status == 404
        assert (await Api(api.client, api.app).send(method, f"/api/files/{mine}")).status == 401
    assert (await api.get(f"/api/files/{mine}")).status == 200


async def test_who_does_not_read_is_cut_off_and_can_go_on_later(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is larger than what lies in the kernel's buffers on both sides."""
    data = PNG + bytes(24 * MIB)
    path = f"/api/files/{(await send(api, data, 'image/png')).json['id']}"
    with monkeypatch.context() as patch:
        patch.setattr("server.http.file_responses.STALL_S", 0.3)
        headers = {"Authorization": f"Bearer {api.token}"}
        with log_lines() as log:
            async with api.client.get(path, headers=headers) as response, asyncio.timeout(20):
                await log.wait("file_cut_off", within_s=20)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
    rest = await api.get(path, headers={"Range": f"bytes={20 * MIB}-"})
    assert (rest.status, rest.body) == (206, data[20 * MIB :])


async def test_a_deleted_upload_is_gone_with_its_bytes(api: Api, database: str) -> None:
    mine = (await send(api, PNG, "image/png")).json["id"]
    assert (await api.send("DELETE", f"/api/files/{mine}")).status == 204
    assert (await api.get(f"/api/files/{mine}")).status == 404
    assert (await api.send("DELETE", f"/api/files/{mine}")).status == 404

    async def is_empty() -> bool:
        return not (await objects_of(api) or await rows(database))

    await until(is_empty)


def _look_at(file_id: str) -> dict[str, Any]:
    return {"model_type": "image-classification", "input_data": {"image": file_id}}


async def test_a_request_whose_file_is_not_here_waits_for_it_and_says_so(api: Api, tmp_path: Path) -> None:
    mine = (await send(api, PNG, "image/png")).json["id"]
    [path] = (tmp_path / "files").rglob("*.png")
    path.unlink()
    outcome = (await api.post("/api/requests", _look_at(mine) | {"deadline_s": 1})).json
    assert (outcome["status"], outcome["error_code"]) == ("failed", "SERVER_ERROR")
    assert outcome["error_msg"].startswith(
        "Not finished by its deadline. The file is stored at another server, or was moved"
    )


async def test_a_create_that_is_refused_keeps_no_file(start: Start, tmp_path: Path) -> None:
    api = await (await start(data_dir=tmp_path, concurrency=1, max_backlog_per_user=1)).sign_up()
    mine = (await send(api, PNG, "image/png")).json["id"]
    for _ in range(2):
        await api.create_async(model="offline/slow-20s")
    assert (await api.post("/api/requests", _look_at(mine))).status == 429
    assert (await api.send("DELETE", f"/api/files/{mine}")).status == 204


async def test_a_create_whose_reply_is_lost_keeps_its_file(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be stored all the same, and later than the answer was given up."""
    original, late = Admission.admit, list[Coroutine[Any, Any, Admitted]]()

    async def lose(self: Admission, draft: NewRequest, **options: Any) -> Admitted:
        late.append(original(self, draft, **options))
        raise Unavailable("away", retry_after_s=1)

    monkeypatch.setattr(Admission, "admit", lose)
    mine = (await send(api, PNG, "image/png")).json["id"]
    assert (await api.post("/api/requests", _look_at(mine) | {"model": "offline/slow-20s"})).status == 503
    await late[0]
    assert (await api.send("DELETE", f"/api/files/{mine}")).status == 409


async def test_a_store_that_is_away_is_said_and_leaves_nothing(api: Api, tmp_path: Path, database: str) -> None:
    folder = tmp_path / "files"
    folder.rename(tmp_path / "moved")
    folder.write_bytes(b"no folder")
    reply = await send(api, PNG, "image/png")
    assert (reply.status, reply.json["detail"]) == (503, "The storage is not available; try again.")
    assert await rows(database) == []
    folder.unlink()
    assert (await send(api, PNG, "image/png")).status == 201
