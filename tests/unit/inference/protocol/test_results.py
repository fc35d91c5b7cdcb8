"""Answers of the tasks beside text, recorded or written by hand, mean what an independent reader says they mean."""

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.catalog import MODEL_TYPES
from server.inference.events import Call, Delta, FileChunk, Started, Task
from server.inference.protocol import Failure, FollowUp, reader_for
from server.inference.protocol.faults import UpstreamError
from server.inference.protocol.result_reader import FILE_TASKS
from server.model_request import Completed
from tests.fakes.huggingface import awkward_pieces, body_of
from tests.fakes.tapes import task_exchanges, task_parameters
from tests.fakes.task_reader import read_task
from tests.fixtures.results import PNG, PNG_BASE64

TASKS = [task for task in Task if task not in {Task.CHAT_COMPLETION, Task.TEXT_GENERATION}]
OUTPUTS = {row.task: row.output for row in MODEL_TYPES}
CUT = UpstreamError("The model's answer broke off before its end.", is_transient=True)


def call_of(task: str) -> Call:
    return Call(Task(task), (), {"text": "a"})


def read_in(record: dict[str, Any], pieces: list[bytes], **options: Any) -> list[Any]:
    response = record["response"]
    reader = reader_for(call_of(record["task"]), "org/model")(response["status"], response["headers"])
    events: list[Any] = []
    for piece in pieces:
        if reader.is_over:
            break
        events += reader.feed(piece)
    return events + reader.finish(**options)


def joined(events: list[Any]) -> list[Any]:
    """Events with the chunks of each file put together."""
    together: list[Any] = []
    for event in events:
        last = together[-1] if together else None
        if isinstance(event, FileChunk) and isinstance(last, FileChunk) and event.number == last.number:
            together[-1] = last._replace(data=last.data + event.data)
        elif isinstance(event, FollowUp):
            together.append((event.wire, event.pause_s))
        else:
            together.append(event)
    return together


@pytest.mark.parametrize("record", task_parameters())
def test_an_answer_means_what_the_independent_reader_says(record: dict[str, Any]) -> None:
    expected = read_task(record)
    *events, last = read_in(record, [body_of(record)])
    if not expected.is_ok:
        assert isinstance(last, Failure), last
        assert last.error.is_transient == expected.is_transient
        assert (expected.words or "The model provider") in last.error.message
        assert events == []
        return
    if expected.fetch is not None:
        assert isinstance(last, FollowUp), last
        assert last.wire.method == "GET"
        assert last.wire.url.partition("//")[2].endswith(expected.fetch.partition("//")[2].partition("/")[2])
        return
    assert isinstance(last, Completed), last
    data = dict(last.output_data)
    data.pop("provider", None)
    assert data == expected.data
    assert last.usage.token_used == expected.token_used
    assert isinstance(events[0], Started)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == (expected.text or "")
    files = [(event.content_type, event.data) for event in joined(events) if isinstance(event, FileChunk)]
    assert files == list(expected.files)


@pytest.mark.parametrize("record", task_parameters())
def test_what_is_stored_has_the_form_that_is_documented(record: dict[str, Any]) -> None:
    *events, last = read_in(record, [body_of(record)])
    if isinstance(last, Completed):
        files = [{"content_type": e.content_type, "size": 1} for e in joined(events) if isinstance(e, FileChunk)]
        OUTPUTS[Task(record["task"])].model_validate({**last.output_data, **({"files": files} if files else {})})
        assert b"\\u0000" not in orjson.dumps(dict(last.output_data))
    elif isinstance(last, Failure):
        assert "<html" not in last.error.message.lower()
        assert last.error.message.endswith((".", "…"))
        assert len(last.error.message) < 800


@pytest.mark.parametrize("record", task_parameters())
def test_the_chunking_of_an_answer_changes_nothing(record: dict[str, Any]) -> None:
    body = body_of(record)
    whole = joined(read_in(record, [body]))
    assert joined(read_in(record, list(awkward_pieces(body)))) == whole
    assert all(len(event.data) <= 256 * 1024 for event in whole if isinstance(event, FileChunk))


@given(data=st.data())
@settings(max_examples=200)
def test_any_split_of_any_answer_gives_the_same_events(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(task_exchanges()), label="record")
    body = body_of(record)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8), label="cuts"))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert joined(read_in(record, pieces)) == joined(read_in(record, [body]))


@given(st.sampled_from(TASKS), st.binary())
def test_any_bytes_end_in_exactly_one_way(task: Task, body: bytes) -> None:
    record = {"task": task.value, "response": {"status": 200, "headers": {}}}
    events = read_in(record, [body])
    assert isinstance(events[-1], (Completed, Failure, FollowUp))
    assert not any(isinstance(event, (Completed, Failure, FollowUp)) for event in events[:-1])


_NAMES = (
    *("label", "score", "labels", "scores", "text", "summary_text", "answer", "output", "images", "url", "data"),
    *("status", "urls", "get", "mask", "box", "xmin", "word", "entity", "token", "token_str", "sequence", "embedding"),
    *("error", "message", "response_url", "polling_url", "audio", "chunks", "timestamp", "index", "b64_json"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=20,
)


@given(st.sampled_from(TASKS), _JSON)
@settings(max_examples=300)
def test_any_document_ends_in_exactly_one_way_and_can_be_stored(task: Task, document: Any) -> None:
    record = {"task": task.value, "response": {"status": 200, "headers": {}}}
    events = read_in(record, [json.dumps(document).encode()])
    assert isinstance(events[-1], (Completed, Failure, FollowUp))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert all(delta.text for delta in deltas)
    if isinstance(events[-1], Completed):
        data = dict(events[-1].output_data)
        assert b"\\u0000" not in orjson.dumps(data)
        assert data.get("output", "") == "".join(delta.text for delta in deltas)
        OUTPUTS[task].model_validate(data | ({"files": []} if task in FILE_TASKS else {}))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"url":' * 900 + b"1" + b"}" * 900,
        b'{"images":' + b'{"image":' * 900 + b'"x"' + b"}" * 901,
        b'{"data":{"outputs":' + b'[{"outputs":' * 400 + b'["x"]' + b"}]" * 400 + b"}}",
        b"[" * 900 + b"true" + b"]" * 900,
        b'{"error":' * 900 + b'"x"' + b"}" * 900,
    ],
)
def test_a_document_deeper_than_any_is_survived(task: Task, body: bytes) -> None:
    record = {"task": task.value, "response": {"status": 200, "headers": {}}}
    assert isinstance(read_in(record, [body])[-1], Failure)


@pytest.mark.parametrize("record", task_parameters())
def test_an_answer_that_is_cut_off_is_never_taken_for_a_whole_one(record: dict[str, Any]) -> None:
    body = body_of(record)
    last = read_in(record, [body[: len(body) // 2]], cut=CUT)[-1]
    assert isinstance(last, (Failure, FollowUp))


def test_a_cut_file_is_not_asked_for_again_within_the_try_but_later() -> None:
    record = {"task": "text-to-image", "response": {"status": 200, "headers": {"Content-Type": "image/png"}}}
    failure = read_in(record, [PNG[:30]], cut=CUT)[-1]
    assert failure.error.is_transient
    assert failure.error.max_retries == 0


@pytest.mark.parametrize(
    ("body", "content_type", "found"),
    [
        (b"\x89PNG\r\n\x1a\n", "text/plain", "image/png"),
        (b"RIFF1234WEBPVP8 ", "image/png", "image/webp"),
        (b"\0\0\0\x1cftypavifavif", "", "image/avif"),
        (b"GIF89a", "image/png", "image/gif"),
        (b"who knows what it is", "image/x-portable-pixmap", "image/x-portable-pixmap"),
    ],
)
def test_the_bytes_say_what_kind_of_image_it_is_and_else_the_header(body: bytes, content_type: str, found: str) -> None:
    record = {"task": "text-to-image", "response": {"status": 200, "headers": {"Content-Type": content_type}}}
    assert read_in(record, [body])[1] == FileChunk(body, 0, found)


@pytest.mark.parametrize(
    "body", [b"fLaC\0\0\0\x22 it is a sound", b"who knows what it is", b'{"foo": 1}', b"Not Found"]
)
def test_what_is_no_image_is_no_answer_to_the_wish_for_one(body: bytes) -> None:
    record = {"task": "text-to-image", "response": {"status": 200, "headers": {"Content-Type": "text/plain"}}}
    assert "could not be understood" in read_in(record, [body])[-1].error.message


def test_a_file_beyond_all_measure_ends_there() -> None:
    reader = reader_for(call_of("text-to-speech"), None)(200, {"Content-Type": "audio/flac"})
    reader.feed(b"fLaC" + bytes(60))
    fed = 0
    while not reader.is_over:
        assert all(isinstance(event, FileChunk) for event in reader.feed(bytes(1024 * 1024)))
        fed += 1
    assert fed == 64
    failure = reader.finish()[-1]
    assert isinstance(failure, Failure)
    assert not failure.error.is_transient


def test_a_file_may_come_in_one_piece_that_is_larger_than_any_document() -> None:
    record = {"task": "text-to-image", "response": {"status": 200, "headers": {}}}
    events = read_in(record, [PNG + bytes(17 * 1024 * 1024)])
    assert isinstance(events[-1], Completed)


def test_a_document_beyond_all_measure_is_not_kept() -> None:
    reader = reader_for(call_of("feature-extraction"), None)(200, {})
    fed = 0
    while not reader.is_over:
        reader.feed(b"[" + b"1, " * 100_000)
        fed += 1
    assert fed < 60
    assert isinstance(reader.finish()[-1], Failure)


@pytest.mark.parametrize(
    "document", [[], [[]], [[[]]], [["a"]], [[1], []], [True], [[1, None]], {"data": []}, {"data": [1]}]
)
def test_what_is_no_vector_is_no_embedding(document: Any) -> None:
    record = {"task": "feature-extraction", "response": {"status": 200, "headers": {}}}
    assert isinstance(read_in(record, [orjson.dumps(document)])[-1], Failure)


def test_vectors_of_several_texts_keep_their_places() -> None:
    call = Call(Task.FEATURE_EXTRACTION, (), {"text": ["a", "b"]})
    shuffled = {"data": [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]}
    for document in (shuffled, [[1, 2], [3, 4]], [[[1, 2]], [[3, 4]]], [[[1, 2], [3, 4]]]):
        last = _read(call, document)
        assert isinstance(last, Completed)
        assert last.output_data == {"embeddings": [[1, 2], [3, 4]]}


@pytest.mark.parametrize("document", [[[1, 2]], [1, 2], [[1], [2], [3]], {"data": [{"index": 1, "embedding": [1]}]}])
def test_vectors_that_are_not_as_many_as_the_texts_belong_to_none_of_them(document: Any) -> None:
    assert isinstance(_read(Call(Task.FEATURE_EXTRACTION, (), {"text": ["a", "b"]}), document), Failure)


def _read(call: Call, document: Any) -> Any:
    reader = reader_for(call, None)(200, {})
    reader.feed(orjson.dumps(document))
    return reader.finish()[-1]


_ANSWER = {"answer": "a", "score": 0.5, "start": 0, "end": 1}
_OBJECT = {"label": "cat", "score": 0.5, "box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}
_CELL = {"answer": "a", "coordinates": [[0, 1]], "cells": ["a"], "aggregator": "NONE"}
_MASK = {"label": "cat", "score": 0.5, "mask": PNG_BASE64}


@pytest.mark.parametrize(
    ("task", "document", "same"),
    [
        (Task.QUESTION_ANSWERING, [[_ANSWER]], _ANSWER),
        (Task.TABLE_QUESTION_ANSWERING, [[_CELL]], _CELL),
        (Task.OBJECT_DETECTION, [[_OBJECT]], [_OBJECT]),
        (Task.OBJECT_DETECTION, [[]], []),
        (Task.IMAGE_SEGMENTATION, [[_MASK]], [_MASK]),
        (Task.IMAGE_SEGMENTATION, [{**_MASK, "mask": f"data:image/png;base64,{PNG_BASE64}"}], [_MASK]),
        (
            Task.AUTOMATIC_SPEECH_RECOGNITION,
            {"text": "a", "chunks": [{"timestamp": [0, 1]}]},
            {"text": "a", "segments": [{"start": 0, "end": 1, "text": ""}]},
        ),
    ],
)
def test_one_more_wrapping_changes_nothing(task: Task, document: Any, same: Any) -> None:
    last = _read(Call(task, (), {}), document)
    assert isinstance(last, Completed)
    assert last == _read(Call(task, (), {}), same)


def test_words_beside_a_file_are_no_error() -> None:
    for answer in ({"images": [PNG_BASE64]}, {"image": PNG_BASE64}, {"result": {"sample": PNG_BASE64}}):
        record = {"task": "text-to-image", "response": {"status": 200, "headers": {}}}
        body = orjson.dumps({"code": 0, "message": "success", **answer})
        assert FileChunk(PNG, 0, "image/png") in read_in(record, [body])


_ALL_ONES = b"\x89PNG\r\n\x1a\n" + b"\xff" * 40


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (base64.encodebytes(PNG).decode(), PNG),
        (PNG_BASE64.rstrip("="), PNG),
        (base64.urlsafe_b64encode(_ALL_ONES).decode(), _ALL_ONES),
        (f"data:image/jpeg;charset=utf-8;base64,{PNG_BASE64}", PNG),
    ],
)
@pytest.mark.parametrize("place", ["b64_json", "url", "image", "blob"])
def test_a_file_in_a_document_is_found_however_its_base64_is_written(place: str, text: str, data: bytes) -> None:
    for document in ({place: text}, [{place: text}], {"data": [{place: text}]}, {"images": [{place: text}]}):
        record = {"task": "text-to-image", "response": {"status": 200, "headers": {}}}
        assert FileChunk(data, 0, "image/png") in read_in(record, [orjson.dumps(document)])


@pytest.mark.parametrize(
    "start", [b"\xff\xfb\x90\x64", b"\xff\xfa\x90\x64", b"\xff\xf3\x40\xc0", b"\xff\xe3\x40\xc0", b"ID3"]
)
def test_an_mp3_is_known_by_its_first_frame_whatever_it_is_called(start: bytes) -> None:
    body = start + bytes(30)
    record = {"task": "text-to-speech", "response": {"status": 200, "headers": {"Content-Type": "text/plain"}}}
    assert read_in(record, [body])[1] == FileChunk(body, 0, "audio/mpeg")
