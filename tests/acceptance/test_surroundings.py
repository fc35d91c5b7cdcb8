"""Health, CORS, errors and headers: what stands around the API."""

import asyncio
from uuid import UUID

import pytest
from aiohttp import hdrs

from server.actors.workload import StopReason
from server.http import keys
from server.lifecycle import Phase
from server.model_request import RequestId
from tests.acceptance.conftest import Api, Reply, Start

ORIGIN = "https://app.example"


async def test_health_tells_the_backend_and_the_checks(api: Api) -> None:
    reply = await api.get("/health")
    assert (reply.status, reply.json["status"], reply.json["backend"]) == (200, "ok", "offline")
    assert reply.json["checks"] == {"accepting": True, "lease": True, "database": True}
    assert reply.json["instances"] == 1


async def test_health_counts_the_instances_of_the_database(start: Start) -> None:
    api = await start()
    assert (await api.get("/health")).json["instances"] == 1
    await start()
    await api.app[keys.ENGINE]._heartbeat.beat()
    assert (await api.get("/health")).json["instances"] == 2


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_health_is_503_until_ready_and_while_stopping(api: Api, path: str) -> None:
    lifecycle = api.app[keys.LIFECYCLE]
    for phase in (Phase.STARTING, Phase.DRAINING):
        lifecycle.phase = phase
        assert (await api.get(path)).status == 503
    assert (await api.get("/health/live")).status == 200


async def test_until_ready_everything_else_is_503_with_retry_after(api: Api) -> None:
    api.app[keys.LIFECYCLE].phase = Phase.STARTING
    reply = await api.get("/api/requests")
    assert (reply.status, reply.json["code"]) == (503, "SERVER_ERROR")
    assert int(reply.headers["Retry-After"]) >= 1


async def test_a_listed_origin_is_allowed_on_answers_and_errors(start: Start) -> None:
    api = await (await start(allowed_origins=ORIGIN)).sign_up()
    for reply in (await api.get("/api/requests", headers={"Origin": ORIGIN}), await _unauthenticated(api)):
        assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Access-Control-Allow-Credentials" not in reply.headers
        exposed = {name.strip().lower() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
        assert {"location", "link", "etag", "retry-after", "ratelimit", "x-request-id"} <= exposed


PATTERNS = "capacitor://localhost,app://-,https://*.example.com,http://localhost:*"


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("capacitor://localhost", True),
        ("app://-", True),
        ("https://app.example.com", True),
        ("https://a.b.example.com", True),
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("ionic://localhost", False),
        ("https://example.com", False),
        ("https://evilexample.com", False),
        ("https://example.com.evil.test", False),
        ("https://evil.test/.example.com", False),
        ("https://evil.test#.example.com", False),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("http://localhost:5173.evil.test", False),
        ("http://localhost.evil.test", False),
        ("https://*.example.com", False),
        ("null", False),
    ],
)
async def test_c9_app_shells_and_patterns_are_allowed_origins(start: Start, origin: str, is_allowed: bool) -> None:  # noqa: FBT001
    api = await start(allowed_origins=PATTERNS)
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for reply in (
        await api.get("/health", headers={"Origin": origin}),
        await api.send("OPTIONS", "/api/requests", headers=preflight),
        await api.get("/api/nothing", headers={"Origin": origin}),
    ):
        expected = origin if is_allowed else None
        assert reply.headers.get("Access-Control-Allow-Origin") == expected


async def test_c9_scripts_may_read_what_clients_retry_by(start: Start) -> None:
    api = await start(allowed_origins=ORIGIN)
    reply = await api.get("/health", headers={"Origin": ORIGIN})
    exposed = {name.strip().lower() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
    kinds = {f"x-ratelimit-{part}-{of}" for part in ("limit", "remaining", "reset") for of in ("requests", "tokens")}
    assert kinds | {"x-should-retry", "idempotent-replayed"} <= exposed


async def _unauthenticated(api: Api) -> Reply:
    return await api.get("/api/requests", headers={"Origin": ORIGIN, "Authorization": "Bearer nonsense"})


async def test_a_preflight_needs_no_token(start: Start) -> None:
    api = await start(allowed_origins=ORIGIN)
    reply = await api.send(
        "OPTIONS",
        "/api/requests",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,prefer,idempotency-key",
        },
    )
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in reply.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ORIGIN + ".evil.example"])
async def test_another_origin_is_not_allowed(start: Start, origin: str) -> None:
    api = await (await start(allowed_origins=ORIGIN)).sign_up()
    for path, status in (("/api/requests", 200), ("/api/nothing", 404)):
        reply = await api.get(path, headers={"Origin": origin})
        assert reply.status == status
        assert "Access-Control-Allow-Origin" not in reply.headers


async def test_what_has_no_route_can_be_read_by_a_listed_origin(start: Start) -> None:
    api = await start(allowed_origins=ORIGIN)
    for method, path, status in (("GET", "/api/nothing", 404), ("PUT", "/api/requests", 405)):
        reply = await api.send(method, path, headers={"Origin": ORIGIN})
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (status, ORIGIN)


async def test_caches_are_told_that_answers_depend_on_the_origin(start: Start) -> None:
    api = await start(allowed_origins=ORIGIN)
    for path, vary in (
        ("/health", "Origin"),
        ("/api/nothing", "Origin"),
        ("/api/requests", "Origin"),
        ("/", "Accept, Origin"),
        ("/openapi.json", "Accept-Encoding, Origin"),
    ):
        assert (await api.get(path)).headers["Vary"] == vary
    assert (await (await start()).get("/openapi.json")).headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/requests", "GET,HEAD,OPTIONS,POST"),
        (f"/api/requests/{UUID(int=0)}", "DELETE,GET,HEAD,OPTIONS"),
        ("/auth/signin", "OPTIONS,POST"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"Origin": ORIGIN}, {"Access-Control-Request-Method": "POST"}])
async def test_options_that_are_no_preflight_name_the_methods(
    start: Start, path: str, allow: str, headers: dict[str, str]
) -> None:
    reply = await (await start(allowed_origins=ORIGIN)).send("OPTIONS", path, headers=headers)
    assert (reply.status, reply.headers["Allow"], reply.body) == (204, allow, b"")


async def test_options_of_nothing_are_404(api: Api) -> None:
    assert (await api.send("OPTIONS", "/api/nothing")).status == 404


async def test_a_path_that_is_not_there_is_404_in_the_error_shape(api: Api) -> None:
    reply = await api.get("/api/nothing")
    assert (reply.status, reply.json["code"]) == (404, "NOT_FOUND")
    assert reply.json["request_id"] == reply.headers["X-Request-Id"]


async def test_a_method_that_is_not_there_is_405_with_allow(api: Api) -> None:
    reply = await api.send("PUT", "/api/requests")
    assert (reply.status, reply.json["code"]) == (405, "NOT_FOUND")
    assert {"GET", "POST"} <= set(reply.headers["Allow"].replace(" ", "").split(","))


async def test_a_request_id_is_taken_over_or_replaced(api: Api) -> None:
    assert (await api.get("/health", headers={"X-Request-Id": "abc-123"})).headers["X-Request-Id"] == "abc-123"
    assert (await api.get("/health", headers={"X-Request-Id": "a b<c>"})).headers["X-Request-Id"] != "a b<c>"


async def test_every_response_carries_the_common_headers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await (await start(rate_limit_per_minute=100, allowed_origins=ORIGIN)).sign_up()
    events = {"Accept": "text/event-stream"}
    replies = {
        "ok": (200, await api.create()),
        "stream": (200, await api.create(headers=events)),
        "no route": (404, await api.get("/api/nothing")),
        "no method": (405, await api.send("PUT", "/api/requests")),
        "refused": (422, await api.post("/api/requests", {})),
        "openai": (200, await api.get("/v1/models")),
    }
    monkeypatch.setattr(api.app[keys.REQUESTS].history, "page", _explode)
    replies["bug"] = (500, await api.get("/api/requests"))
    for name, (status, reply) in replies.items():
        assert reply.status == status, name
        assert reply.headers["X-Request-Id"], name
        assert reply.headers.getall(hdrs.SERVER) == ["ai-sdk-server"], name
        assert reply.headers[hdrs.CACHE_CONTROL].startswith("no-store"), name
        assert reply.headers["X-Content-Type-Options"] == "nosniff", name
        assert "Origin" in reply.headers[hdrs.VARY].split(", "), name
        assert ("RateLimit" in reply.headers) == (name not in {"no route", "no method"}), name
    assert "x-ratelimit-limit-requests" in replies["openai"][1].headers


async def test_what_no_middleware_sees_is_as_guarded(api: Api) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(b"nonsense\r\n\r\n")
    try:
        async with asyncio.timeout(5):
            answer = (await reader.read()).decode().lower()
    finally:
        writer.close()
    assert " 400 bad request\r\n" in answer
    assert "\r\ncache-control: no-store\r\n" in answer
    assert "\r\nx-content-type-options: nosniff\r\n" in answer


async def test_a_bug_is_a_500_without_its_words(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.app[keys.REQUESTS].history, "page", _explode)
    reply = await api.get("/api/requests")
    assert (reply.status, reply.json["code"]) == (500, "SERVER_ERROR")
    assert b"canary" not in reply.body


async def _explode(*_: object) -> None:
    raise KeyError("canary")


async def test_a_stopped_generation_ends_as_cancelled(api: Api) -> None:
    created = await api.create_async(model="offline/long-stream")
    path = f"/api/requests/{created.json['id']}?wait=10"
    await api.get(path, headers={"If-None-Match": '"0-pending"'})  # until it has started
    assert api.app[keys.ENGINE].workload.stop(RequestId(UUID(created.json["id"])), StopReason.CANCELLED)
    item = (await api.get(path)).json
    assert item["status"] == "cancelled"
    assert item["error_msg"] is None
