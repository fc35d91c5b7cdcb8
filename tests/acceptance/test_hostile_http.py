"""HTTP as a hostile client speaks it, on connections of its own. Each test names its row of the list of attacks."""

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest

from server.http import malformed_log
from server.http.parameters import MAX_PARAMETERS
from tests.acceptance.conftest import Api, Reply, Start
from tests.acceptance.openai_upstream import start_online
from tests.acceptance.test_around_http import CHAT, CREATE, JSON, head, json_of, send, status_of
from tests.fakes.huggingface import Answer, FakeHuggingFace, chat_answer
from tests.fakes.media import PNG
from tests.signals import log_lines

BODY = CREATE.encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def chunked_head(api: Api, path: str = "/api/requests") -> bytes:
    return head(api, f"POST {path} HTTP/1.1", JSON, "Prefer: respond-async", "Transfer-Encoding: chunked")


def keep_alive(request: bytes) -> bytes:
    return request.replace(b"Connection: close\r\n", b"")


# H8


async def test_h8_malformed_requests_are_logged_as_a_sample_with_a_count(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.connections._FIRST_REPORT_S", 0.2)
    count = malformed_log.BURST + 150
    with log_lines() as log:
        for _ in range(count):
            assert status_of(await send(api, b"NOT HTTP\r\n\r\n")) == 400
        await log.wait("http_malformed_unlogged")
    written = [line for line in log.lines if line["event"] == "http_malformed"]
    counted = [line for line in log.lines if line["event"] == "http_malformed_unlogged"]
    assert malformed_log.BURST <= len(written) < count
    assert counted[0]["last_from"] == "127.0.0.1"
    assert len(counted) == 1


# H9


@pytest.mark.parametrize("query", ["&".join(f"a{number}" for number in range(1400)), "limit=1&" * 900, "&a" * 33])
async def test_h9_a_query_has_few_parameters(api: Api, query: str) -> None:
    reply = await api.get(f"/api/requests?{query}")
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, ["(query)"])
    assert len(reply.body) < 500


async def test_h9_every_parameter_of_a_short_query_is_named(api: Api) -> None:
    names = [f"a{number}" for number in range(MAX_PARAMETERS)]
    reply = await api.get(f"/api/requests?{'&'.join(names)}")
    assert [error["field"] for error in reply.json["errors"]] == names


# H10


@pytest.mark.parametrize("path", ["/api/requests", "/v1/chat/completions"])
@pytest.mark.parametrize("size", [20_000, 1_000_000])
async def test_h10_chunk_extensions_are_bounded(api: Api, path: str, size: int) -> None:
    body = BODY if path == "/api/requests" else CHAT.encode()
    long = b";x=" + b"a" * size
    bodies = (
        chunk(body, long) + chunk(b""),
        chunk(body[:9]) + chunk(body[9:], long) + chunk(b""),
        b"".join(chunk(body[at : at + 1]) for at in range(len(body))) + chunk(b"", long),
        b"".join(chunk(body[at : at + 1], long[: size // len(body)]) for at in range(len(body))) + chunk(b""),
        b"0" * size + chunk(body) + chunk(b""),
    )
    for sent in bodies:
        for pieces in ((chunked_head(api, path) + sent,), (chunked_head(api, path), sent[:1000], sent[1000:])):
            assert status_of(await send(api, *pieces, pause_s=0.05)) == 400


async def test_h10_ordinary_framing_is_accepted_however_it_arrives(api: Api) -> None:
    signed = b";chunk-signature=" + b"0" * 40
    large = json.dumps({"model_type": "text2text", "input_data": {"prompt": "x" * 400_000}}).encode()
    slices = [large[at : at + 1000] for at in range(0, len(large), 1000)]
    ones = b"".join(chunk(BODY[at : at + 1]) for at in range(len(BODY)))
    for sent in (
        ones + chunk(b""),
        chunk(BODY, signed) + chunk(b""),
        b"".join(chunk(part) for part in slices) + b"0\r\nX-Checksum: " + b"0" * 1000 + b"\r\n\r\n",
        b"".join(chunk(part, signed[:40]) for part in slices) + chunk(b""),
        chunk(large) + chunk(b""),
    ):
        whole = chunked_head(api) + sent
        for pieces in ((whole,), (whole[:100], whole[100:700], whole[700:])):
            assert status_of(await send(api, *pieces, pause_s=0.05)) in {200, 202}


async def test_h10_requests_behind_each_other_are_each_measured(api: Api) -> None:
    """Pipelined: what is counted of one is not the framing of the next."""
    last = chunked_head(api) + chunk(BODY) + chunk(b"")
    fine = keep_alive(last)
    fixed = head(api, "POST /api/requests HTTP/1.1", JSON, f"Content-Length: {len(BODY)}") + BODY
    ones = keep_alive(chunked_head(api)) + b"".join(chunk(BODY[at : at + 1]) for at in range(len(BODY))) + chunk(b"")
    answers = await send(api, fine * 5 + keep_alive(fixed) + ones + fine * 5 + last)
    assert answers.count(b"HTTP/1.1 20") == 13
    bad = chunked_head(api) + chunk(BODY, b";x=" + b"a" * 20_000) + chunk(b"")
    answers = await send(api, fine, ones + keep_alive(bad), pause_s=0.2)
    assert answers.count(b"HTTP/1.1 20") == 2 - answers.count(b"HTTP/1.1 400")


async def test_h10_nothing_is_read_behind_a_request_to_switch_protocols(api: Api) -> None:
    switch = keep_alive(head(api, "GET /health HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"))
    bad = chunked_head(api) + chunk(BODY, b";x=" + b"a" * 20_000) + chunk(b"")
    answer = await send(api, switch + bad, chunk(b""), pause_s=0.2)
    assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (200, 1)


@pytest.mark.parametrize("is_form", [True, False])
async def test_h10_the_last_chunk_of_an_upload_is_measured_too(api: Api, is_form: bool) -> None:  # noqa: FBT001
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + PNG + b"\r\n--x--\r\n"
    body, media = (form, "multipart/form-data; boundary=x") if is_form else (PNG, "image/png")
    opening = head(api, "POST /api/files HTTP/1.1", f"Content-Type: {media}", "Transfer-Encoding: chunked")
    for extension, status in ((b"", 201), (b";x=" + b"a" * 20_000, 400)):
        assert status_of(await send(api, opening + chunk(body), chunk(b"", extension), pause_s=0.1)) == status


# H13


@pytest.mark.parametrize(
    ("settings", "accepted", "refused"),
    [
        (
            {"host": "127.0.0.1"},
            ["localhost", "LOCALHOST:3000", "app.localhost", "127.0.0.1:3000", "[::1]:3000", "10.0.0.7", "localhost."],
            [
                "evil.example",
                "evil.example:3000",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "evil",
                "1.2.3.4.5",
            ],
        ),
        ({"host": "::1"}, ["localhost", "[::1]"], ["evil.example"]),
        ({"host": "localhost", "public_url": "https://api.example.com/ai"}, ["api.example.com"], ["example.com"]),
        ({"host": "0.0.0.0"}, ["evil.example", "localhost"], []),  # noqa: S104
        (
            {"host": "0.0.0.0", "allowed_hosts": "api.example.com,*.example.org"},  # noqa: S104
            ["api.example.com", "API.example.com:443", "a.b.example.org", "localhost", "10.1.2.3:3000"],
            ["example.com", "xapi.example.com", "example.org", "evilexample.org", "api.example.com.evil.example"],
        ),
        ({"host": "127.0.0.1", "allowed_hosts": "*"}, ["evil.example"], []),
        ({"host": "127.0.0.1", "trusted_proxies": "127.0.0.1"}, ["ai_sdk_server"], []),
    ],
)
async def test_h13_a_name_of_another_site_is_not_answered(
    start: Start, settings: dict[str, str], accepted: list[str], refused: list[str]
) -> None:
    api = await start(**settings)
    for status, hosts in ((200, accepted), (400, refused)):
        for host in hosts:
            request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert status_of(await send(api, request.encode())) == status, host
    assert status_of(await send(api, b"GET /health HTTP/1.0\r\n\r\n")) == 200  # a probe, and no browser


# H16

ORIGIN = "https://app.example"


async def preflight(api: Api, path: str, method: str, *headers: str) -> Reply:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = ", ".join(headers)
    return await api.send("OPTIONS", path, headers=asked)


async def test_h16_a_preflight_grants_the_methods_of_its_path_without_content(start: Start) -> None:
    api = await start(allowed_origins=ORIGIN)
    granted = {
        path: {
            method
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "EVIL")
            if (await preflight(api, path, method)).status == 204
        }
        for path in ("/api/requests", "/api/requests/1", "/health", "/auth/v1/user", "/v1/chat/completions")
    }
    assert granted == {
        "/api/requests": {"GET", "HEAD", "POST"},
        "/api/requests/1": {"GET", "HEAD", "DELETE"},
        "/health": {"GET", "HEAD"},
        "/auth/v1/user": {"GET", "HEAD", "PUT"},
        "/v1/chat/completions": {"POST"},
    }
    reply = await preflight(api, "/api/requests", "POST", "content-type")
    assert (reply.status, reply.body, reply.headers["Access-Control-Allow-Origin"]) == (204, b"", ORIGIN)
    assert reply.headers["Access-Control-Allow-Methods"] == "POST"


@pytest.mark.parametrize(
    ("path", "method", "headers", "is_granted"),
    [
        ("/api/requests", "POST", "Authorization, Content-Type, Prefer, Idempotency-Key, Accept", True),
        ("/api/requests", "POST", "authorization,x-client-info,apikey,content-type,traceparent", True),
        ("/auth/v1/user", "PUT", "apikey, authorization, content-type, x-client-info, x-supabase-api-version", True),
        ("/v1/chat/completions", "POST", "authorization, content-type, x-stainless-os, x-stainless-retry-count", True),
        ("/api/requests", "POST", "X-Stainless-OS", False),
        ("/v1/chat/completions", "POST", "X-Supabase-Api-Version", False),
        ("/api/requests", "POST", "Content-Type, X-Evil", False),
        ("/api/requests", "GET", "Cookie", False),
        ("/api/requests", "POST", "X-Forwarded-For", False),
    ],
)
async def test_h16_a_preflight_grants_the_headers_that_its_path_reads(
    start: Start,
    path: str,
    method: str,
    headers: str,
    is_granted: bool,  # noqa: FBT001
) -> None:
    api = await start(allowed_origins=ORIGIN)
    reply = await preflight(api, path, method, headers)
    assert reply.status == (204 if is_granted else 403)
    granted = {name.strip().lower() for name in reply.headers.get("Access-Control-Allow-Headers", "").split(",")}
    assert granted == ({name.strip().lower() for name in headers.split(",")} if is_granted else {""})
    assert ("Access-Control-Allow-Origin" in reply.headers) == is_granted


# H17


@pytest.mark.parametrize("path", ["/", "/docs", "/console/app.js", "/openapi.json"])
async def test_h17_pages_are_isolated_from_other_sites(api: Api, path: str) -> None:
    headers = (await api.get(path)).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("proxies", "scheme", "is_sent"),
    [
        ("127.0.0.0/8", "https", True),
        ("127.0.0.0/8", "http", False),
        ("127.0.0.0/8", None, False),
        ("10.0.0.0/8", "https", False),
        ("", "https", False),
    ],
)
async def test_h17_a_browser_that_came_by_tls_is_told_to_do_so_again(
    start: Start,
    proxies: str,
    scheme: str | None,
    is_sent: bool,  # noqa: FBT001
) -> None:
    api = await start(trusted_proxies=proxies)
    for path in ("/", "/docs", "/api/requests", "/nothing"):
        headers = (await api.get(path, headers={} if scheme is None else {"X-Forwarded-Proto": scheme})).headers
        assert headers.get("Strict-Transport-Security") == ("max-age=31536000" if is_sent else None)


# H19


async def half_closed(api: Api, request: bytes) -> bytes:
    """All that the server sends to a client that has closed its half of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    with contextlib.closing(writer):
        writer.write(request)
        writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()


def final(answer: bytes) -> bytes:
    """The answer without interim responses."""
    while answer.startswith(b"HTTP/1.1 100 "):
        answer = answer.partition(b"\r\n\r\n")[2]
    return answer


@pytest.mark.parametrize("change", [bytes, keep_alive])
async def test_h19_a_client_that_half_closes_is_answered(api: Api, change: Callable[[bytes], bytes]) -> None:
    for request in (
        head(api, "GET /health HTTP/1.1"),
        head(api, "GET /api/requests HTTP/1.1"),
        head(api, "POST /api/requests HTTP/1.1", JSON, f"Content-Length: {len(BODY)}") + BODY,
        head(api, "POST /api/requests HTTP/1.1", JSON, "Transfer-Encoding: chunked") + chunk(BODY) + chunk(b""),
        head(api, "POST /api/requests HTTP/1.1", JSON, "Accept: text/event-stream", f"Content-Length: {len(BODY)}")
        + BODY,
    ):
        assert status_of(final(await half_closed(api, change(request)))) == 200


async def test_h19_all_requests_of_a_client_that_half_closes_are_answered(api: Api) -> None:
    create = head(api, "POST /api/requests HTTP/1.1", JSON, f"Content-Length: {len(BODY)}") + BODY
    health = head(api, "GET /health HTTP/1.1")
    answer = await half_closed(api, keep_alive(create + health + create) + health)
    assert answer.count(b"HTTP/1.1 200 OK") == 4


async def test_h19_a_client_that_half_closes_waits_for_its_model(start: Start) -> None:
    """`/v1` without a key cancels when its client leaves, which this one did not."""
    slow = Answer(200, chat_answer("").headers, chat_answer("slow").pieces, pause_s=0.4)
    async with FakeHuggingFace(default=lambda _: slow) as upstream:
        api = await start_online(start, upstream)
        chat = CHAT.encode()
        answer = await half_closed(
            api, head(api, "POST /v1/chat/completions HTTP/1.1", JSON, f"Content-Length: {len(chat)}") + chat
        )
        assert json_of(final(answer))["choices"][0]["message"]["content"] == "slow"  # type: ignore[index]
        stream = CHAT.replace("{", '{"stream": true, ', 1).encode()
        answer = await half_closed(
            api, head(api, "POST /v1/chat/completions HTTP/1.1", JSON, f"Content-Length: {len(stream)}") + stream
        )
        assert b"slow" in answer
        assert b"data: [DONE]" in answer


async def test_h19_an_incomplete_request_ends_with_its_connection(api: Api) -> None:
    whole = head(api, "POST /api/requests HTTP/1.1", JSON, f"Content-Length: {len(BODY)}") + BODY
    for part in (b"", whole[:50], whole[:-1]):
        assert await half_closed(api, part) == b""


async def test_h19_a_client_of_http_1_0_is_answered_too(api: Api) -> None:
    answer = await half_closed(
        api, head(api, "POST /api/requests HTTP/1.0", JSON, f"Content-Length: {len(BODY)}") + BODY
    )
    assert status_of(answer) == 200
