"""Our server, the edge function in the real Deno, and a fake Hugging Face behind it; and the function alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from server.http import keys
from tests.acceptance.conftest import Api, Reply, Start
from tests.fakes.edge import Platform, serve_platform
from tests.fakes.gotrue import ANON, SECRET, SERVICE
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, Received, chat_answer, error_answer
from tests.supabase import Project

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def hugging_face() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace(default=lambda _: chat_answer("Hé", "llo 😀")) as fake:
        yield fake


@pytest.fixture
async def platform(project: Project, hugging_face: FakeHuggingFace) -> AsyncIterator[Platform]:
    async with serve_platform(project, hugging_face.url) as platform:
        yield platform


@pytest.fixture
async def api(start: Start, platform: Platform) -> Api:
    """A signed-in user of a server that has no Hugging Face token."""
    api = await start(
        database_url=platform.project.url,
        supabase_url=platform.url,
        supabase_anon_key=ANON,
        supabase_service_role_key=SERVICE,
        supabase_jwt_secret=SECRET,
        inference_backend=None,
    )
    return await api.sign_up()


async def ends(api: Api, request_id: str) -> Any:
    """The request once it is final."""
    reply = await api.get(f"/api/requests/{request_id}?wait=60")
    assert reply.json["status"] in {"completed", "failed"}, reply.json
    return reply.json


def models(received: list[Received]) -> list[Any]:
    return [request.model for request in received]


async def test_a_request_runs_in_the_function(api: Api, hugging_face: FakeHuggingFace) -> None:
    reply = await api.create("hello", parameters={"max_tokens": 5})
    assert (reply.status, reply.json["status"]) == (200, "completed"), reply.json
    assert reply.json["output_data"] == {"output": "Héllo 😀", "finish_reason": "stop", "provider": "fake"}
    assert (reply.json["token_used"], reply.json["token_count"]) == (5, 2)
    [call] = hugging_face.calls
    assert call.headers["Authorization"] == "Bearer hf_token_of_the_function"
    assert call.body["max_tokens"] == 5
    assert call.body["stream"] is True
    assert reply.json["model"] == call.model
    assert (await api.get("/health")).json["backend"] == "edge"


async def test_deltas_come_while_the_model_still_writes(api: Api, hugging_face: FakeHuggingFace) -> None:
    """The stream is passed through: when the model breaks off, what had come before is there."""
    whole = chat_answer("one", "two", finish=None, usage=None, done=False)
    hugging_face.answer(Answer(200, whole.headers, whole.pieces, pause_s=0.05, end=End.CUT))
    reply = await api.create("hello")
    assert reply.json["status"] == "failed"
    assert reply.json["output_data"]["output"] == "onetwo"
    assert reply.json["output_data"]["partial"] is True


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error_answer(401, "Invalid credentials"), "valid HF_API_TOKEN"),
        (error_answer(402, "No credits"), "no credits left"),
        (error_answer(422, "too long"), "too long"),
    ],
)
async def test_what_another_call_would_not_mend_fails_at_once(
    api: Api, hugging_face: FakeHuggingFace, answer: Answer, words: str
) -> None:
    hugging_face.answer(answer)
    reply = await api.create("hello")
    assert (reply.json["status"], reply.json["error_code"]) == ("failed", "MODEL_ERROR")
    assert words in reply.json["error_msg"]
    assert len(hugging_face.calls) == 1


async def test_the_next_model_is_the_functions_affair(api: Api, hugging_face: FakeHuggingFace) -> None:
    hugging_face.answer(error_answer(404, "no such model"))
    reply = await api.create("hello")
    assert reply.json["status"] == "completed"
    assert reply.json["model"] == models(hugging_face.calls)[1]


async def test_an_outage_is_no_outcome(api: Api, hugging_face: FakeHuggingFace) -> None:
    hugging_face.answer(*[error_answer(503, "loading", headers={"Retry-After": "0"})] * 2)
    item = await ends(api, (await api.create_async("hello")).json["id"])
    assert (item["status"], item["attempt"]) == ("completed", 1)
    assert len(hugging_face.calls) == 3


async def test_a_function_that_dies_loses_nothing(api: Api, platform: Platform, hugging_face: FakeHuggingFace) -> None:
    hugging_face.answer(Answer(200, {"Content-Type": "text/event-stream"}, (), end=End.STALL))
    created = await api.create_async("hello")
    await asyncio.wait_for(hugging_face.called.wait(), 30)
    await platform.kill()
    await asyncio.wait_for(hugging_face.abandoned.wait(), 30)
    await platform.start()
    assert (await ends(api, created.json["id"]))["status"] == "completed"


async def test_the_server_knows_of_a_function_that_is_not_there(api: Api, platform: Platform) -> None:
    upstream = api.app[keys.ENGINE]._upstream
    assert (await upstream.check()).is_ok
    await platform.kill()
    assert not (await upstream.check()).is_ok


# --- the function, called directly ---


async def call_directly(platform: Platform, request_id: Any, user_id: Any = None, **body: Any) -> Reply:
    form = {"id": str(request_id), "modelType": "text2text", "input": {"prompt": "not used"}, "userId": user_id, **body}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{platform.url}/functions/v1/hf-inference", json=form, headers={"apikey": SERVICE}) as answer,
    ):
        text = await answer.read()
        is_json = answer.content_type == "application/json"
        return Reply(answer.status, answer.headers, text, await answer.json() if is_json else None)


@pytest.fixture
async def waiting(api: Api, platform: Platform) -> Any:
    """A request that the server leaves alone for a while."""
    item = (await api.create_async("hello")).json
    done = await ends(api, item["id"])
    async with platform.project.connected() as connection:
        return await connection.fetchval(
            "INSERT INTO model_requests (id, user_id, status, model_type, input_data, run_at)"
            " SELECT gen_random_uuid(), user_id, 'pending', model_type, input_data, now() + interval '1 hour'"
            " FROM model_requests WHERE id = $1 RETURNING id",
            done["id"],
        )


async def test_a_waiting_request_is_run_and_kept_by_the_function(api: Api, platform: Platform, waiting: Any) -> None:
    usage_before = await _usage(platform)
    told = asyncio.create_task(api.get(f"/api/requests/{waiting}?wait=30"))
    reply = await call_directly(platform, waiting, api.user_id)
    assert (reply.status, reply.json["output"]) == (200, "Héllo 😀")
    item = (await told).json
    assert (item["status"], item["output_data"]["output"]) == ("completed", "Héllo 😀"), (
        "who waits at the server is told"
    )
    assert (item["token_used"], item["token_count"], item["attempt"]) == (5, 2, 1)
    assert item["processing_time"] >= 0
    assert await _usage(platform) == usage_before + 1
    assert (await call_directly(platform, waiting)).status == 409, "it has ended"
    assert platform.rpc == ["edge_claim", "edge_record", "edge_claim"]


async def test_a_stream_of_the_function_is_hugging_faces_own(platform: Platform, waiting: Any, api: Api) -> None:
    reply = await call_directly(platform, waiting, stream=True)
    assert reply.body == b"".join(chat_answer("Hé", "llo 😀").pieces)
    assert (await ends(api, waiting))["status"] == "completed"


async def test_another_users_request_is_not_run(platform: Platform, waiting: Any) -> None:
    assert (await call_directly(platform, waiting, "6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f")).status == 409


async def test_a_request_is_never_run_by_both(api: Api, platform: Platform, hugging_face: FakeHuggingFace) -> None:
    """The server and ten callers of the function want each of twenty requests at once."""
    hugging_face.default = lambda _: Answer(200, chat_answer("x").headers, chat_answer("x").pieces, delay_s=0.05)
    created = [(await api.create_async(f"number {number}")).json["id"] for number in range(20)]
    await asyncio.gather(*(call_directly(platform, request_id) for request_id in created))
    items = [await ends(api, request_id) for request_id in created]
    assert {item["status"] for item in items} == {"completed"}
    assert len(hugging_face.calls) == 20
    assert await _usage(platform) == 20


async def _usage(platform: Platform) -> int:
    async with platform.project.connected() as connection:
        return int(await connection.fetchval("SELECT coalesce(sum(completed), 0) FROM usage_daily"))
