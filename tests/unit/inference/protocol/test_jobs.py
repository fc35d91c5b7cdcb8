"""Answers that come later or from elsewhere: jobs that are asked for, results and files that are fetched."""

import base64
from typing import Any

import orjson
import pytest

from server.inference.events import Call, FileChunk, Started, Task
from server.inference.protocol import BROKEN_OFF, Failure, FollowUp, OpenReader, reader_for
from server.inference.protocol.jobs import FIRST_PAUSE_S, MAX_PAUSE_S
from server.inference.protocol.media import MAX_CHUNK_BYTES
from server.inference.protocol.result_reader import MAX_MISSES
from server.model_request import Completed, Usage
from tests.fixtures.results import FLAC, JPEG, PNG, PNG_BASE64

ROUTER = "https://router.huggingface.co"
IMAGE = Task.TEXT_TO_IMAGE


def first_reader(task: Task = IMAGE, *, base_url: str = ROUTER) -> OpenReader:
    return reader_for(Call(task, (), {}), "org/name", base_url=base_url)


def answer(read: OpenReader, data: Any, *, status: int = 200, **headers: str) -> list[Any]:
    reader = read(status, {name.replace("_", "-"): value for name, value in headers.items()})
    body = data if isinstance(data, bytes) else orjson.dumps(data)
    return [*reader.feed(body), *reader.finish()]


def followed(read: OpenReader, data: Any, **options: Any) -> FollowUp:
    [last] = answer(read, data, **options)
    assert isinstance(last, FollowUp), last
    return last


def test_fal_ai_s_queue_is_asked_through_the_router_until_it_is_done_and_its_file_is_fetched() -> None:
    base = "https://queue.fal.run/fal-ai/flux-kontext/requests/r1"
    submitted = {"request_id": "r1", "status": "IN_QUEUE", "response_url": base, "status_url": f"{base}/status"}
    queued = followed(first_reader(Task.IMAGE_TO_IMAGE), submitted, x_inference_provider="fal-ai")
    state = f"{ROUTER}/fal-ai/fal-ai/flux-kontext/requests/r1/status?_subdomain=queue"
    assert (queued.wire.method, queued.wire.url, queued.pause_s) == ("GET", state, FIRST_PAUSE_S)
    assert not queued.wire.is_foreign
    running = followed(queued.read, {**submitted, "status": "IN_PROGRESS"})
    assert running.wire == queued.wire
    assert running.pause_s > FIRST_PAUSE_S
    done = followed(running.read, {**submitted, "status": "COMPLETED"})
    assert done.wire.url == f"{ROUTER}/fal-ai/fal-ai/flux-kontext/requests/r1?_subdomain=queue"
    fetched = followed(done.read, {"images": [{"url": "https://v3.fal.media/a.png"}]})
    assert fetched.wire.url == "https://v3.fal.media/a.png"
    assert fetched.wire.is_foreign
    assert answer(fetched.read, PNG, content_type="application/octet-stream") == [
        Started("org/name", "fal-ai"),
        FileChunk(PNG, 0, "image/png"),
        Completed({"provider": "fal-ai"}, Usage(), "org/name"),
    ]


def test_the_pauses_grow_up_to_a_bound() -> None:
    job = {"status": "processing", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}, "output": None}
    last = followed(first_reader(), job, status=201)
    pauses = [last.pause_s]
    for _ in range(20):
        last = followed(last.read, job)
        pauses.append(last.pause_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S
    assert last.wire.url == f"{ROUTER}/replicate/v1/predictions/r"


def test_a_prediction_that_is_done_is_fetched() -> None:
    job = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}, "output": None}
    poll = followed(first_reader(), job, status=201)
    done = {**job, "status": "succeeded", "output": "https://replicate.delivery/out.jpg"}
    assert followed(poll.read, done).wire.url == "https://replicate.delivery/out.jpg"


def test_a_transcription_that_comes_later_is_read_as_one() -> None:
    job = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}, "output": None}
    poll = followed(first_reader(Task.AUTOMATIC_SPEECH_RECOGNITION), job, status=201)
    last = answer(poll.read, {**job, "status": "succeeded", "output": {"transcription": "Hi"}})[-1]
    assert last.output_data == {"output": "Hi"}


def test_a_job_that_is_done_and_made_nothing_is_not_asked_for_again() -> None:
    silence = {"status": "succeeded", "output": "", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}}
    [_, last] = answer(first_reader(Task.AUTOMATIC_SPEECH_RECOGNITION), silence)
    assert last.output_data == {"output": ""}
    [last] = answer(first_reader(), {**silence, "output": []})
    assert isinstance(last, Failure)
    assert not last.error.is_transient


def test_wavespeed_s_task_is_asked_through_the_router() -> None:
    data = {"id": "w", "status": "created", "urls": {"get": "https://api.wavespeed.ai/api/v3/predictions/w/result"}}
    wrapped = {"code": 200, "message": "success"}
    poll = followed(first_reader(), {**wrapped, "data": {**data, "outputs": []}})
    assert poll.wire.url == f"{ROUTER}/wavespeed/api/v3/predictions/w/result"
    done = {**data, "status": "completed", "outputs": ["https://cdn.example/w.png"]}
    assert followed(poll.read, {**wrapped, "data": done}).wire.url == "https://cdn.example/w.png"


def test_a_job_whose_state_does_not_say_where_it_is_is_asked_again_where_it_was() -> None:
    poll = followed(first_reader(), {"id": "b", "polling_url": "https://api.us1.bfl.ai/v1/get_result?id=b"})
    assert poll.wire.is_foreign
    again = followed(poll.read, {"id": "b", "status": "Pending", "result": None})
    assert again.wire == poll.wire
    ready = {"id": "b", "status": "Ready", "result": {"sample": "https://cdn.example/b.jpg"}}
    assert followed(again.read, ready).wire.url == "https://cdn.example/b.jpg"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"status": "failed", "error": "NSFW content detected."}, "NSFW content detected"),
        ({"status": "canceled", "error": None}, "no reason"),
        ({"data": {"status": "failed", "error": "out of luck"}, "message": "success"}, "out of luck"),
        ({"status": "Content Moderated"}, "no reason"),
    ],
)
def test_a_job_that_failed_is_not_simply_asked_for_once_more(job: Any, words: str) -> None:
    [failure] = answer(first_reader(), job)
    assert isinstance(failure, Failure)
    assert words in failure.error.message
    assert not failure.error.is_transient


def test_a_question_that_fails_is_put_again_because_the_job_goes_on() -> None:
    job = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}, "output": None}
    poll = last = followed(first_reader(), job, status=201)
    for _ in range(MAX_MISSES):
        last = followed(last.read, b"<html>Bad gateway</html>", status=502)
        assert last.wire == poll.wire
    [failure] = answer(last.read, b"", status=502)
    assert isinstance(failure, Failure)
    assert failure.error.is_transient
    assert failure.error.max_retries == 0


def test_a_success_between_two_misses_starts_the_count_anew() -> None:
    job = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}, "output": None}
    last = followed(first_reader(), job, status=201)
    for _ in range(3 * MAX_MISSES):
        last = followed(last.read, b"", status=503)
        last = followed(last.read, job)


def test_a_question_that_is_refused_ends_it() -> None:
    job = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/predictions/r"}, "output": None}
    poll = followed(first_reader(), job, status=201)
    [failure] = answer(poll.read, {"detail": "gone"}, status=404)
    assert isinstance(failure, Failure)
    assert not failure.error.is_model_missing


def test_half_a_character_in_an_address_stops_nothing() -> None:
    poll = followed(first_reader(), rb'{"status": "IN_QUEUE", "response_url": "https://queue.fal.run/a\ud800b"}')
    assert poll.wire.url.endswith("/fal-ai/a%3Fb/status?_subdomain=queue")


def test_several_files_are_fetched_one_after_the_other() -> None:
    images = [{"url": f"https://cdn.example/{number}.png"} for number in range(3)]
    last: Any = followed(first_reader(), {"images": images})
    events: list[Any] = []
    for number in range(3):
        assert last.wire.url.endswith(f"/{number}.png")
        *chunks, last = answer(last.read, JPEG + bytes([number]))
        events += chunks
    assert [event.number for event in events if isinstance(event, FileChunk)] == [0, 1, 2]
    assert sum(isinstance(event, Started) for event in events) == 1
    assert isinstance(last, Completed)


def test_files_in_the_document_come_before_those_at_addresses() -> None:
    data = [{"b64_json": PNG_BASE64}, {"url": "https://cdn.example/1.png"}]
    *events, last = answer(first_reader(), {"data": data})
    assert events == [Started("org/name"), FileChunk(PNG, 0, "image/png")]
    assert isinstance(last, FollowUp)
    assert answer(last.read, PNG)[0] == FileChunk(PNG, 1, "image/png")


def test_a_large_file_in_a_document_is_handed_on_in_bounded_pieces() -> None:
    image = PNG + bytes(3 * MAX_CHUNK_BYTES)
    document = {"data": [{"b64_json": base64.b64encode(image).decode()}]}
    _, *chunks, last = answer(first_reader(), document)
    assert max(len(chunk.data) for chunk in chunks) == MAX_CHUNK_BYTES
    assert b"".join(chunk.data for chunk in chunks) == image
    assert isinstance(last, Completed)


@pytest.mark.parametrize("body", [b'{"images": [{"url": "https://cdn.example/x.png"}]}', b"<html></html>", FLAC])
def test_a_download_that_is_no_file_leads_nowhere_else(body: bytes) -> None:
    last: Any = followed(first_reader(), {"images": [{"url": "https://cdn.example/a.png"}]})
    address = last.wire.url
    while isinstance(last, FollowUp):
        assert last.wire.url == address
        [last] = answer(last.read, body, content_type="image/png")
    assert isinstance(last, Failure)


@pytest.mark.parametrize(("body", "status"), [(b"<html>Bad gateway</html>", 502), (b"", 200)])
def test_a_file_that_cannot_be_had_at_the_moment_is_asked_for_again(body: bytes, status: int) -> None:
    fetch = last = followed(first_reader(), {"images": [{"url": "https://cdn.example/a.png"}]})
    for _ in range(MAX_MISSES):
        last = followed(last.read, body, status=status)
        assert last.wire == fetch.wire
        assert last.pause_s >= FIRST_PAUSE_S
    assert isinstance(answer(last.read, PNG)[-1], Completed)
    [failure] = answer(last.read, body, status=status)
    assert isinstance(failure, Failure)
    assert failure.error.max_retries == 0


def test_a_file_that_broke_off_is_not_begun_a_second_time() -> None:
    fetch = followed(first_reader(), {"images": [{"url": "https://cdn.example/a.png"}]})
    reader = fetch.read(200, {})
    assert len(reader.feed(PNG)) == 2
    [failure] = reader.finish(cut=BROKEN_OFF)
    assert isinstance(failure, Failure)
    assert (failure.error.is_transient, failure.error.max_retries) == (True, 0)


def test_a_download_that_is_not_there_is_not_said_of_the_model() -> None:
    fetch = followed(first_reader(), {"images": [{"url": "https://cdn.example/a.png"}]})
    [failure] = answer(fetch.read, b"<html>gone</html>", status=404)
    assert isinstance(failure, Failure)
    assert not failure.error.is_model_missing


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a/b",
        "//a/b",
        "https://",
        "http://[::1",
        "https://api.replicate.com/v1/../../hf-inference/models/a/b",
    ],
)
def test_an_address_that_is_none_is_not_asked(url: str) -> None:
    job = {"status": "starting", "urls": {"get": url}, "output": None}
    [last] = answer(first_reader(), job)
    assert isinstance(last, Failure)


def test_an_encoded_path_is_not_decoded_on_its_way() -> None:
    job = {"status": "starting", "urls": {"get": "https://api.replicate.com/v1/%2e%2e/x"}, "output": None}
    assert followed(first_reader(), job).wire.url == f"{ROUTER}/replicate/v1/%252e%252e/x"


def test_a_server_of_one_s_own_is_no_stranger_to_itself() -> None:
    own = "http://localhost:8080"
    read = first_reader(base_url=f"{own}/v1")
    assert not followed(read, {"data": [{"url": f"{own}/generated/a.png"}]}).wire.is_foreign
    assert followed(read, {"data": [{"url": "http://localhost:9999/generated/a.png"}]}).wire.is_foreign
