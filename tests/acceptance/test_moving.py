"""`export` and `import`: everything of one database, in another, with other accounts, and nothing twice."""

import json
import tarfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.commands.moving.exporter import run_export
from server.commands.moving.importer import Import, run_import
from server.errors import CannotStart
from server.http import keys
from server.model_request import RequestId, UserId
from server.settings import Settings
from server.storage.objects import ObjectKey, create_objects
from server.storage.queries import statements
from tests.acceptance.conftest import PASSWORD, Api, Start, settings_for
from tests.acceptance.test_cancel import online_settings
from tests.acceptance.test_files import make
from tests.acceptance.test_supabase_auth import settings_of
from tests.fakes.gotrue import GoTrueFake, Refusal, serve_gotrue
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, json_answer
from tests.fakes.media import PNG
from tests.fixtures.object_keys import new_key
from tests.integration.files import image
from tests.rows import add_user, connected
from tests.signals import until
from tests.supabase import Project

ROWS = 10_000
BIG = 'Größe 🙂 "quoted" \\ back\\slash\n' * 3000
_TABLES = ("model_requests", "usage_daily", "idempotency_keys", "api_keys", "files")
_ENDED = "SELECT FROM public.model_requests WHERE completed_at IS NOT NULL"
_SEED = """
INSERT INTO public.model_requests (
    id, user_id, status, completed_at, created_at, model_type, model, input_data, output_data, token_used, token_count,
    processing_time, attempt, epoch, owner, segments
)
SELECT
    (lpad(to_hex(1700000000000 + number), 12, '0') || '7000' || '8000' || lpad(to_hex(number), 12, '0'))::uuid,
    $1, CASE number % 3 WHEN 0 THEN 'failed' WHEN 1 THEN 'completed' ELSE 'cancelled' END,
    now(), now() - interval '1 day', 'text2text', 'offline/echo',
    jsonb_build_object('prompt', 'number ' || number), jsonb_build_object('text', repeat('x', number % 500)),
    number, 2 * number, make_interval(secs => 0.25), 1, 1, gen_random_uuid(),
    CASE number % 2 WHEN 0 THEN '[["output", 3], ["reasoning", 2]]'::jsonb END
FROM generate_series(1, $2) AS number
"""


@pytest.fixture
async def gotrue(project: Project) -> AsyncIterator[GoTrueFake]:
    async with serve_gotrue(project.url) as fake:
        yield fake


async def _fetch(url: str, query: str, *args: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(query, *args)
    finally:
        await connection.close()


async def _keep_file(settings: Settings, user_id: str, content: bytes) -> ObjectKey:
    objects = create_objects(settings)
    key = new_key(UUID(user_id), "image/png")
    await objects.put(key, _chunks(content), max_bytes=len(content))
    await objects.close()
    return key


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _files(settings: Settings) -> dict[str, bytes]:
    objects = create_objects(settings)
    try:
        keys = [found.key async for found in objects.list_files()]
        return {key: b"".join([chunk async for chunk in (await objects.get(key)).chunks]) for key in keys}
    finally:
        await objects.close()


async def _contents(url: str) -> dict[str, Any]:
    """All that is not bound to one server: whatever of it changed, an import changed it."""
    tables = ("auth.users", *(f"public.{name}" for name in _TABLES))
    return {
        table: [row[0] for row in await _fetch(url, f"SELECT to_jsonb(t)::text FROM {table} AS t ORDER BY 1")]  # noqa: S608
        for table in tables
    }


async def test_ten_thousand_requests_files_and_accounts_move_and_a_second_time_changes_nothing(
    start: Start, database: str, database_15: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = settings_for(database, data_dir=tmp_path / "before")
    after = settings_for(database_15, data_dir=tmp_path / "after")
    old = await start()
    alice, bob = await old.sign_up("alice@example.com"), await old.sign_up("bob@example.com")
    first = await alice.create(BIG, headers={"Idempotency-Key": "once"})
    assert first.json["status"] == "completed"
    key = (await alice.post("/api/keys", {"name": "moves", "scopes": ["read"]})).json["key"]
    for user, count in ((alice, ROWS), (bob, 0)):
        await _fetch(database, _SEED, UUID(user.user_id), count)
    large = b"\x89PNG" + bytes(range(256)) * 40_000
    assert alice.user_id is not None
    assert bob.user_id is not None
    kept = {await _keep_file(before, alice.user_id, large): large, await _keep_file(before, bob.user_id, b""): b""}
    await old.client.close()

    archive = tmp_path / "move.tar.gz"
    assert await run_export(before, archive) == 0
    assert f"2 users, {ROWS + 1} requests, 1 idempotency keys" in capsys.readouterr().out
    assert archive.stat().st_mode & 0o777 == 0o600
    assert not archive.with_name("move.tar.gz.part").exists()
    assert await run_import(after, archive) == 0
    assert f"requests: {ROWS + 1}, of which {ROWS + 1} new" in capsys.readouterr().out
    moved = await _contents(database_15)
    assert moved["public.usage_daily"] == (await _contents(database))["public.usage_daily"]
    assert await run_import(after, archive) == 0
    said = capsys.readouterr().out
    assert f"users: 2, of which 0 new\nrequests: {ROWS + 1}, of which 0 new\nfiles: 2, of which 0 new\n" in said
    assert await _contents(database_15) == moved
    assert await _files(after) == kept

    new = await start(database_url=database_15)
    for email, user in (("alice@example.com", alice), ("bob@example.com", bob)):
        entered = await new.post("/auth/signin", {"email": email, "password": PASSWORD})
        assert (entered.status, entered.json["user"]["id"]) == (200, user.user_id)
        alice_there = Api(new.client, new.app, entered.json["token"], user.user_id)
        if user is alice:
            found = await alice_there.get(f"/api/requests/{first.json['id']}")
            assert found.json == first.json
            again = await alice_there.create(BIG, headers={"Idempotency-Key": "once"})
            assert again.json["id"] == first.json["id"]
            page = await alice_there.get("/api/requests?limit=1000")
            assert len(page.json) == 1000
    assert (await Api(new.client, new.app, key).get(f"/api/requests/{first.json['id']}")).json == first.json


async def test_what_is_not_final_runs_where_it_arrives_with_the_time_it_had_left(
    start: Start, database: str, database_15: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user = await (await start(concurrency=1)).sign_up("alice@example.com")
    running = await user.create_async("runs", model="offline/slow-20s")
    waiting = await user.create_async("waits")
    archive = tmp_path / "move.tar.gz"
    await run_export(settings_for(database, data_dir=tmp_path), archive)
    assert "2 requests that are not final would run in both places" in capsys.readouterr().out
    await user.client.close()

    await run_import(settings_for(database_15, data_dir=tmp_path), archive)
    deadlines = [
        (await _fetch(url, "SELECT deadline_at FROM public.model_requests WHERE id = $1", UUID(waiting.json["id"])))[0]
        for url in (database, database_15)
    ]
    assert deadlines[1]["deadline_at"] > deadlines[0]["deadline_at"]
    new = await start(database_url=database_15)
    entered = await new.post("/auth/signin", {"email": "alice@example.com", "password": PASSWORD})
    there = Api(new.client, new.app, entered.json["token"])
    for created in (waiting, running):
        reply = await there.get(f"/api/requests/{created.json['id']}?wait=60")
        assert reply.json["status"] == "completed"


async def test_to_supabase_and_back_everyone_keeps_the_password(
    start: Start, database: str, database_15: str, project: Project, gotrue: GoTrueFake, tmp_path: Path
) -> None:
    old = await start()
    alice = await old.sign_up("alice@example.com")
    created = await alice.create("hello")
    await old.client.close()
    there, back = tmp_path / "there.tar.gz", tmp_path / "back.tar.gz"
    await run_export(settings_for(database, data_dir=tmp_path), there)
    supabase = settings_of(project, gotrue)
    assert await run_import(settings_for(project.url, data_dir=tmp_path, **supabase), there) == 0

    hosted = await start(**supabase)
    entered = await hosted.post("/auth/signin", {"email": "alice@example.com", "password": PASSWORD})
    assert (entered.status, entered.json["user"]["id"]) == (200, alice.user_id)
    at_supabase = Api(hosted.client, hosted.app, entered.json["token"])
    assert (await at_supabase.get(f"/api/requests/{created.json['id']}")).json == created.json
    signed_up = await hosted.post("/api/auth/signup", {"email": "bob@example.com", "password": PASSWORD})
    assert signed_up.status == 201
    await hosted.client.close()
    await run_export(settings_for(project.url, data_dir=tmp_path, **supabase), back)

    assert await run_import(settings_for(database_15, data_dir=tmp_path), back) == 0
    home = await start(database_url=database_15)
    [stored] = await _fetch(database_15, "SELECT encrypted_password AS is FROM auth.users WHERE email LIKE 'bob%'")
    assert stored["is"].startswith("$2")
    for email, user_id in (("alice@example.com", alice.user_id), ("bob@example.com", signed_up.json["user"]["id"])):
        wrong = await home.post("/auth/signin", {"email": email, "password": "wrong horse battery"})
        assert wrong.status == 401
        for _ in range(2):
            entered = await home.post("/auth/signin", {"email": email, "password": PASSWORD})
            assert (entered.status, entered.json["user"]["id"]) == (200, user_id)
    [stored] = await _fetch(database_15, "SELECT encrypted_password AS is FROM auth.users WHERE email LIKE 'bob%'")
    assert stored["is"].startswith("$argon2id$"), "a sign-in replaces the hash"


async def test_an_account_that_is_there_by_its_email_gets_what_is_its_own(
    start: Start, database: str, database_15: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = await start(), await start(database_url=database_15)
    before, after = await old.sign_up("alice@example.com"), await new.sign_up("alice@example.com")
    created = await before.create("hello")
    settings = settings_for(database, data_dir=tmp_path / "before")
    assert before.user_id is not None
    key = await _keep_file(settings, before.user_id, b"image")
    archive = tmp_path / "move.tar.gz"
    await run_export(settings, archive)
    arrived = settings_for(database_15, data_dir=tmp_path / "after")
    for _ in range(2):
        assert await run_import(arrived, archive) == 0
    assert "1 accounts existed with the same e-mail" in capsys.readouterr().out
    assert [item["id"] for item in (await after.get("/api/requests")).json] == [created.json["id"]]
    assert list(await _files(arrived)) == [key.replace(before.user_id, str(after.user_id))]


async def test_accounts_that_the_project_refuses_are_named_and_left_for_the_next_time(
    start: Start,
    database: str,
    project: Project,
    gotrue: GoTrueFake,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    users = [await (await start()).sign_up(f"user-{number}@example.com") for number in range(3)]
    for user in users:
        await user.create("hello")
    archive = tmp_path / "move.tar.gz"
    await run_export(settings_for(database, data_dir=tmp_path), archive)
    supabase = settings_for(project.url, data_dir=tmp_path, **settings_of(project, gotrue))
    gotrue.fault = Refusal(422, "validation_failed", "signups from example.com are not allowed")
    assert await run_import(supabase, archive) == 1
    said = capsys.readouterr().out
    assert "users: 3, of which 0 new, 3 left out\nrequests: 3, of which 0 new, 3 left out\n" in said
    assert "not allowed" in said
    gotrue.fault = None
    assert await run_import(supabase, archive) == 0
    assert "requests: 3, of which 3 new\n" in capsys.readouterr().out
    gotrue.service_keys = ()
    archive_of_another = tmp_path / "more.tar.gz"
    await (await start()).sign_up("more@example.com")
    await run_export(settings_for(database, data_dir=tmp_path), archive_of_another)
    with pytest.raises(CannotStart, match="SUPABASE_SERVICE_ROLE_KEY"):
        await run_import(supabase, archive_of_another)


async def test_banned_unconfirmed_and_passwordless_accounts_stay_so(
    database_15: str, project: Project, gotrue: GoTrueFake, start: Start, tmp_path: Path
) -> None:
    await start(**settings_of(project, gotrue))
    nobody, banned, deleted = uuid4(), uuid4(), uuid4()
    async with project.connected(is_admin=True) as connection:
        await connection.executemany(
            "INSERT INTO auth.users (id, email, encrypted_password, banned_until, deleted_at)"
            " VALUES ($1, $2, $3, now() + $4::interval, now() + $5::interval)",
            [
                (nobody, None, None, None, None),
                (banned, "Banned@Example.com", "$2a$04$" + "." * 53, timedelta(days=1), None),
                (deleted, "gone@example.com", "", None, -timedelta(days=1)),
            ],
        )
    archive = tmp_path / "move.tar.gz"
    await run_export(settings_for(project.url, data_dir=tmp_path, **settings_of(project, gotrue)), archive)
    assert await run_import(settings_for(database_15, data_dir=tmp_path), archive) == 0
    rows = {row["id"]: row for row in await _fetch(database_15, "SELECT * FROM auth.users")}
    assert set(rows) == {nobody, banned}
    assert rows[nobody]["email"] == f"{nobody}@no-email.invalid"
    assert rows[banned]["email"] == "banned@example.com"
    assert rows[banned]["banned_until"] is not None
    assert rows[banned]["email_confirmed_at"] is None


async def test_a_file_that_is_there_is_not_written_over(database: str, tmp_path: Path) -> None:
    path = tmp_path / "move.tar.gz"
    path.write_bytes(b"mine")
    with pytest.raises(CannotStart, match="exists already"):
        await run_export(settings_for(database, data_dir=tmp_path), path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(CannotStart, match="cannot be written"):
        await run_export(settings_for(database, data_dir=tmp_path), tmp_path / "nowhere" / "move.tar.gz")


async def test_pages_stay_small_however_large_the_rows(start: Start, database: str, tmp_path: Path) -> None:
    user = await (await start()).sign_up()
    assert user.user_id is not None
    await _fetch(
        database, _SEED.replace("repeat('x', number % 500)", "repeat(md5(number::text), 15000)"), UUID(user.user_id), 20
    )
    archive = tmp_path / "move.tar.gz"
    await run_export(settings_for(database, data_dir=tmp_path), archive)
    with tarfile.open(archive) as tar:
        sizes = [member.size for member in tar if member.name.startswith("requests/")]
        assert len(sizes) > 1
        assert max(sizes) < 8 * 1024 * 1024
        [users] = [member for member in tar if member.name.startswith("users/")]
        content = tar.extractfile(users)
        assert content is not None
        assert [account["id"] for account in json.loads(content.read())] == [user.user_id]


async def test_uploads_outputs_and_uses_move_to_an_account_that_is_called_otherwise_there(
    start: Start, database: str, database_15: str, tmp_path: Path
) -> None:
    before = settings_for(database, data_dir=tmp_path / "before")
    after = settings_for(database_15, data_dir=tmp_path / "after")
    old = await (await start(data_dir=before.data_dir)).sign_up("alice@example.com")
    request_id, _ = await make(old, database, PNG + b"made")
    used, unused = [
        (await old.post("/api/files", data=PNG + name, headers={"Content-Type": "image/png"})).json["id"]
        for name in (b"used", b"unused")
    ]
    assert old.user_id is not None
    await old.app[keys.REQUESTS].input_files.attach(
        UserId(UUID(old.user_id)), RequestId(UUID(request_id)), image(UUID(used))
    )
    archive = tmp_path / "move.tar.gz"
    assert await run_export(before, archive) == 0
    await old.client.close()

    new = await (await start(database_url=database_15, data_dir=after.data_dir)).sign_up("alice@example.com")
    assert new.user_id != old.user_id
    for _ in range(2):
        assert await run_import(after, archive) == 0
    assert (await new.get(f"/api/requests/{request_id}/files/0")).body == PNG + b"made"
    assert (await new.get(f"/api/files/{used}")).body == PNG + b"used"
    assert (await new.get(f"/api/files/{unused}")).body == PNG + b"unused"
    assert len(await _fetch(database_15, "SELECT FROM public.file_uses")) == 1

    await _fetch(database_15, "UPDATE public.files SET due_at = now()")
    await new.app[keys.ENGINE].collector.tick()
    assert (await new.get(f"/api/files/{unused}")).status == 404
    states = await _fetch(database_15, "SELECT state FROM public.files")
    assert [row["state"] for row in states] == ["kept", "kept"]
    await _fetch(database_15, "DELETE FROM public.model_requests")
    await new.app[keys.ENGINE].collector.tick()
    assert await _files(after) == {}


async def test_a_request_that_runs_as_soon_as_it_arrives_finds_its_file(
    start: Start, database: str, database_15: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that works on the new database while it is filled."""
    before = settings_for(database, data_dir=tmp_path / "before")
    after = settings_for(database_15, data_dir=tmp_path / "after")
    labels = json_answer([{"label": "cat", "score": 1.0}])
    async with FakeHuggingFace(Answer(is_silent=True, end=End.STALL), default=lambda _: labels) as upstream:
        old = await (await start(data_dir=before.data_dir, **online_settings(upstream))).sign_up("alice@example.com")
        upload = (await old.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]
        body = {"model_type": "image-classification", "input_data": {"image": f"file:{upload}"}}
        request_id = (await old.post("/api/requests", body, headers={"Prefer": "respond-async"})).json["id"]
        await upstream.called.wait()
        archive = tmp_path / "move.tar.gz"
        await run_export(before, archive)
        await old.client.close()

        add_requests = Import._add_requests
        new = await start(database_url=database_15, data_dir=after.data_dir, **online_settings(upstream))

        async def add_requests_slowly(run: Import, page: bytes) -> None:
            await add_requests(run, page)
            await until(lambda: _fetch(database_15, _ENDED), within_s=20)

        monkeypatch.setattr(Import, "_add_requests", add_requests_slowly)
        assert await run_import(after, archive) == 0
        entered = await new.post("/auth/signin", {"email": "alice@example.com", "password": PASSWORD})
        there = Api(new.client, new.app, entered.json["token"])
        reply = await there.get(f"/api/requests/{request_id}")
        assert (reply.json["status"], reply.json["error_msg"]) == ("completed", None)
        assert PNG in upstream.calls[-1].raw


async def test_usage_of_an_archive_without_models_is_of_an_unknown_one(database: str) -> None:
    async with connected(database) as connection:
        user_id = await add_user(connection)
        day = {"user_id": str(user_id), "day": "2026-11-01", "completed": 3, "failed": 1, "cancelled": 0}
        page = json.dumps([day | {"token_used": 70, "token_count": 50}]).encode()
        for _ in range(2):
            await connection.execute(statements()["import_usage"], page, [], [])
        [row] = await connection.fetch("SELECT * FROM usage_daily")
    assert (row["model"], row["completed"], row["token_used"], row["input_tokens"]) == ("", 3, 70, 20)
    assert (row["unmetered"], row["unpriced"], row["cost_usd"]) == (0, 3, None)
