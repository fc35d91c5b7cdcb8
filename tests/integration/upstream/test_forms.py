"""Requests in a form that a provider refuses: they are repeated once in another one, which is remembered."""

from typing import Any

import pytest

from server.inference.edge import EdgeFunction
from server.inference.events import Call, Event, GenerationFailed, Started, Task
from server.inference.protocol import KnownForms
from server.inference.protocol.forms import MAX_MODELS, Form
from server.model_request import Completed
from tests.fakes.huggingface import Answer, FakeHuggingFace, Received, chat_answer, error_answer, event, json_answer
from tests.integration.upstream.generations import Client, Connect

PARTS = [{"type": "text", "text": "Good"}, {"type": "text", "text": "morning"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
DEVELOPER = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
IN_PARTS = [{"role": "user", "content": PARTS}]
BOTH = [DEVELOPER[0], IN_PARTS[0]]

ROLE_REFUSALS: list[tuple[int, Any]] = [
    (400, {"error": {"message": "invalid parameter 'messages[0].role': invalid role 'developer', must be one of: …"}}),
    (400, {"error": {"message": "developer is not one of ['system', 'assistant', 'user'] - 'messages.[0].role'"}}),
    (400, {"error": {"message": "chat template rejected the request: Unexpected message role."}}),
    (400, {"message": "messages[0].role: unknown variant `developer`, expected one of `system`, `user`"}),
    (422, {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'system' or 'user'"}]}),
    (422, {"error": "Template error: invalid operation: Unknown role developer", "error_type": "template_error"}),
    (500, {"error": {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}}),
]
CONTENT_REFUSALS = [
    (
        400,
        {"error": {"message": "Invalid type for 'messages[0].content': expected a string, but got an array instead"}},
    ),
    (400, {"error": {"message": "'messages.0.content' must be a string"}}),
    (400, {"error": "unknown content type"}),
    (400, {"message": "JSON format issue: expected string at field messages.content got instead array"}),
    (422, {"error": {"message": "messages[0].content: invalid type: sequence, expected a string at line 5 column 19"}}),
    (422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "str type expected"}]}),
    (422, {"error": {"message": "[invalid_request_error] Input should be a valid string"}}),
    (500, {"error": "unknown error", "warnings": ['can only concatenate str (not "list") to str']}),
]


def refuse(received: Received) -> Answer | None:
    """The refusal of a provider that knows neither the role nor parts."""
    messages = received.body["messages"]
    if any(message["role"] == "developer" for message in messages):
        return json_answer(ROLE_REFUSALS[0][1], status=400)
    if any(not isinstance(message["content"], str) for message in messages):
        return json_answer(CONTENT_REFUSALS[0][1], status=400)
    return None


def strict(received: Received) -> Answer:
    return refuse(received) or chat_answer("fine")


async def run(client: Client, messages: Any, *models: str, **parameters: Any) -> list[Event]:
    call = Call(Task.CHAT_COMPLETION, models or ("org/first",), {"messages": messages}, parameters)
    return [event async for event in client.upstream.generate(call, timeout_s=30)]


def sent(fake: FakeHuggingFace) -> list[Any]:
    return [received.body["messages"] for received in fake.calls]


@pytest.mark.parametrize(("status", "refusal"), ROLE_REFUSALS)
async def test_role_developer_is_sent_as_system_after_a_refusal(status: int, refusal: Any, connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.answer(json_answer(refusal, status=status), chat_answer("fine"), chat_answer("fine"))
    for _ in range(2):
        started, *_, completed = await run(client, DEVELOPER)
        assert isinstance(started, Started)
        assert isinstance(completed, Completed)
    as_system = [{**DEVELOPER[0], "role": "system"}, DEVELOPER[1]]
    assert sent(client.fake) == [DEVELOPER, as_system, as_system]


@pytest.mark.parametrize(("status", "refusal"), CONTENT_REFUSALS)
async def test_arrays_of_text_parts_are_sent_as_a_string_after_a_refusal(
    status: int, refusal: Any, connect: Connect
) -> None:
    client = connect(max_retries=0)
    client.fake.answer(json_answer(refusal, status=status), chat_answer("fine"), chat_answer("fine"))
    for _ in range(2):
        assert isinstance((await run(client, IN_PARTS))[-1], Completed)
    flat = [{"role": "user", "content": "Good\nmorning"}]
    assert sent(client.fake) == [IN_PARTS, flat, flat]


async def test_a_refusal_that_came_as_the_first_event_of_a_stream_counts_too(connect: Connect) -> None:
    client = connect(max_retries=0)
    refusal = event({"error": {"message": "Unexpected role developer", "http_status_code": 422}}) + b"data: [DONE]\n\n"
    client.fake.answer(Answer(200, {"Content-Type": "text/event-stream"}, (refusal,)), chat_answer("fine"))
    assert isinstance((await run(client, DEVELOPER))[-1], Completed)


async def test_both_forms_are_found_one_after_the_other_and_remembered_by_model(connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.default = strict
    assert isinstance((await run(client, BOTH))[-1], Completed)
    assert len(client.fake.calls) == 3
    assert isinstance((await run(client, BOTH))[-1], Completed)
    assert len(client.fake.calls) == 4
    assert isinstance((await run(client, BOTH, "org/second"))[-1], Completed)
    assert len(client.fake.calls) == 7
    assert sent(client.fake)[-1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Good\nmorning"},
    ]


async def test_a_form_is_tried_once_and_is_no_retry(client: Client) -> None:
    client.fake.default = lambda _: json_answer(ROLE_REFUSALS[0][1], status=400)
    [failed] = await run(client, DEVELOPER)
    assert isinstance(failed, GenerationFailed)
    assert "invalid role 'developer'" in failed.message
    assert len(client.fake.calls) == 2
    assert client.upstream._budget._saved == 20.0
    await run(client, DEVELOPER)
    assert sent(client.fake)[2] == DEVELOPER  # a form that did not help is not remembered


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hello"}],
        [{"role": "user", "content": [PARTS[0], IMAGE]}],
    ],
)
async def test_a_refusal_is_final_where_no_other_form_exists(messages: Any, client: Client) -> None:
    client.fake.default = lambda _: json_answer(CONTENT_REFUSALS[0][1], status=400)
    assert isinstance((await run(client, messages))[-1], GenerationFailed)
    assert len(client.fake.calls) == 1


async def test_an_image_keeps_its_message_in_parts(client: Client) -> None:
    client.fake.answer(json_answer(CONTENT_REFUSALS[0][1], status=400), chat_answer("fine"))
    with_image = {"role": "user", "content": [PARTS[0], IMAGE]}
    assert isinstance((await run(client, [IN_PARTS[0], with_image]))[-1], Completed)
    assert sent(client.fake)[1] == [{"role": "user", "content": "Good\nmorning"}, with_image]


@pytest.mark.parametrize("status", [401, 403, 404, 413, 429])
async def test_other_refusals_are_not_answered_with_another_form(status: int, connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.default = lambda _: error_answer(status, "no developer may send a string")
    assert isinstance((await run(client, BOTH))[-1], GenerationFailed)
    assert len(client.fake.calls) == 1


async def test_an_answer_that_has_begun_is_not_asked_for_again(client: Client) -> None:
    pieces = (*chat_answer("Once").pieces[:2], event({"error": {"message": "Unexpected role developer", "code": 400}}))
    client.fake.default = lambda _: Answer(200, {"Content-Type": "text/event-stream"}, pieces)
    failed = (await run(client, DEVELOPER))[-1]
    assert isinstance(failed, GenerationFailed)
    assert failed.output_data is not None
    assert len(client.fake.calls) == 1


async def test_top_p_of_1_is_left_out_of_a_chat_after_a_refusal(connect: Connect) -> None:
    client = connect(max_retries=0)
    words = "Input validation error: `top_p` must be > 0.0 and < 1.0"
    client.fake.default = lambda received: (
        json_answer({"error": words, "error_type": "validation"}, status=422)
        if received.body.get("top_p", 0.5) >= 1
        else chat_answer("fine")
    )
    for top_p in (1.0, 1.0, 0.9):
        assert isinstance((await run(client, DEVELOPER, top_p=top_p))[-1], Completed)
    assert [received.body.get("top_p") for received in client.fake.calls] == [1.0, None, None, 0.9]


async def test_the_edge_function_is_asked_in_another_form_too(fake: FakeHuggingFace) -> None:
    fake.default = lambda received: (
        json_answer({"code": "MODEL_ERROR", "detail": ROLE_REFUSALS[0][1]["error"]["message"]}, status=422)
        if received.body["input"]["messages"][0]["role"] == "developer"
        else chat_answer("fine")
    )
    edge = EdgeFunction(supabase_url=fake.url, key="sb_secret_x", timeout_s=5, connections=1)
    call = Call(Task.CHAT_COMPLETION, ("org/first",), {"messages": DEVELOPER}, {})
    try:
        for _ in range(2):
            assert isinstance([event async for event in edge.generate(call, timeout_s=5)][-1], Completed)
    finally:
        await edge.close()
    roles = [received.body["input"]["messages"][0]["role"] for received in fake.calls]
    assert roles == ["developer", "system", "system"]


def test_the_memory_is_bounded_and_adds_up() -> None:
    known = KnownForms()
    known.record("org/model", Form(is_flat=True))
    known.record("org/model", Form(has_system_role=True))
    assert known.find("org/model") == Form(has_system_role=True, is_flat=True)
    for number in range(MAX_MODELS):
        known.record(f"org/{number}", Form(is_flat=True))
    assert known.find("org/model") == Form()
    assert known.find(f"org/{MAX_MODELS - 1}") == Form(is_flat=True)
