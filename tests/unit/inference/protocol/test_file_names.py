"""The names under which files go upstream: an Inference Endpoint refuses a type that is not in its list."""

import base64
from collections.abc import AsyncIterator

import orjson
import pytest

from server.inference.events import Call, InputFile, Task
from server.inference.protocol import FilePart, build
from server.inference.protocol.addresses import ROUTER_URL
from server.inference.protocol.movie_index import move_in_memory
from server.inference.protocol.providers import PROVIDERS
from tests.fakes.media import SAMPLES, Sample

STORED = "file:019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"
TOOLKIT_TYPES = frozenset(
    {
        "application/json",
        *(
            "image/png",
            "image/jpeg",
            "image/jpg",
            "image/tiff",
            "image/bmp",
            "image/gif",
            "image/webp",
            "image/x-image",
        ),
        *("audio/x-flac", "audio/flac", "audio/mpeg", "audio/x-mpeg-3", "audio/wave", "audio/wav", "audio/x-wav"),
        *("audio/ogg", "audio/x-audio", "audio/webm", "audio/webm;codecs=opus", "audio/AMR", "audio/amr"),
        *("audio/AMR-WB", "audio/AMR-WB+", "audio/m4a", "audio/x-m4a"),
    }
)
"""`content_type_mapping` of huggingface-inference-toolkit, `serialization/base.py`, commit 0f1a886."""


async def _no_bytes() -> AsyncIterator[bytes]:
    yield b""  # pragma: no cover - nothing here reads it


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_f3_an_endpoint_gets_a_name_of_its_list_or_base64(sample: Sample) -> None:
    is_image = sample.content_type.startswith("image/")
    task, field = (Task.IMAGE_CLASSIFICATION, "image") if is_image else (Task.AUTOMATIC_SPEECH_RECOGNITION, "audio")
    url = f"data:{sample.content_type};base64,{base64.b64encode(sample.data).decode()}"
    wire = build(Call(task, (), {field: url}), None, base_url="https://x.endpoints.huggingface.cloud")
    sent = wire.headers["Content-Type"]
    assert sent in TOOLKIT_TYPES
    assert isinstance(wire.body, bytes)
    if sent == "application/json":
        assert sample.content_type in {"audio/aac", "audio/aiff", "audio/x-caf", "image/heic", "image/avif"}
        assert orjson.loads(wire.body) == {"inputs": url.partition(",")[2]}
    else:
        assert wire.body == move_in_memory(sample.data)
    routed = build(Call(task, (), {field: url}), "org/name:hf-inference", base_url=ROUTER_URL)
    assert routed.headers["Content-Type"] == sample.content_type, "the router gets it as before"


@pytest.mark.parametrize(
    ("content_type", "sent"),
    [
        ("audio/mp4", "audio/m4a"),
        ("video/webm", "audio/webm"),
        ("video/quicktime", "audio/m4a"),
        ("audio/aac", "application/json"),
    ],
)
def test_f3_stored_files_get_these_names_too(content_type: str, sent: str) -> None:
    file = InputFile(content_type, 1000, _no_bytes)
    call = Call(Task.AUTOMATIC_SPEECH_RECOGNITION, (), {"audio": STORED}, files={STORED: file})
    wire = build(call, None, base_url="http://10.0.0.2:8080")
    assert wire.headers["Content-Type"] == sent
    is_raw = sent != "application/json"
    assert wire.body == ((FilePart(file),) if is_raw else (b'{"inputs":', b'"', FilePart(file, is_base64=True), b'"}'))


@pytest.mark.parametrize(
    ("content_type", "name"),
    [
        ("audio/mp4", "audio.m4a"),
        ("video/webm", "audio.webm"),
        ("audio/ogg", "audio.ogg"),
        ("audio/x-caf", "audio.caf"),
    ],
)
def test_the_name_of_a_file_in_a_form_has_the_ending_of_its_type(content_type: str, name: str) -> None:
    file = InputFile(content_type, 1000, _no_bytes)
    call = Call(Task.AUTOMATIC_SPEECH_RECOGNITION, (), {"audio": STORED}, files={STORED: file})
    wire = PROVIDERS["deepinfra"].builders[call.task](call, "vendor/model", ROUTER_URL)
    assert isinstance(wire.body, tuple)
    assert isinstance(wire.body[0], bytes)
    assert f'filename="{name}"'.encode() in wire.body[0]
