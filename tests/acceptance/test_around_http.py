"""What proxies and old clients do to HTTP: targets, versions, framing, types of bodies. Requests are sent as bytes."""

import asyncio
import json

import pytest

from tests.acceptance.conftest import Api

CREATE = json.dumps(
    {"model_type": "text2text", "input_data": {"prompt": "Grüße"}, "model": "offline/echo"}, ensure_ascii=False
)
CHAT = json.dumps({"model": "default", "messages": [{"role": "user", "content": "Grüße"}]}, ensure_ascii=False)
JSON = "Content-Type: application/json"


async def send(api: Api, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """All that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    try:
        async with asyncio.timeout(20):
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(pause_s)
                writer.write(piece)
            return await reader.read()
    finally:
        writer.close()


def head(api: Api, line: str, *headers: str) -> bytes:
    fixed = ("Host: example.com", f"Authorization: Bearer {api.token}", "Connection: close")
    return "\r\n".join((line, *fixed, *headers, "", "")).encode()


async def post(api: Api, path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    return await send(api, head(api, f"POST {path} HTTP/{version}", f"Content-Length: {len(body)}", *headers) + body)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def json_of(answer: bytes) -> object:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "http://example.com/health", 200),
        ("GET", "HTTP://EXAMPLE.com:8080/health?x=1", 200),
        ("OPTIONS", "http://example.com/health", 204),
        ("GET", "http://example.com", 404),
        ("GET", "http://example.com?x=1", 404),
        ("OPTIONS", "*", 404),
        ("CONNECT", "example.com:443", 404),
    ],
)
async def test_around_a_target_in_another_form_than_a_path_is_no_fault_of_the_server(
    api: Api, method: str, target: str, status: int
) -> None:
    answer = await send(api, head(api, f"{method} {target} HTTP/1.1"))
    assert status_of(answer) == status
    if status == 404:
        assert json_of(answer)["code"] == "NOT_FOUND"  # type: ignore[index]


async def test_around_a_client_of_http_1_0_gets_no_interim_answer(api: Api) -> None:
    answer = await post(api, "/api/requests", CREATE.encode(), JSON, "Expect: 100-continue", version="1.0")
    assert status_of(answer) == 200
    assert b"100 Continue" not in answer


async def test_around_a_client_of_http_1_0_can_create_and_stream(api: Api) -> None:
    """As `ab` and old proxies do: no chunks, and the end of the connection is the end of a stream."""
    answer = await post(api, "/api/requests", CREATE.encode(), JSON, version="1.0")
    assert (status_of(answer), json_of(answer)["status"]) == (200, "completed")  # type: ignore[index]
    streamed = await post(api, "/api/requests", CREATE.encode(), JSON, "Accept: text/event-stream", version="1.0")
    assert b"transfer-encoding" not in streamed.lower()
    assert streamed.startswith(b"HTTP/1.0 200")
    assert b"event: " in streamed


async def test_around_a_body_in_chunks_with_an_expectation_creates(api: Api) -> None:
    body = CREATE.encode()
    opening = head(api, "POST /api/requests HTTP/1.1", JSON, "Expect: 100-Continue", "Transfer-Encoding: Chunked")
    chunks = (
        b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in (body[:9], body[9:])) + b"0\r\nX: 1\r\n\r\n"
    )
    answer = await send(api, opening, chunks, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=UTF-8",
        "application/json;charset=utf8",
        'application/json; charset="utf-8"',
        "application/json; charset=UTF_8",
        "application/json; charset=ascii",
        "application/json;",
        "APPLICATION/JSON",
        "application/vnd.api+json",
    ],
)
async def test_around_the_spellings_of_json_are_accepted(api: Api, content_type: str) -> None:
    for path, body in (("/api/requests", CREATE), ("/v1/chat/completions", CHAT)):
        assert status_of(await post(api, path, body.encode(), f"Content-Type: {content_type}")) == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/json", "application/*+json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", None],
)
async def test_around_on_v1_the_content_decides_and_on_api_its_type(api: Api, content_type: str | None) -> None:
    """`fetch` says text/plain for a string, and curl says that data is a form."""
    headers = [] if content_type is None else [f"Content-Type: {content_type}"]
    assert status_of(await post(api, "/v1/chat/completions", CHAT.encode(), *headers)) == 200
    assert status_of(await post(api, "/v1/chat/completions", b"prompt=hello", *headers)) == 400
    assert status_of(await post(api, "/api/requests", CREATE.encode(), *headers)) == 415


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
async def test_around_another_encoding_than_utf_8_is_named(api: Api, encoding: str) -> None:
    for path, body in (("/api/requests", CREATE), ("/v1/chat/completions", CHAT)):
        answer = await post(api, path, body.encode(encoding), JSON)
        assert status_of(answer) == 400
        assert b"It is not encoded in UTF-8." in answer


async def test_around_a_slash_at_the_end_is_ignored_on_v1(api: Api) -> None:
    assert status_of(await post(api, "/v1/chat/completions/", CHAT.encode(), JSON)) == 200
    assert (await api.get("/v1/models/")).json == (await api.get("/v1/models")).json
    assert (await api.get("/api/requests/")).status == 404


async def test_around_the_place_that_a_client_claims_is_not_believed(api: Api) -> None:
    forged = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Proto": "gopher",
        "Forwarded": "host=evil.example",
        "X-Original-URL": "/evil",
        "X-HTTP-Method-Override": "DELETE",
        "Prefer": "respond-async",
    }
    reply = await api.create(headers=forged)
    assert (reply.status, reply.headers["Location"]) == (202, f"/api/requests/{reply.json['id']}")
    assert "evil" not in str(reply.headers)


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [("gzip", True), ("gzip;q=0", False), ("*;q=0", False), ("gzip;q=0, *", False), ("*;q=0, gzip", True)],
)
async def test_around_a_refused_compression_is_not_used(api: Api, accepted: str, is_compressed: bool) -> None:  # noqa: FBT001
    answer = await send(api, head(api, "GET /api/models HTTP/1.1", f"Accept-Encoding: {accepted}"))
    assert (b"\r\nContent-Encoding: gzip\r\n" in answer) is is_compressed
