"""Large JSON is compressed for clients that accept it; streams and answers with tokens never are."""

import contextlib
import gzip
from uuid import uuid4

import pytest

from server.files.uploads import MIB
from server.http import compression, keys
from server.model_request import UserId
from tests.acceptance.conftest import PASSWORD, Api

GZIP = {"Accept-Encoding": "gzip"}


async def raw(api: Api, path: str, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """The bytes as sent, and the headers."""
    headers = {"Authorization": f"Bearer {api.token}", **headers}
    request = api.client.session.get(api.client.make_url(path), headers=headers, auto_decompress=False)
    async with request as response:
        return await response.read(), dict(response.headers)


async def test_s8_a_large_history_is_compressed(api: Api) -> None:
    for _ in range(3):
        await api.create("x" * 50_000)
    plain, headers = await raw(api, "/api/requests", {"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in headers
    packed, headers = await raw(api, "/api/requests", GZIP)
    assert (headers["Content-Encoding"], headers["Content-Length"]) == ("gzip", str(len(packed)))
    assert "Accept-Encoding" in headers["Vary"]
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 20


@pytest.mark.parametrize(
    ("accept", "is_packed"),
    [
        ("br, gzip;q=0.1", True),
        ("*", True),
        ("GZIP", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("br", False),
    ],
)
async def test_s8_the_client_decides(api: Api, accept: str, *, is_packed: bool) -> None:
    await api.create("x" * 2000)
    _, headers = await raw(api, "/api/requests", {"Accept-Encoding": accept})
    assert ("Content-Encoding" in headers) is is_packed


async def test_s8_small_answers_and_streams_are_not_compressed(api: Api) -> None:
    small = (await api.create("hello")).json["id"]
    large = (await api.create("x" * 5000)).json["id"]
    for path in (f"/api/requests/{small}", f"/api/requests/{large}/events"):
        body, headers = await raw(api, path, GZIP)
        assert "Content-Encoding" not in headers
        assert small.encode() in body or large.encode() in body


async def test_s8_answers_with_tokens_are_not_compressed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MIN_BYTES", 0)
    for prefix in ("/api", ""):
        body = {"email": f"new{len(prefix)}@example.com", "password": PASSWORD}
        reply = await api.post(f"{prefix}/auth/signup", body, headers=GZIP)
        assert reply.json["token"]
        assert "Content-Encoding" not in reply.headers
    assert (await api.get("/api/models", headers=GZIP)).headers["Content-Encoding"] == "gzip"


async def test_s8_large_answers_that_wait_for_compression_are_within_the_memory_budget(api: Api) -> None:
    await api.create("x" * 50_000)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(api.app[keys.RESPONSE_MEMORY].reserve(UserId(uuid4()), 16 * MIB))
        assert (await api.get("/api/requests", headers=GZIP)).status == 503
    assert (await api.get("/api/requests", headers=GZIP)).status == 200


async def test_s8_a_public_page_is_compressed_once(api: Api) -> None:
    compression._compress_shared.cache_clear()  # an earlier test of this process may have asked for the page
    pages = [await raw(api, "/openapi.json", GZIP) for _ in range(3)]
    assert {headers["Content-Encoding"] for _, headers in pages} == {"gzip"}
    assert compression._compress_shared.cache_info().misses == 1
