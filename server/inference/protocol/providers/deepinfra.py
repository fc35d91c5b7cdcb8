"""DeepInfra: OpenAI's shapes, below `/v1/openai`. Transcriptions are sent as a form (RFC 7578)."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import file_of
from server.inference.protocol.providers.provider import Provider, openai_call, parameters
from server.inference.protocol.wire import Attachment, WireRequest, attachment_of

_ENDINGS = {
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/aac": "aac",
    "audio/aiff": "aiff",
    "audio/amr": "amr",
    "audio/amr-wb": "amr",
    "audio/x-caf": "caf",
    **dict.fromkeys(("audio/webm", "video/webm"), "webm"),
    **dict.fromkeys(("audio/mp4", "audio/3gpp", "audio/3gpp2"), "m4a"),
    **dict.fromkeys(("video/mp4", "video/3gpp", "video/3gpp2", "video/quicktime"), "mp4"),
}
"""OpenAI's names where it has one. `mimetypes` would answer by the files of the machine."""


def _transcription(call: Call, native_id: str, url: str) -> WireRequest:
    fields = {**parameters(call), "model": native_id}
    return _form(f"{url}/v1/openai/audio/transcriptions", attachment_of(call, file_of(call)), fields)


def _form(url: str, attachment: Attachment, fields: Mapping[str, Any]) -> WireRequest:
    """A form with the file as its last part. Servers read the format from the extension of the file's name."""
    texts = {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in fields.items()}
    boundary = "part-" + hashlib.sha256(orjson.dumps([*texts.items()])).hexdigest()[:32]
    head = "".join(_part(boundary, f'name="{name}"', text + "\r\n") for name, text in texts.items())
    ending = _ENDINGS.get(attachment.content_type, "wav")
    disposition = f'name="file"; filename="audio.{ending}"'
    head += _part(boundary, disposition, "", content_type=attachment.content_type)
    raw = attachment.raw()
    parts = (raw,) if isinstance(raw, bytes) else raw
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "application/json"}
    return WireRequest("POST", url, headers, (head.encode(), *parts, f"\r\n--{boundary}--\r\n".encode()))


def _part(boundary: str, disposition: str, text: str, *, content_type: str | None = None) -> str:
    kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    return f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n{kind}\r\n{text}"


PROVIDER = Provider(
    name="deepinfra",
    builders={
        Task.FEATURE_EXTRACTION: openai_call("/v1/openai/embeddings"),
        Task.TEXT_TO_SPEECH: openai_call("/v1/openai/audio/speech"),
        Task.AUTOMATIC_SPEECH_RECOGNITION: _transcription,
    },
    completions="/v1/openai/completions",
)
