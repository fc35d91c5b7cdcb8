"""`GET /metrics`: what operators see, who may see it, and what the log line of a request says."""

from collections.abc import Mapping

import asyncpg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from structlog.testing import capture_logs

from server.errors import Unavailable
from server.http import keys
from tests.acceptance.conftest import Api, Start
from tests.acceptance.test_auth import raw
from tests.fakes.huggingface import FakeHuggingFace, chat_answer

TOKEN = "0123456789abcdef"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def scrape(api: Api, **headers: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """The values of all samples by name and labels, as Prometheus reads them."""
    reply = await Api(api.client, api.app).get("/metrics", headers=headers)
    assert reply.status == 200, reply.body
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in read_text(reply.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(values: Mapping[str, str] | None = None) -> frozenset[tuple[str, str]]:
    return frozenset({"worker": "0", **(values or {})}.items())


async def test_a_create_is_in_the_metrics_with_its_route_its_run_and_its_tokens(api: Api) -> None:
    assert (await api.create("one two three")).json["status"] == "completed"
    seen = await scrape(api)
    http = {"http_request_method": "POST", "http_route": "/api/requests", "http_response_status_code": "200"}
    assert seen["http_server_request_duration_seconds_count"][labels(http)] == 1
    kind = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "offline/echo"}
    ended = labels({**kind, "outcome": "completed", "error_type": ""})
    assert seen["ai_sdk_server_generations_total"] == {ended: 1}
    assert seen["gen_ai_client_operation_duration_seconds_count"] == {labels({**kind, "error_type": ""}): 1}
    assert seen["gen_ai_client_operation_time_to_first_chunk_seconds_count"] == {labels(kind): 1}
    assert seen["gen_ai_client_token_usage_sum"][labels({**kind, "gen_ai_token_type": "input"})] == 3
    assert seen["ai_sdk_server_overhead_seconds_count"] == seen["ai_sdk_server_queue_age_seconds_count"]
    for rows in ("accepts", "outcomes"):
        assert seen["ai_sdk_server_journal_batch_rows_sum"][labels({"kind": rows})] == 1
        assert seen["ai_sdk_server_journal_flush_seconds_count"][labels({"kind": rows})] == 1
    for name, value in {
        "ready": 1,
        "database_up": 1,
        "lease_held": 1,
        "slots": 64,
        "slots_used": 0,
        "running": 0,
    }.items():
        assert seen[f"ai_sdk_server_{name}"] == {labels(): value}, name
    assert seen["ai_sdk_server_worker_up"] == {labels(): 1}
    assert seen["ai_sdk_server_backlog"] == {frozenset(): 0}
    assert seen["process_resident_memory_bytes"][labels()] > 10_000_000
    assert str(api.user_id) not in str(seen)


async def test_waiting_requests_and_waiting_clients_are_counted(start: Start) -> None:
    api = await (await start(concurrency=1)).sign_up()
    await api.create_async("first", model="offline/slow-20s")
    await api.create_async("second", model="offline/slow-20s")
    seen = await scrape(api)
    assert seen["ai_sdk_server_running"] == seen["ai_sdk_server_slots_used"] == {labels(): 1}
    assert seen["ai_sdk_server_backlog"] == {frozenset(): 1}
    assert 0 < seen["ai_sdk_server_backlog_oldest_age_seconds"][frozenset()] < 60


@pytest.mark.parametrize("error", [Unavailable("away", retry_after_s=1), asyncpg.UndefinedTableError("not migrated")])
async def test_without_a_database_only_the_backlog_is_missing(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(api.app[keys.READER], "fetch_row", fail)
    seen = await scrape(api)
    assert "ai_sdk_server_backlog" not in seen
    assert seen["ai_sdk_server_slots"] == {labels(): 64}


async def test_a_lost_lease_is_counted(api: Api) -> None:
    engine = api.app[keys.ENGINE]
    await engine._heartbeat.forget(engine.lease.instance_id)
    await engine._heartbeat.beat()
    assert (await scrape(api))["ai_sdk_server_lease_losses_total"] == {labels(): 1}


async def test_paths_and_methods_of_strangers_make_no_series(api: Api) -> None:
    for number in range(3):
        await api.get(f"/nowhere/{number}")
        await api.send(f"INVENTED{number}", "/api/requests")
    seen = await scrape(api)
    counts = seen["http_server_request_duration_seconds_count"]
    unknown = {"http_request_method": "GET", "http_route": "", "http_response_status_code": "404"}
    assert counts[labels(unknown)] == 3
    assert {dict(key)["http_request_method"] for key in counts} <= {"GET", "POST", "_OTHER"}
    assert "nowhere" not in str(seen)
    assert "INVENTED" not in str(seen)


async def test_openmetrics_is_given_to_clients_that_accept_it(api: Api) -> None:
    await api.create()
    reply = await api.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family.type for family in read_openmetrics(reply.body.decode())}
    assert families["ai_sdk_server_generations"] == "counter"
    assert families["gen_ai_client_token_usage"] == "histogram"


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via"]
)
async def test_without_a_token_a_client_behind_a_proxy_finds_nothing(api: Api, header: str) -> None:
    stranger = Api(api.client, api.app)
    assert (await stranger.get("/metrics")).status == 200
    reply = await stranger.get("/metrics", headers={header: "203.0.113.7"})
    assert (reply.status, reply.json["code"]) == (404, "NOT_FOUND")


async def test_with_a_token_only_its_holders_get_the_metrics(start: Start) -> None:
    api = await start(metrics_token=TOKEN)
    user = await api.sign_up()
    for client, headers in ((api, {}), (api, {"Authorization": f"Bearer {TOKEN}x"}), (user, {})):
        reply = await client.get("/metrics", headers=headers)
        assert (reply.status, reply.json["code"]) == (401, "AUTH_ERROR")
        assert "WWW-Authenticate" in reply.headers
    answer = await raw(api, b"GET /metrics HTTP/1.1", b"Authorization: Bearer \xff" + TOKEN.encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    through_proxy = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "203.0.113.7"}
    assert (await api.get("/metrics", headers=through_proxy)).status == 200


async def test_the_log_line_has_the_address_of_the_client_and_the_code_of_the_error(start: Start) -> None:
    api = await start(trusted_proxies="127.0.0.0/8")
    with capture_logs() as logs:
        await api.get("/api/requests", headers={"X-Forwarded-For": "198.51.100.9, 203.0.113.7"})
        await api.get("/health")
    refused, fine = (entry for entry in logs if entry["event"] == "http")
    assert (refused["client"], refused["code"], refused["status"]) == ("203.0.113.7", "AUTH_ERROR", 401)
    assert (fine["client"], fine["code"], fine["trace_id"]) == ("127.0.0.1", None, None)


async def test_an_address_is_not_taken_from_proxies_that_are_not_trusted(api: Api) -> None:
    with capture_logs() as logs:
        await api.get("/health", headers={"X-Forwarded-For": "203.0.113.7"})
    assert [entry["client"] for entry in logs if entry["event"] == "http"] == ["127.0.0.1"]


async def test_a_trace_goes_to_the_log_and_to_the_provider_and_ends_with_its_request(start: Start) -> None:
    async with FakeHuggingFace(default=lambda _: chat_answer("Hi")) as upstream:
        api = await start(inference_backend="huggingface", hf_base_url=upstream.url, text_models="org/model")
        user = await api.sign_up()
        with capture_logs() as logs:
            await user.create(headers={"traceparent": TRACEPARENT})
            await user.create()
            await user.create(headers={"traceparent": "00-not-a-trace-01"})
    assert [call.headers.get("traceparent") for call in upstream.calls] == [TRACEPARENT, None, None]
    for event in ("http", "request_ended"):
        traces = [entry["trace_id"] for entry in logs if entry["event"] == event]
        assert traces == [TRACE_ID, None, None], event
