"""Whatever is wrong is refused by name, in one shape, with nothing in the log that a person has to look at."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient
from multidict import CIMultiDict
from structlog.testing import capture_logs

from server.app import create_app
from server.http import bodies, keys
from server.settings import Settings
from tests.acceptance.bad_input.bodies import DEPTH, ENCODING, NUL_AND_SURROGATES, SIZE, SYNTAX_CASES
from tests.acceptance.bad_input.case import CANARY, TOKEN, Case, create, fetch, text2text
from tests.acceptance.bad_input.headers import CONTENT_TYPE, HEADER, IDEMPOTENCY_KEY
from tests.acceptance.bad_input.targets import PATH, QUERY
from tests.acceptance.bad_input.tokens import SIGNING_SECRET, TOKENS, forge
from tests.acceptance.bad_input.values import NUMBERS, TYPES, UNKNOWN_FIELDS
from tests.acceptance.conftest import Api, Reply, ServerUnderTest, settings_for
from tests.postgres import Cluster

CATEGORIES: dict[str, tuple[Case, ...]] = {
    "path": PATH,
    "query": QUERY,
    "header": HEADER,
    "token": TOKENS,
    "JSON syntax": SYNTAX_CASES,
    "encoding": ENCODING,
    "size": SIZE,
    "NUL and surrogates": NUL_AND_SURROGATES,
    "depth": DEPTH,
    "numbers": NUMBERS,
    "types": TYPES,
    "unknown fields": UNKNOWN_FIELDS,
    "content type": CONTENT_TYPE,
    "idempotency key": IDEMPOTENCY_KEY,
}
ANSWER_WITHIN_S = 5.0
BODY_TIMEOUT_S = 0.5
_ERROR_SHAPE = {"error", "detail", "code", "request_id"}

on_the_loop_of_the_server = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(cluster_18: Cluster, template_18: str) -> AsyncIterator[Api]:
    """One server and one user for all cases: none of them may leave a trace that the next could meet."""
    with pytest.MonkeyPatch.context() as patch, cluster_18.database(template_18) as database:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setattr(bodies, "BODY_TIMEOUT_S", BODY_TIMEOUT_S)
        app = create_app(settings_for(database, supabase_jwt_secret=SIGNING_SECRET), database_url=database)
        async with ServerUnderTest(app) as server, TestClient[Any, Any](server) as client:
            await app[keys.LIFECYCLE].wait_ready()
            yield await Api(client, app).sign_up()


@on_the_loop_of_the_server
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{category}: {case.name[:40]}")
        for category, cases in CATEGORIES.items()
        for case in cases
    ],
)
async def test_bad_input_is_refused_by_name_and_leaves_no_trace(
    api: Api, case: Case, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.before:
        assert (await _exchange(api, case.before)).status == 200
    history = (await api.get("/api/requests?limit=1000")).body
    with capture_logs() as events:
        reply = await _exchange(api, case.request, case.then)
        assert (await api.get("/api/requests?limit=1000")).body == history, "something was stored"
    _check_answer(case, reply)
    _check_logs(case, reply, events, caplog.records, "".join(capfd.readouterr()))


@on_the_loop_of_the_server
@pytest.mark.parametrize(
    "request_", [create(text2text()), fetch("/api/requests"), fetch("/api/requests", token=forge())]
)
async def test_what_the_cases_spoil_is_accepted_otherwise(api: Api, request_: bytes) -> None:
    assert (await _exchange(api, request_)).status == 200


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_category_has_eight_cases_or_more(category: str) -> None:
    cases = CATEGORIES[category]
    assert len({case.name for case in cases}) == len(cases) >= 8
    assert all(case.fields or case.says for case in cases)


def _check_answer(case: Case, reply: Reply) -> None:
    assert reply.status == case.status, reply.body
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    answer = reply.json
    assert set(answer) == (_ERROR_SHAPE | {"errors"} if case.fields else _ERROR_SHAPE)
    assert all(isinstance(answer[name], str) and answer[name] for name in _ERROR_SHAPE)
    assert answer["code"] == case.code
    assert answer["request_id"] == reply.headers["X-Request-Id"]
    assert re.search(case.says, answer["detail"]), answer["detail"]
    assert sorted(error["field"] for error in answer.get("errors", [])) == sorted(case.fields)
    assert all(error["message"] for error in answer.get("errors", []))
    for name, pattern in case.headers.items():
        assert re.search(pattern, reply.headers[name])
    assert CANARY.encode() not in reply.body


def _check_logs(case: Case, reply: Reply, events: list[Any], records: list[logging.LogRecord], printed: str) -> None:
    """`events` went through structlog, `records` through the standard library, `printed` past both."""
    assert [event for event in events if event.get("request_id") == reply.json["request_id"]], "the log saw nothing"
    assert not [event for event in events if event["log_level"] in {"error", "critical"} or "exc_info" in event]
    assert not [record for record in records if record.levelno >= logging.ERROR or record.exc_info]
    written = "\n".join([*map(repr, events), *(record.getMessage() for record in records), printed])
    assert "Traceback" not in written
    for secret in {CANARY, *re.findall(r"eyJ[\w.-]{20,}", case.request.decode("latin-1"))}:
        assert secret not in written


async def _exchange(api: Api, request: bytes, then: bytes = b"") -> Reply:
    """Send bytes as they are on a connection of their own; the first answer to them."""
    assert api.token is not None
    async with asyncio.timeout(ANSWER_WITHIN_S):
        reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
        try:
            writer.write(request.replace(TOKEN.encode(), api.token.encode()))
            reply = await _read(reader)
            if then and reply.status == HTTPStatus.CONTINUE:
                writer.write(then)
                reply = await _read(reader)
            return reply
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n")
    status_line, *lines = head.split("\r\n")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(": ")
        headers.add(name, value)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    is_json = headers.get("Content-Type", "").startswith("application/json")
    return Reply(int(status_line.split()[1]), headers, body, json.loads(body) if is_json else None)
