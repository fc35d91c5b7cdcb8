"""A form with one file, for the transcriptions of OpenAI's interface (RFC 7578)."""

import hashlib
import mimetypes
from collections.abc import Mapping
from typing import Any

import orjson

from server.inference.protocol.wire import Attachment, WireRequest


def build_form(url: str, attachment: Attachment, fields: Mapping[str, Any]) -> WireRequest:
    """A form with the file as its last part. Servers read the format from the extension of the file's name."""
    texts = {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in fields.items()}
    boundary = "part-" + hashlib.sha256(orjson.dumps([*texts.items()])).hexdigest()[:32]
    head = "".join(_part(boundary, f'name="{name}"', text + "\r\n") for name, text in texts.items())
    ending = mimetypes.guess_extension(attachment.content_type) or ".wav"
    disposition = f'name="file"; filename="audio{ending}"'
    head += _part(boundary, disposition, "", content_type=attachment.content_type)
    raw = attachment.raw()
    parts = (raw,) if isinstance(raw, bytes) else raw
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "application/json"}
    return WireRequest("POST", url, headers, (head.encode(), *parts, f"\r\n--{boundary}--\r\n".encode()))


def _part(boundary: str, disposition: str, text: str, *, content_type: str | None = None) -> str:
    kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    return f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n{kind}\r\n{text}"
