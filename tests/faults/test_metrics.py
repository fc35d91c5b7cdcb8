"""Metrics of whole servers: of all their workers in one answer, and as a real Prometheus reads them."""

import contextlib
import http.client
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import tools
from tests.faults.processes import ServerProcess, server_process, until
from tests.prometheus import ALERTS, Prometheus, promtool, running_prometheus

TOKEN = "0123456789abcdef"
DASHBOARD = ALERTS.with_name("dashboard.json")
RARE = re.compile(r"ai_sdk_server_upstream_(?:up|retries_total)")
"""Metrics without a series here: the offline double is never checked and never called again."""

SCRAPE_TIMEOUT_S = 8.0
"""A worker waits 2 s for another one that hangs."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def server(tmp_path: Path, database: str) -> Iterator[ServerProcess]:
    settings = {"DATABASE_URL": database, "INFERENCE_BACKEND": "offline", "METRICS_TOKEN": TOKEN, "WORKERS": "2"}
    with server_process(tmp_path / "data", **settings) as server:
        server.sign_up()
        yield server


def scrape(server: ServerProcess) -> bytes:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=SCRAPE_TIMEOUT_S)
    ) as connection:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return body


def samples(server: ServerProcess, name: str) -> dict[str, float]:
    """The values of a metric by worker, added up over its other labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(scrape(server).decode()):
        for sample in family.samples:
            if sample.name == name:
                worker = sample.labels.get("worker", "")
                found[worker] = found.get(worker, 0) + sample.value
    return found


def test_one_scrape_answers_for_all_workers_and_misses_only_a_dead_one(server: ServerProcess) -> None:
    for _ in range(8):
        assert server.create(prefer="wait=30")[1]["status"] == "completed"
    assert samples(server, "ai_sdk_server_worker_up") == {"0": 1, "1": 1}
    assert sum(samples(server, "ai_sdk_server_generations_total").values()) == 8
    assert set(samples(server, "process_resident_memory_bytes")) == {"0", "1"}
    assert samples(server, "ai_sdk_server_backlog") == {"": 0}
    assert server.process is not None
    workers = {
        child.cmdline()[-2]: child
        for child in psutil.Process(server.process.pid).children()
        if "worker" in child.cmdline()
    }
    os.kill(workers["1"].pid, signal.SIGSTOP)  # it keeps its socket and answers no more
    try:
        until(lambda: _scraped_up(server) == {"0": 1, "1": 0}, timeout_s=60)
    finally:
        os.kill(workers["1"].pid, signal.SIGKILL)
    until(lambda: _scraped_up(server) == {"0": 1, "1": 1}, timeout_s=60)
    assert "1" not in samples(server, "ai_sdk_server_generations_total")  # it counts from 0 again


def _scraped_up(server: ServerProcess) -> dict[str, float]:
    """The kernel may give a connection to the worker that hangs: then there is no answer."""
    try:
        return samples(server, "ai_sdk_server_worker_up")
    except (OSError, http.client.HTTPException):
        return {}


def expressions_of_dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"].replace("$__rate_interval", "10s") for panel in panels for target in panel["targets"]]


@tools.needs(tools.PROMETHEUS)
def test_prometheus_reads_every_expression_of_the_dashboard_and_the_alerts(
    server: ServerProcess, tmp_path: Path
) -> None:
    assert "14 rules found" in promtool("check", "rules", str(ALERTS))
    with running_prometheus(tmp_path / "prometheus", port=server.port, token=TOKEN) as prometheus:
        until(lambda: len(prometheus.query("ai_sdk_server_slots")) == 2)
        for _ in range(3):
            server.create(prefer="wait=30")
        failing = {"model": "offline/no-credits", "messages": [{"role": "user", "content": "Hi"}]}
        assert server.call("POST", "/v1/chat/completions", failing)[0] == 502
        until(lambda: _has_rates(prometheus), timeout_s=40)
        promtool("check", "metrics", given=scrape(server))
        empty = [expression for expression in expressions_of_dashboard() if not prometheus.query(expression)]
        assert [expression for expression in empty if not RARE.search(expression)] == []
        [group] = prometheus.get("rules")["groups"]
        assert len(group["rules"]) == 14
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
        assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []
        for rule in group["rules"]:
            value, _, _ = rule["query"].rpartition(" ")[0].rpartition(" ")  # without its threshold
            assert prometheus.query(value) or RARE.search(value), value


def _has_rates(prometheus: Prometheus) -> bool:
    rates = ('ai_sdk_server_generations_total{outcome="failed"}', "ai_sdk_server_loop_lag_seconds_count")
    return all(prometheus.query(f"rate({name}[10s])") for name in rates)
