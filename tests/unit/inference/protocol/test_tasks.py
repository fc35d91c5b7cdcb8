"""Calls of the tasks beside text as they go over the wire: to hf-inference, to providers, to a server of one's own."""

import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import get_provider_helper

from server.catalog import MODEL_TYPES
from server.inference.events import Call, InputFile, Task
from server.inference.protocol import (
    BadModel,
    Failure,
    FilePart,
    FollowUp,
    WireRequest,
    build,
    build_edge_call,
    reader_for,
)
from server.inference.protocol.native_ids import HUB_URL

ROUTER = "https://router.huggingface.co"
OWN = "http://localhost:8080"
PIXEL = base64.b64encode(b"\x89PNG pixel").decode()
IMAGE = f"data:image/png;base64,{PIXEL}"
SOUND = f"data:audio/flac;base64,{base64.b64encode(b'fLaC sound').decode()}"
STORED = "file:019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"


async def _no_bytes() -> AsyncIterator[bytes]:
    yield b""  # pragma: no cover - nothing here reads it


FILE = InputFile("image/webp", 1000, _no_bytes)
INPUTS: dict[Task, dict[str, Any]] = {
    row.task: {**row.example.input_data, **({"image": IMAGE} if "image" in row.example.input_data else {})}
    for row in MODEL_TYPES
}
INPUTS[Task.AUTOMATIC_SPEECH_RECOGNITION] = INPUTS[Task.AUDIO_CLASSIFICATION] = {"audio": SOUND}


def ask(
    task: Task, model: str | None = "org/name", *, base_url: str = ROUTER, input_data: Any = None, **parameters: Any
) -> WireRequest:
    call = Call(task, (), INPUTS[task] if input_data is None else input_data, parameters, {STORED: FILE})
    return build(call, model, base_url=base_url)


def body_of(wire: WireRequest) -> Any:
    assert isinstance(wire.body, bytes)
    return orjson.loads(wire.body)


@pytest.mark.parametrize(
    ("task", "body"),
    [
        (Task.SUMMARIZATION, {"inputs": INPUTS[Task.SUMMARIZATION]["text"]}),
        (Task.TEXT_TO_IMAGE, {"inputs": INPUTS[Task.TEXT_TO_IMAGE]["prompt"]}),
        (Task.TEXT_TO_SPEECH, {"inputs": "hello there!"}),
        (
            Task.QUESTION_ANSWERING,
            {"inputs": {"question": "What is the capital of France?", "context": "The capital of France is Paris."}},
        ),
        (Task.SENTENCE_SIMILARITY, {"inputs": INPUTS[Task.SENTENCE_SIMILARITY]}),
        (Task.FEATURE_EXTRACTION, {"inputs": "That is a happy person"}),
    ],
)
def test_hf_inference_is_asked_for_inputs(task: Task, body: Any) -> None:
    wire = ask(task)
    pipeline = f"/pipeline/{task}" if task in {Task.FEATURE_EXTRACTION, Task.SENTENCE_SIMILARITY} else ""
    assert wire.url == f"{ROUTER}/hf-inference/models/org/name{pipeline}"
    assert body_of(wire) == body
    assert "application/json" in wire.headers["Accept"]


def test_parameters_stand_beside_the_inputs_but_those_of_embeddings_at_the_root() -> None:
    assert body_of(ask(Task.FILL_MASK, top_k=2)) == {"inputs": "[MASK] world!", "parameters": {"top_k": 2}}
    assert body_of(ask(Task.FEATURE_EXTRACTION, normalize=True)) == {
        "inputs": "That is a happy person",
        "normalize": True,
    }


def test_a_table_is_asked_with_its_columns_in_their_order() -> None:
    table = {"a": ["1"], "bb": ["2"]}  # as the database gives it back: by length, then by letter
    wire = ask(Task.TABLE_QUESTION_ANSWERING, input_data={"question": "?", "table": table, "columns": ["bb", "a"]})
    assert wire.body == b'{"inputs":{"query":"?","table":{"bb":["2"],"a":["1"]}}}'


@pytest.mark.parametrize(
    "task",
    [Task.IMAGE_CLASSIFICATION, Task.OBJECT_DETECTION, Task.IMAGE_SEGMENTATION, Task.AUTOMATIC_SPEECH_RECOGNITION],
)
def test_a_file_alone_is_sent_as_it_is_and_with_parameters_as_base64(task: Task) -> None:
    raw = ask(task)
    is_sound = task is Task.AUTOMATIC_SPEECH_RECOGNITION
    assert raw.headers["Content-Type"] == ("audio/flac" if is_sound else "image/png")
    assert raw.body == (b"fLaC sound" if is_sound else b"\x89PNG pixel")
    wire = ask(task, threshold=0.5)
    assert wire.headers["Content-Type"] == "application/json"
    assert body_of(wire) == {
        "inputs": (SOUND if is_sound else IMAGE).partition(",")[2],
        "parameters": {"threshold": 0.5},
    }


def test_a_stored_file_is_a_part_of_the_body_and_never_in_memory() -> None:
    raw = ask(Task.IMAGE_CLASSIFICATION, input_data={"image": STORED})
    assert raw.body == (FilePart(FILE),)
    assert raw.headers["Content-Type"] == "image/webp"
    wire = ask(Task.IMAGE_CLASSIFICATION, input_data={"image": STORED}, top_k=2)
    assert wire.body == (b'{"inputs":', b'"', FilePart(FILE, is_base64=True), b'","parameters":{"top_k":2}}')


def test_images_of_a_conversation_go_as_their_bytes_and_addresses_as_they_are() -> None:
    def part(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}

    address = part("https://example.com/a.png")
    content = [{"type": "text", "text": "?"}, part(STORED), part(IMAGE), address, part(STORED)]
    wire = ask(Task.CHAT_COMPLETION, input_data={"messages": [{"role": "user", "content": content}]})
    assert isinstance(wire.body, tuple)
    files = [piece for piece in wire.body if isinstance(piece, FilePart)]
    assert files == [FilePart(FILE, is_base64=True)] * 2
    text = b"".join(b"QUJD" if isinstance(piece, FilePart) else piece for piece in wire.body)
    stored = part("data:image/webp;base64,QUJD")
    assert orjson.loads(text)["messages"][0]["content"] == [content[0], stored, part(IMAGE), address, stored]


def test_the_edge_function_gets_images_as_their_bytes_for_it_has_no_files() -> None:
    content = [{"type": "image_url", "image_url": {"url": STORED}}]
    messages = [{"role": "user", "content": content}]
    call = Call(Task.CHAT_COMPLETION, ("a/b",), {"messages": messages}, {"max_tokens": 1}, {STORED: FILE})
    wire = build_edge_call(call, "https://x.supabase.co/functions/v1/hf-inference")
    assert isinstance(wire.body, tuple)
    text = b"".join(b"QUJD" if isinstance(piece, FilePart) else piece for piece in wire.body)
    sent = [{"type": "image_url", "image_url": {"url": "data:image/webp;base64,QUJD"}}]
    assert orjson.loads(text) == {
        "task": "chat-completion",
        "models": ["a/b"],
        "input": {"messages": [{"role": "user", "content": sent}]},
        "parameters": {"max_tokens": 1},
        "stream": True,
    }


def test_a_text_that_looks_like_a_place_for_a_file_stays_a_text() -> None:
    content = [
        {"type": "text", "text": "\u00ff0\u00ff \\u00ff0\\u00ff \ufffd"},
        {"type": "image_url", "image_url": {"url": STORED}},
    ]
    wire = ask(Task.CHAT_COMPLETION, input_data={"messages": [{"role": "user", "content": content}]})
    assert isinstance(wire.body, tuple)
    text = b"".join(b"QUJD" if isinstance(piece, FilePart) else piece for piece in wire.body)
    assert orjson.loads(text)["messages"][0]["content"][0] == content[0]


def test_schemas_go_out_in_the_order_in_which_they_were_sent() -> None:
    schema = '{"type":"object","properties":{"zz":{},"a":{}}}'
    wire = ask(
        Task.CHAT_COMPLETION,
        tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
        tool_choice="auto",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        reasoning_effort="low",
    )
    assert isinstance(wire.body, bytes)
    assert b'"function":{"name":"f","parameters":' + schema.encode() in wire.body
    assert b'"schema":' + schema.encode() in wire.body
    assert {"tool_choice": "auto", "reasoning_effort": "low"}.items() <= body_of(wire).items()


@pytest.mark.parametrize("task", [Task.AUDIO_CLASSIFICATION, Task.IMAGE_TO_TEXT])
def test_what_nobody_serves_is_said_at_once_unless_a_provider_is_named(task: Task) -> None:
    with pytest.raises(BadModel, match="No provider behind Hugging Face's router serves"):
        ask(task)
    assert ask(task, "org/name:hf-inference").url == f"{ROUTER}/hf-inference/models/org/name"
    assert ask(task, None, base_url=OWN).url == f"{OWN}/"


@pytest.mark.parametrize("task", [Task.SUMMARIZATION, Task.TEXT_TO_IMAGE])
@pytest.mark.parametrize("model", [None, "..", "a/..", "a b/c", "name"])
def test_the_router_is_asked_for_real_names_only(task: Task, model: str | None) -> None:
    with pytest.raises(BadModel):
        ask(task, model)


@pytest.mark.parametrize(
    ("task", "parameters", "path"),
    [
        (Task.SUMMARIZATION, {}, "/"),
        (Task.TEXT_CLASSIFICATION, {"top_k": 1}, "/"),
        (Task.SENTENCE_SIMILARITY, {}, "/similarity"),
        (Task.FEATURE_EXTRACTION, {}, "/v1/embeddings"),
        (Task.FEATURE_EXTRACTION, {"dimensions": 64}, "/v1/embeddings"),
        (Task.FEATURE_EXTRACTION, {"normalize": True}, "/embed"),
        (Task.IMAGE_CLASSIFICATION, {}, "/"),
    ],
)
@pytest.mark.parametrize("base_url", [OWN, f"{OWN}/v1", f"{OWN}/"])
def test_a_server_of_one_s_own_is_asked_where_it_listens(task: Task, parameters: Any, path: str, base_url: str) -> None:
    assert ask(task, None, base_url=base_url, **parameters).url == OWN + path


def test_embeddings_elsewhere_are_openai_s() -> None:
    wire = ask(Task.FEATURE_EXTRACTION, "m", base_url=OWN, dimensions=64)
    assert body_of(wire) == {"model": "m", "input": "That is a happy person", "dimensions": 64}


# --- providers behind the router ---


def at_provider(task: Task, provider: str, native_id: str = "vendor/model", **options: Any) -> WireRequest:
    """The request that follows once the Hub has said what the provider calls the model."""
    parameters = options.pop("parameters", {})
    call = Call(task, (), options.pop("input_data", INPUTS[task]), parameters, {STORED: FILE})
    model = f"org/name:{provider}"
    lookup = build(call, model, base_url=ROUTER)
    assert lookup.url == f"{HUB_URL}/api/models/org/name?expand=inferenceProviderMapping"
    assert lookup.is_foreign
    reader = reader_for(call, model, base_url=ROUTER)(200, {})
    mapping = {provider: {"status": "live", "providerId": native_id, "task": task.value, **options}}
    reader.feed(orjson.dumps({"id": "org/name", "inferenceProviderMapping": mapping}))
    [last] = reader.finish()
    assert isinstance(last, FollowUp), last
    assert not last.wire.is_foreign
    return last.wire


_OFFICIAL = [
    (Task.TEXT_TO_IMAGE, "fal-ai", {"width": 64, "height": 64, "seed": 1}),
    (Task.TEXT_TO_IMAGE, "replicate", {"seed": 1}),
    (Task.TEXT_TO_IMAGE, "together", {"num_inference_steps": 4}),
    (Task.TEXT_TO_IMAGE, "nscale", {"width": 64, "height": 64, "num_inference_steps": 4}),
    (Task.TEXT_TO_IMAGE, "wavespeed", {"seed": 1}),
    (Task.IMAGE_TO_IMAGE, "fal-ai", {"prompt": "p", "target_size": {"width": 64, "height": 64}}),
    (Task.IMAGE_TO_IMAGE, "replicate", {"prompt": "p"}),
    (Task.IMAGE_TO_IMAGE, "together", {"prompt": "p", "num_inference_steps": 4}),
    (Task.IMAGE_TO_IMAGE, "wavespeed", {"prompt": "p"}),
    (Task.TEXT_TO_SPEECH, "fal-ai", {"voice": "v"}),
    (Task.TEXT_TO_SPEECH, "replicate", {"voice": "v"}),
    (Task.TEXT_TO_SPEECH, "together", {"voice": "v"}),
    (Task.TEXT_TO_SPEECH, "deepinfra", {"voice": "v"}),
    (Task.FEATURE_EXTRACTION, "together", {}),
    (Task.FEATURE_EXTRACTION, "scaleway", {"dimensions": 64}),
    (Task.FEATURE_EXTRACTION, "deepinfra", {}),
]


@pytest.mark.parametrize(("task", "provider", "parameters"), _OFFICIAL)
@pytest.mark.parametrize("native_id", ["vendor/model", "vendor/FLUX.1-kontext"])
def test_a_provider_is_asked_as_the_official_client_asks_it(
    task: Task, provider: str, parameters: dict[str, Any], native_id: str
) -> None:
    image = {"image": "data:image/jpeg;base64,QUJD"}
    input_data = image if task is Task.IMAGE_TO_IMAGE else INPUTS[task]
    wire = at_provider(task, provider, native_id, parameters=parameters, input_data=input_data)
    helper: Any = get_provider_helper(provider, task=task.value, model="org/name")  # type: ignore[arg-type]
    mapping = InferenceProviderMapping(  # type: ignore[no-untyped-call]
        provider=provider, hf_model_id="org/name", providerId=native_id, status="live", task=task.value
    )
    inputs = b"ABC" if task is Task.IMAGE_TO_IMAGE else next(iter(input_data.values()))
    expected = helper._prepare_payload_as_dict(inputs, dict(parameters), mapping)
    assert body_of(wire) == expected
    route = helper._prepare_route(native_id, "hf_token")
    assert wire.url == f"{ROUTER}/{provider}{route}"
    headers = {name.lower(): value for name, value in helper._prepare_headers({}, "hf_token").items()}
    assert wire.headers.get("Prefer") == headers.get("prefer")


@pytest.mark.parametrize(
    ("task", "provider", "native_id"),
    [
        (Task.TEXT_TO_IMAGE, "fal-ai", "fal-ai/flux-lora"),
        (Task.TEXT_TO_IMAGE, "fal-ai", "fal-ai/lora"),
        (Task.IMAGE_TO_IMAGE, "fal-ai", "fal-ai/flux-kontext-lora"),
        (Task.TEXT_TO_IMAGE, "replicate", "vendor/flux-lora:0123abc"),
        (Task.TEXT_TO_IMAGE, "wavespeed", "vendor/flux-lora"),
    ],
)
def test_the_weights_of_an_adapter_go_with_it_as_the_official_client_sends_them(
    task: Task, provider: str, native_id: str
) -> None:
    adapter = {"adapter": "lora", "adapterWeightsPath": "style/weights.safetensors"}
    image = {"image": "data:image/jpeg;base64,QUJD", "prompt": "p"}
    input_data = image if task is Task.IMAGE_TO_IMAGE else INPUTS[task]
    helper: Any = get_provider_helper(provider, task=task.value, model="org/name")  # type: ignore[arg-type]
    mapping = InferenceProviderMapping(  # type: ignore[no-untyped-call]
        provider=provider, hf_model_id="org/name", providerId=native_id, status="live", task=task.value, **adapter
    )
    inputs, parameters = (b"ABC", {"prompt": "p"}) if task is Task.IMAGE_TO_IMAGE else (input_data["prompt"], {})
    expected = helper._prepare_payload_as_dict(inputs, parameters, mapping)
    assert body_of(at_provider(task, provider, native_id, input_data=input_data, **adapter)) == expected


def test_replicate_is_asked_for_a_version_where_there_is_one() -> None:
    wire = at_provider(Task.TEXT_TO_IMAGE, "replicate", "vendor/model:0123abc")
    assert wire.url == f"{ROUTER}/replicate/v1/predictions"
    assert body_of(wire)["version"] == "0123abc"


@pytest.mark.parametrize(("provider", "name"), [("fal-ai", "audio_url"), ("replicate", "audio")])
def test_recordings_go_to_providers_as_data_urls(provider: str, name: str) -> None:
    body = body_of(at_provider(Task.AUTOMATIC_SPEECH_RECOGNITION, provider))
    assert body.get("input", body)[name] == SOUND


def test_deepinfra_gets_a_recording_in_a_form() -> None:
    wire = at_provider(
        Task.AUTOMATIC_SPEECH_RECOGNITION,
        "deepinfra",
        input_data={"audio": STORED},
        parameters={"return_timestamps": True},
    )
    assert wire.url == f"{ROUTER}/deepinfra/v1/openai/audio/transcriptions"
    assert isinstance(wire.body, tuple)
    head, file, tail = wire.body
    assert isinstance(head, bytes)
    assert isinstance(tail, bytes)
    assert file == FilePart(FILE)
    boundary = wire.headers["Content-Type"].partition("boundary=")[2].encode()
    assert head.startswith(b"--" + boundary + b"\r\n")
    assert tail == b"\r\n--" + boundary + b"--\r\n"
    assert b'name="return_timestamps"\r\n\r\ntrue\r\n' in head
    assert b'name="model"\r\n\r\nvendor/model\r\n' in head
    assert head.endswith(b"Content-Type: image/webp\r\n\r\n")


def test_a_large_image_goes_to_a_provider_in_parts() -> None:
    wire = at_provider(Task.IMAGE_TO_IMAGE, "fal-ai", input_data={"image": STORED, "prompt": "p"})
    assert isinstance(wire.body, tuple)
    assert sum(isinstance(piece, FilePart) for piece in wire.body) == 2


@pytest.mark.parametrize(("task", "provider"), [(Task.SUMMARIZATION, "groq"), (Task.TEXT_TO_SPEECH, "nscale")])
def test_a_provider_that_cannot_do_it_is_not_asked(task: Task, provider: str) -> None:
    with pytest.raises(BadModel, match=provider):
        ask(task, f"org/name:{provider}")


def test_half_a_character_in_the_name_of_a_model_stops_nothing() -> None:
    entry = rb'{"status": "live", "providerId": "a\ud800b", "task": "text-to-image"}'
    last = look_up(200, {}, b'{"inferenceProviderMapping": {"fal-ai": %s}}' % entry)
    assert last.wire.url == f"{ROUTER}/fal-ai/a%3Fb"


def look_up(status: int, headers: dict[str, str], document: Any) -> Any:
    call = Call(Task.TEXT_TO_IMAGE, (), INPUTS[Task.TEXT_TO_IMAGE])
    reader = reader_for(call, "org/name:fal-ai", base_url=ROUTER)(status, headers)
    assert reader.feed(document if isinstance(document, bytes) else orjson.dumps(document)) == []
    [last] = reader.finish()
    return last


_ENTRY = {"status": "live", "providerId": "fal-ai/flux/dev", "task": "text-to-image"}


def test_the_mapping_of_the_hub_may_be_a_list() -> None:
    last = look_up(200, {}, {"inferenceProviderMapping": [{"provider": "x"}, {"provider": "fal-ai", **_ENTRY}]})
    assert last.wire.url == f"{ROUTER}/fal-ai/fal-ai/flux/dev"


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        None,
        [],
        {"fal-ai": {**_ENTRY, "status": "error"}},
        {"fal-ai": {**_ENTRY, "task": "text-to-video"}},
        {"fal-ai": {**_ENTRY, "providerId": None}},
        {"replicate": _ENTRY},
    ],
)
def test_a_model_that_the_provider_does_not_serve_makes_room_for_the_next(mapping: Any) -> None:
    last = look_up(200, {}, {"inferenceProviderMapping": mapping})
    assert isinstance(last, Failure)
    assert last.error.is_model_missing
    assert "does not serve this model" in last.error.message


@pytest.mark.parametrize("native_id", ["../secrets", "a/./b", "a//b", "/a"])
def test_an_id_that_would_climb_out_of_its_path_is_not_asked_for(native_id: str) -> None:
    last = look_up(200, {}, {"inferenceProviderMapping": {"fal-ai": {**_ENTRY, "providerId": native_id}}})
    assert isinstance(last, Failure)
    assert last.error.is_model_missing


@pytest.mark.parametrize(
    ("status", "is_missing", "is_transient"),
    [(401, True, False), (404, True, False), (429, False, True), (503, False, True)],
)
def test_what_the_hub_refuses_is_not_said_of_the_token(status: int, *, is_missing: bool, is_transient: bool) -> None:
    last = look_up(status, {}, {"error": "x"})
    assert isinstance(last, Failure)
    assert (last.error.is_model_missing, last.error.is_transient) == (is_missing, is_transient)
    assert last.error.status not in {401, 402, 403}


def test_a_renamed_model_is_followed_on_the_hub_and_nowhere_else() -> None:
    to = "/api/models/org/new?expand=inferenceProviderMapping"
    last = look_up(307, {"Location": to}, b"Temporary Redirect")
    assert last.wire.url == HUB_URL + to
    assert urlsplit(last.wire.url).hostname == "huggingface.co"
    again = last.read(307, {"location": to})
    twice = again.finish()[-1].read(307, {"location": to})
    assert isinstance(twice.finish()[-1], Failure)
    assert isinstance(look_up(307, {"Location": "https://evil.example/api"}, b""), Failure)
