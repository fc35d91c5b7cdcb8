"""Unmodified clients of `/v1`: the `openai` package and huggingface_hub's `InferenceClient`."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import HfHubHTTPError
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from pydantic import BaseModel

from server.inference.offline import INTRODUCTION
from tests.acceptance.conftest import Api, Start
from tests.acceptance.openai_upstream import BROKEN, TEXT, WEATHER, WORDS, start_online, tool_answer
from tests.fakes.huggingface import Answer, FakeHuggingFace, Received, chat_answer, error_answer, json_answer

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
ARGUMENTS = '{"place": "Oslo"}'


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


def base_url(api: Api) -> str:
    return str(api.client.make_url("/v1"))


def client_of(api: Api, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=base_url(api), api_key=api.token, max_retries=0, **options)


@pytest.fixture
async def client(online: Api) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(online) as client:
        yield client


def hub_client(api: Api) -> AsyncInferenceClient:
    return AsyncInferenceClient(base_url=base_url(api), token=api.token)


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_a_completion_is_the_answer_with_its_model_and_usage(
    client: AsyncOpenAI, online: Api, upstream: FakeHuggingFace
) -> None:
    upstream.answer(chat_answer(*WORDS, usage=(3, 5)))
    answer = await client.chat.completions.create(model="org/model", messages=HELLO, temperature=0.5, max_tokens=20)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert answer.model == "org/model"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)
    sent = upstream.calls[0].body
    assert (sent["messages"], sent["temperature"], sent["max_tokens"]) == (HELLO, 0.5, 20)
    [stored] = (await online.get("/api/requests")).json
    assert answer.id == f"chatcmpl-{stored['id']}"
    assert (stored["model_type"], stored["status"], stored["output_data"]["output"]) == (
        "chat-completion",
        "completed",
        TEXT,
    )


async def test_the_newer_name_of_the_limit_is_taken_as_well(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("hi"))
    await client.chat.completions.create(model="default", messages=HELLO, max_completion_tokens=7, user="u", n=1)
    assert upstream.calls[0].body["max_tokens"] == 7


async def test_usage_that_upstream_does_not_give_is_not_made_up(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("hi", usage=None))
    assert (await client.chat.completions.create(model="default", messages=HELLO)).usage is None


async def test_a_stream_has_the_same_text_in_pieces(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer(*WORDS))
    stream = await client.chat.completions.create(model="default", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        (chunks[0].id, chunks[0].created, "org/model")
    }
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_stream_that_upstream_sends_in_odd_pieces_has_the_same_text(
    client: AsyncOpenAI, upstream: FakeHuggingFace
) -> None:
    upstream.answer(chat_answer(*WORDS).split_awkwardly())
    stream = await client.chat.completions.create(model="default", messages=HELLO, stream=True)
    assert text_of([chunk async for chunk in stream]) == TEXT


async def test_usage_comes_after_the_last_chunk_where_it_is_asked_for(
    client: AsyncOpenAI, upstream: FakeHuggingFace
) -> None:
    upstream.answer(chat_answer("hi", usage=(3, 1)))
    stream = await client.chat.completions.create(
        model="default", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *others, last = [chunk async for chunk in stream]
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 4)
    assert [chunk.usage for chunk in others] == [None] * len(others)
    assert others[-1].choices[0].finish_reason == "stop"


async def test_tools_are_offered_called_and_answered(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(tool_answer(), chat_answer("It rains."))
    messages: list[Any] = list(HELLO)
    answer = await client.chat.completions.create(
        model="default", messages=messages, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=True
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.model_extra == {"reasoning_content": "Oslo, then."}
    calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("fc_1", "weather", ARGUMENTS),
        ("fc_2", "now", "{}"),
    ]
    assert upstream.calls[0].body["tools"] == [WEATHER]
    messages.append(choice.message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    again = await client.chat.completions.create(model="default", messages=messages, tools=[WEATHER])
    assert again.choices[0].message.content == "It rains."
    echoed = upstream.calls[1].body["messages"][1]
    assert (echoed["role"], len(echoed["tool_calls"])) == ("assistant", 2)
    assert echoed["reasoning_content"] == "Oslo, then."


async def test_tool_calls_are_put_together_from_a_stream(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(tool_answer(), tool_answer(call_id=None))
    async with client.chat.completions.stream(model="default", messages=HELLO, tools=[WEATHER]) as stream:
        [choice] = (await stream.get_final_completion()).choices
    calls = choice.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [("weather", ARGUMENTS), ("now", "{}")]
    assert len({call.id for call in calls}) == 2
    assert choice.finish_reason == "tool_calls"


async def test_a_schema_for_the_answer_is_handed_on_in_its_order(
    client: AsyncOpenAI, upstream: FakeHuggingFace
) -> None:
    schema: Any = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    upstream.answer(chat_answer("{}"))
    await client.chat.completions.create(
        model="default",
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}},
    )
    sent = upstream.calls[0].body["response_format"]["json_schema"]
    assert list(sent["schema"]["properties"]) == ["b", "a"]


@pytest.mark.parametrize("given", ["one", ["one", "two"]])
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["packed", "plain"])
async def test_embeddings_come_in_both_encodings(
    client: AsyncOpenAI, upstream: FakeHuggingFace, given: str | list[str], options: Any
) -> None:
    """Where no encoding is asked for, the client asks for base64 and unpacks it."""
    vectors = [[0.25, 0.5, -0.125], [1.0, 2.0, 3.0]][: 1 if isinstance(given, str) else 2]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    upstream.answer(json_answer({"object": "list", "data": data, "model": "org/model", "usage": usage}))
    answer = await client.embeddings.create(model="default", input=given, **options)
    assert [item.embedding for item in answer.data] == vectors
    assert [item.index for item in answer.data] == list(range(len(vectors)))
    assert answer.usage.total_tokens == 4


def tei_of_32(received: Received) -> Answer:
    """A TEI as it is by default."""
    count = len(received.body["input"])
    if count > 32:
        words = f"batch size {count} > maximum allowed batch size 32"
        return json_answer({"message": words, "code": 422, "type": "Validation"}, status=422)
    data = [{"index": at, "embedding": [float(text)]} for at, text in enumerate(received.body["input"])]
    return json_answer({"data": data[::-1], "usage": {"prompt_tokens": count, "total_tokens": count}})


async def test_257_and_2048_texts_are_split_for_a_tei_that_takes_32(
    client: AsyncOpenAI, online: Api, upstream: FakeHuggingFace
) -> None:
    upstream.default = tei_of_32
    for count in (257, 2048):
        texts = [str(number) for number in range(count)]
        answer = await client.embeddings.create(model="default", input=texts, encoding_format="float")
        assert [item.embedding for item in answer.data] == [[float(number)] for number in range(count)]
        assert [item.index for item in answer.data] == list(range(count))
        assert answer.usage.total_tokens == count
    assert len(upstream.calls) == 1 + 9 + 64
    reply = await online.create(model_type="feature-extraction", input_data={"text": ["7", "8"] * 20})
    assert reply.json["output_data"]["embeddings"] == [[7.0], [8.0]] * 20


async def test_2049_texts_are_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2048"):
        await client.embeddings.create(model="default", input=["a"] * 2049)


async def test_models_are_those_that_can_be_named(start: Start, upstream: FakeHuggingFace) -> None:
    api = await start_online(start, upstream, allowed_models="other/model,*")
    async with client_of(api) as client:
        listed = [model async for model in client.models.list()]
        assert [model.id for model in listed] == ["default", "org/model", "other/model"]
        assert [model.owned_by for model in listed] == ["system", "org", "other"]
        assert (await client.models.retrieve("org/model")).id == "org/model"
        with pytest.raises(openai.NotFoundError, match="There is no model 'org/none' here"):
            await client.models.retrieve("org/none")


async def test_an_answer_of_a_server_that_does_not_name_its_model_names_what_was_asked_for(
    start: Start, upstream: FakeHuggingFace
) -> None:
    """Clients in typed languages do not take a null there."""
    api = await start_online(start, upstream, text_models="")
    upstream.answer(chat_answer("hi"), json_answer({"data": [{"index": 0, "embedding": [0.5]}]}))
    async with client_of(api) as client:
        assert (await client.chat.completions.create(model="default", messages=HELLO)).model == "default"
        assert (await client.embeddings.create(model="default", input="hi")).model == "default"


async def test_errors_are_the_exceptions_of_the_client(client: AsyncOpenAI, online: Api) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature: must be less than or equal to 2") as bad:
        await client.chat.completions.create(model="default", messages=HELLO, temperature=3)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not one that this server offers") as none:
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (none.value.code, none.value.param) == ("model_not_found", "model")
    async with AsyncOpenAI(base_url=base_url(online), api_key="nonsense", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError, match="Send a valid access token") as refused:
            await stranger.models.list()
    assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize("stream", [False, True])
async def test_a10_a_request_that_the_model_refuses_is_a_bad_request(
    client: AsyncOpenAI, upstream: FakeHuggingFace, *, stream: bool
) -> None:
    words = "The input is longer than 4096 tokens."
    upstream.default = lambda _: error_answer(400, words)
    with pytest.raises(openai.BadRequestError, match=words) as failed:
        await client.chat.completions.create(model="default", messages=HELLO, stream=stream)
    assert (failed.value.code, failed.value.type) == (None, "invalid_request_error")
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_the_operators_is_an_error_of_the_server(
    client: AsyncOpenAI, upstream: FakeHuggingFace, *, stream: bool
) -> None:
    words = "You have depleted your monthly included credits."
    upstream.default = lambda _: error_answer(402, words)
    with pytest.raises(openai.InternalServerError, match=words) as failed:
        await client.chat.completions.create(model="default", messages=HELLO, stream=stream)
    assert (failed.value.status_code, failed.value.code, failed.value.type) == (502, "model_error", "api_error")
    assert failed.value.request_id
    assert failed.value.response.headers["x-should-retry"] == "false"


async def test_a_failure_in_the_middle_is_raised_after_the_text(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(BROKEN)
    heard: list[ChatCompletionChunk] = []
    stream = await client.chat.completions.create(model="default", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="broke off") as failed:
        await _read(stream, heard)
    assert text_of(heard) == "Once upon"
    assert failed.value.code == "model_error"


async def _read(stream: AsyncStream[ChatCompletionChunk], heard: list[ChatCompletionChunk]) -> None:
    async for chunk in stream:
        heard.append(chunk)  # noqa: PERF401 - what came before an error is wanted


async def test_beyond_the_rate_the_client_is_told_when_to_come_back(start: Start) -> None:
    api = await (await start(rate_limit_per_minute=2)).sign_up()
    async with client_of(api) as client:
        raw = await client.chat.completions.with_raw_response.create(model="default", messages=HELLO)
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        assert raw.headers["x-ratelimit-reset-requests"] == "30s"
        await client.chat.completions.create(model="default", messages=HELLO)
        with pytest.raises(openai.RateLimitError, match="Too many requests") as refused:
            await client.chat.completions.create(model="default", messages=HELLO)
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["Retry-After"]) >= 1


async def test_the_offline_double_answers_too(api: Api) -> None:
    async with client_of(api) as client:
        answer = await client.chat.completions.create(model="offline/echo", messages=HELLO)
        assert (answer.choices[0].message.content or "").startswith(INTRODUCTION)
        stream = await client.chat.completions.create(model="offline/long-stream", messages=HELLO, stream=True)
        text = text_of([chunk async for chunk in stream])
        assert "offline/slow-2s" in [model.id async for model in client.models.list()]
    [newest, _] = (await api.get("/api/requests")).json
    assert newest["output_data"]["output"] == text


async def test_the_offline_double_gives_vectors_in_both_encodings(api: Api) -> None:
    async with client_of(api) as client:
        packed = await client.embeddings.create(model="default", input=["one", "two"])
        plain = await client.embeddings.create(model="default", input=["one", "two"], encoding_format="float")
    assert len(packed.data) == 2
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
    assert [request["model_type"] for request in (await api.get("/api/requests")).json] == ["feature-extraction"] * 2


async def test_hugging_faces_own_client_gets_a_completion_and_a_stream(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer(*WORDS, usage=(3, 5)), chat_answer(*WORDS), tool_answer())
    async with hub_client(online) as client:
        answer = await client.chat_completion(HELLO, max_tokens=20)
        assert answer.choices[0].message.content == TEXT
        assert (answer.model, answer.usage.total_tokens) == ("org/model", 8)
        stream = await client.chat_completion(HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        assert chunks[-1].choices[0].finish_reason == "stop"
        called = await client.chat_completion(HELLO, tools=[WEATHER])
    [call, _] = called.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)


async def test_hugging_faces_own_client_reads_the_errors(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.default = lambda _: error_answer(402, "You have depleted your monthly included credits.")
    async with hub_client(online) as client:
        with pytest.raises(HfHubHTTPError, match="must be less than or equal to 2"):
            await client.chat_completion(HELLO, temperature=3.0)
        with pytest.raises(HfHubHTTPError, match="credits"):
            await client.chat_completion(HELLO)


async def test_hugging_faces_own_client_works_with_the_offline_double(api: Api) -> None:
    async with hub_client(api) as client:
        answer = await client.chat_completion(HELLO)
    assert (answer.choices[0].message.content or "").startswith(INTRODUCTION)
    assert answer.model == "offline/echo"


class Person(BaseModel):
    name: str
    age: int
    friends: "list[Person]"


async def test_the_offline_double_answers_parse_and_a_required_tool_with_values_that_fit(api: Api) -> None:
    await api.sign_up()
    async with client_of(api) as client:
        parsed = await client.chat.completions.parse(model="default", messages=HELLO, response_format=Person)
        called = await client.chat.completions.parse(
            model="default",
            messages=HELLO,
            tools=[openai.pydantic_function_tool(Person)],
            tool_choice={"type": "function", "function": {"name": "Person"}},
        )
    assert parsed.choices[0].message.parsed is not None
    assert "not AI" in parsed.choices[0].message.parsed.name
    [call] = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Person)
