"""The test double: each model behaves as its name says, and none passes for AI."""

import asyncio
import io
import json
import struct
import wave
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from server.catalog import MODEL_TYPES, OFFLINE_MODELS, ModelType
from server.catalog.chat_parts import PARTS
from server.inference.events import Call, Delta, FileChunk, GenerationFailed, InputFile, Segment, Started, Task
from server.inference.offline import INTRODUCTION, LONG_STREAM_WORDS, Offline
from server.inference.offline.sample_files import NOTE
from server.model_request import Completed, Usage


class Sleeper:
    """Time that passes at once, and is added up."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    async def __call__(self, seconds: float) -> None:
        self.slept_s += seconds


async def run(model: str | None, prompt: str = "Hello you", *, offline: Offline | None = None, **options: Any) -> Any:
    """All events, and the seconds that passed."""
    sleeper = Sleeper()
    double = offline or Offline(sleep=sleeper)
    parameters = options.pop("parameters", {})
    input_data = options.pop("input_data", {"prompt": prompt})
    task = options.pop("task", Task.CHAT_COMPLETION)
    call = Call(task, () if model is None else (model,), input_data, parameters, options.pop("files", {}))
    events = [event async for event in double.generate(call, timeout_s=options.pop("timeout_s", 60))]
    return events, sleeper.slept_s


@pytest.mark.parametrize("model", [None, "offline/echo"])
async def test_echo_says_what_it_is_and_quotes_the_prompt(model: str | None) -> None:
    events, seconds = await run(model)
    completed = events[-1]
    text = 'Offline model, not AI: you said "Hello you"'
    assert completed == Completed(
        {"output": text, "offline": True, "finish_reason": "stop"}, Usage(2 + 8, 8), "offline/echo"
    )
    assert events[0] == Started("offline/echo", "offline")
    assert "".join(event.text for event in events if isinstance(event, Delta)) == text
    assert seconds == 0


async def test_the_last_message_of_a_conversation_is_quoted() -> None:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi there"}]
    events, _ = await run("offline/echo", input_data={"messages": messages})
    assert '"Hi there"' in events[-1].output_data["output"]


async def test_a_huge_prompt_is_quoted_in_part() -> None:
    events, _ = await run("offline/echo", "word " * 40_000)
    assert len(events[-1].output_data["output"]) < 3000


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens"])
async def test_a_limit_of_tokens_is_kept_and_said(name: str) -> None:
    events, _ = await run("offline/echo", parameters={name: 3})
    assert events[-1].output_data == {"output": "Offline model, not", "offline": True, "finish_reason": "length"}
    assert events[-1].usage.token_count == 3


@pytest.mark.parametrize(("model", "seconds"), [("offline/slow-2s", 2), ("offline/slow-20s", 20)])
async def test_the_slow_ones_take_their_time(model: str, seconds: float) -> None:
    events, slept_s = await run(model)
    assert slept_s == seconds
    assert isinstance(events[-1], Completed)


async def test_too_little_time_ends_it_within_that_time() -> None:
    events, slept_s = await run("offline/slow-20s", timeout_s=5)
    assert slept_s == 5
    assert [event.message for event in events] == ["The model did not answer within 5 s."]


async def test_the_long_stream_comes_word_by_word() -> None:
    events, slept_s = await run("offline/long-stream")
    assert len([event for event in events if isinstance(event, Delta)]) > LONG_STREAM_WORDS
    assert slept_s > 5


async def test_the_loading_one_answers_when_it_is_asked_again() -> None:
    double = Offline(sleep=Sleeper())
    first, _ = await run("offline/loading-503", offline=double)
    again, _ = await run("offline/loading-503", offline=double)
    other, _ = await run("offline/loading-503", "another prompt", offline=double)
    assert first[-1].transient
    assert first[-1].retry_after_s > 0
    assert isinstance(again[-1], Completed)
    assert other[-1].transient


async def test_what_is_loading_is_remembered_within_bounds() -> None:
    double = Offline(sleep=Sleeper())
    for number in range(2500):
        await run("offline/loading-503", f"prompt {number}", offline=double)
    assert len(double._loading) <= 1000


async def test_no_credits_names_the_remedy_and_is_final() -> None:
    events, _ = await run("offline/no-credits")
    assert "buy credits" in events[-1].message
    assert not events[-1].transient


async def test_the_truncated_one_keeps_its_half_and_marks_it() -> None:
    events, _ = await run("offline/truncated")
    failed = events[-1]
    assert isinstance(failed, GenerationFailed)
    assert not failed.transient
    assert failed.output_data is not None
    assert failed.output_data["partial"] is True
    assert failed.output_data["output"].startswith("Offline model")
    assert "finish_reason" not in failed.output_data


@pytest.mark.parametrize("model", OFFLINE_MODELS)
async def test_every_model_of_the_catalog_is_known_and_ends_in_exactly_one_way(model: str) -> None:
    events, _ = await run(model)
    assert [isinstance(event, (Completed, GenerationFailed)) for event in events] == [False] * (len(events) - 1) + [
        True
    ]
    assert "no offline model" not in getattr(events[-1], "message", "")
    if isinstance(events[-1], Completed):
        assert events[-1].output_data["output"].startswith(INTRODUCTION)
        assert events[-1].output_data["offline"] is True


OTHERS = [row for row in MODEL_TYPES if row.task not in {Task.CHAT_COMPLETION, Task.TEXT_GENERATION}]
STORED = "file:019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


FILES = {STORED: InputFile("image/png", 1234, _nothing)}


async def run_row(row: ModelType, model: str | None = None, **parameters: Any) -> list[Any]:
    given = {**row.example.parameters, **parameters}
    events, _ = await run(model, task=row.task, input_data=row.example.input_data, parameters=given, files=FILES)
    return list(events)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
async def test_every_task_has_an_answer_in_its_documented_form_that_says_what_it_is(row: ModelType) -> None:
    started, *events, completed = await run_row(row)
    assert started == Started("offline/echo", "offline")
    assert isinstance(completed, Completed)
    assert completed.output_data["offline"] is True
    chunks = [event for event in events if isinstance(event, FileChunk)]
    files = [{"content_type": chunk.content_type, "size": len(chunk.data)} for chunk in chunks]
    row.output.model_validate({**completed.output_data, **({"files": files} if files else {})})
    texts = [event.text for event in events if isinstance(event, Delta)]
    assert "".join(texts) == completed.output_data.get("output", "")
    assert [event.number for event in chunks] == list(range(len(chunks)))
    assert await run_row(row) == [started, *events, completed]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
async def test_every_task_can_load_and_break_off(row: ModelType) -> None:
    [failed] = await run_row(row, "offline/loading-503")
    assert failed.transient
    *_, failed = await run_row(row, "offline/truncated")
    assert isinstance(failed, GenerationFailed)
    assert not failed.transient


async def data_of(task: Task, input_data: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    events, _ = await run(None, task=task, input_data=input_data, parameters=parameters, files=FILES)
    return dict(events[-1].output_data)


async def test_scores_of_labels_sum_to_one_and_the_best_is_first() -> None:
    labels = ["refund", "legal", "faq"]
    data = await data_of(Task.ZERO_SHOT_CLASSIFICATION, {"text": "hi"}, candidate_labels=labels)
    scores = [label["score"] for label in data["labels"]]
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert {label["label"] for label in data["labels"]} == set(labels)
    assert data["output"] == data["labels"][0]["label"]


async def test_vectors_have_one_size_and_follow_from_the_words() -> None:
    one = (await data_of(Task.FEATURE_EXTRACTION, {"text": "the cat sat"}))["embedding"]
    many = (await data_of(Task.FEATURE_EXTRACTION, {"text": ["the cat sat", "a dog"]}))["embeddings"]
    short = (await data_of(Task.FEATURE_EXTRACTION, {"text": "a"}, dimensions=8))["embedding"]
    assert (len(one), len(many[1]), len(short)) == (384, 384, 8)
    assert many[0] == one != many[1]
    assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)


async def test_many_vectors_do_not_block_the_event_loop() -> None:
    texts = [f"{number} word of many" for number in range(1000)]
    making = asyncio.create_task(data_of(Task.FEATURE_EXTRACTION, {"text": texts}))
    turns = 0
    while not making.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await making)["embeddings"]) == 1000
    assert turns > 20


async def test_like_sentences_are_more_similar_than_others() -> None:
    sentences = ["the cat sat", "the cat stood", "unrelated words"]
    scores = (await data_of(Task.SENTENCE_SIMILARITY, {"source_sentence": "the cat sat", "sentences": sentences}))[
        "scores"
    ]
    assert scores[0] == pytest.approx(1, abs=1e-3)
    assert scores == sorted(scores, reverse=True)


async def test_an_answer_stands_where_it_says() -> None:
    context = " Paris is the capital."
    data = await data_of(Task.QUESTION_ANSWERING, {"question": "?", "context": context})
    [answer] = data["answers"]
    assert context[answer["start"] : answer["end"]] == answer["answer"] == data["output"] == "Paris"


async def test_each_mask_has_its_candidates() -> None:
    data = await data_of(Task.FILL_MASK, {"text": "[MASK] and <mask>"}, targets=["a", "b"], top_k=1)
    assert [candidate["mask"] for candidate in data["candidates"]] == [0, 1]
    assert data["candidates"][0]["sequence"] == "a and a"
    assert "output" not in data


@pytest.mark.parametrize(("parameters", "size"), [({}, (256, 256)), ({"width": 65, "height": 1024}, (65, 1024))])
async def test_an_image_is_whole_and_as_large_as_was_asked_for(parameters: Any, size: tuple[int, int]) -> None:
    events, _ = await run(None, task=Task.TEXT_TO_IMAGE, parameters=parameters)
    image = events[1].data
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth = struct.unpack(">IIB", image[16:25])
    assert (width, height, depth) == (*size, 1)
    chunks = dict(chunks_of(image))
    assert list(chunks)[-1] == b"IEND"
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + -(-width // 8))
    assert b"not AI" in chunks[b"tEXt"]


def chunks_of(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The parts of a PNG, each checked by its sum."""
    place = 8
    while place < len(image):
        size = int.from_bytes(image[place : place + 4], "big")
        kind, data = image[place + 4 : place + 8], image[place + 8 : place + 8 + size]
        assert int.from_bytes(image[place + 8 + size : place + 12 + size], "big") == zlib.crc32(kind + data)
        yield kind, data
        place += 12 + size


async def test_speech_is_a_sound_as_long_as_its_words() -> None:
    events, _ = await run(None, task=Task.TEXT_TO_SPEECH, input_data={"text": "one two three four"})
    with wave.open(io.BytesIO(events[1].data)) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(1)


async def test_a_recording_is_told_by_its_size() -> None:
    assert "1234 bytes" in (await data_of(Task.AUTOMATIC_SPEECH_RECOGNITION, {"audio": STORED}))["output"]
    inline = {"audio": "data:audio/flac;base64,QUJDRA=="}
    assert "4 bytes" in (await data_of(Task.AUTOMATIC_SPEECH_RECOGNITION, inline))["output"]


TOOL = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
async def test_a_tool_that_must_be_called_is_called(choice: Any) -> None:
    events, _ = await run(None, parameters={"tools": [TOOL], "tool_choice": choice})
    assert events[1] == Delta("{}", Segment.TOOL_CALL, 0, "add")
    data = events[-1].output_data
    assert (data["output"], data["finish_reason"]) == ("", "tool_calls")
    assert data["tool_calls"][0]["function"] == {"name": "add", "arguments": "{}"}


async def test_json_is_answered_where_json_is_asked_for() -> None:
    events, _ = await run(None, parameters={"response_format": {"type": "json_object"}})
    assert json.loads(events[-1].output_data["output"])["offline"].startswith(INTRODUCTION)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize("schema", [PERSON, json.dumps(PERSON)])
async def test_json_schema_name_age_is_answered_with_a_value_that_fits(schema: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    events, _ = await run(None, parameters={"response_format": form})
    deltas = "".join(event.text for event in events if isinstance(event, Delta))
    assert json.loads(deltas) == {"name": NOTE, "age": 0}
    assert events[-1].output_data == {"output": deltas, "offline": True, "finish_reason": "stop"}


async def test_a_long_stream_of_typed_output_is_long_and_fits() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    events, _ = await run("offline/long-stream", parameters={"response_format": form})
    value = json.loads(events[-1].output_data["output"])
    assert len(value["name"].split()) > LONG_STREAM_WORDS
    assert value["age"] == 0


async def test_a_schema_without_a_value_is_answered_as_json() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "none", "schema": {"type": "string", "enum": [1]}}}
    events, _ = await run(None, parameters={"response_format": form})
    assert json.loads(events[-1].output_data["output"])["offline"].startswith(INTRODUCTION)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "greet"}}])
async def test_a_required_tool_gets_arguments_that_fit(choice: Any) -> None:
    greet = {"type": "function", "function": {"name": "greet", "parameters": json.dumps(PERSON)}}
    tools = [greet, TOOL] if choice == "required" else [TOOL, greet]
    events, _ = await run(None, parameters={"tools": tools, "tool_choice": choice})
    assert (events[1].segment, events[1].name) == (Segment.TOOL_CALL, "greet")
    assert json.loads(events[1].text) == {"name": NOTE, "age": 0}
    assert events[-1].output_data["tool_calls"][0]["function"] == {"name": "greet", "arguments": events[1].text}


async def test_images_in_a_conversation_are_noticed() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": STORED}}]
    events, _ = await run(None, input_data={"messages": [{"role": "user", "content": parts}]})
    assert '"What is (an image)"' in events[-1].output_data["output"]


@pytest.mark.parametrize("kind", sorted(PARTS))
async def test_every_kind_of_part_is_quoted(kind: str) -> None:
    part = {"type": kind, kind: "words" if kind in {"text", "refusal"} else {}}
    events, _ = await run(None, input_data={"messages": [{"role": "user", "content": [part]}]})
    assert isinstance(events[-1], Completed)


async def test_an_unknown_model_is_refused_for_good() -> None:
    events, _ = await run("offline/what")
    assert len(events) == 1
    assert not events[0].transient
    assert "offline/what" in events[0].message


async def test_it_is_always_there() -> None:
    double = Offline()
    assert (await double.check()).is_ok
    await double.close()
