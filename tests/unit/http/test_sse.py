"""Server-sent events as bytes: one line of data, whatever a client takes for the end of a line."""

import json

import pytest

from server.encoding import dumps
from server.errors import ModelFailed
from server.http.request_events import encode_event
from server.http.sse import MAX_PIECE, encode, encode_large
from server.inference.events import Segment
from server.model_request import Status
from server.openai.refusals import error_event
from server.requests.stream import Cursor, StreamEvent
from server.transcript import START, Final, Part

SEPARATORS = ["\u2028", "\u2029", "\u0085"]
CURSOR = Cursor(1, 1, 3)


def data_of(event: bytes) -> str:
    """The text of the only data line, read as clients do that split at every separator of `str.splitlines`."""
    [line] = [line for line in event.decode().splitlines() if line.startswith("data: ")]
    return line.removeprefix("data: ")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_s1_separators_of_lines_are_escaped_in_every_event(separator: str) -> None:
    text = f"a{separator}é{separator}\\{separator}"
    body = dumps({"output": text, "more": "x" * MAX_PIECE})
    events = [
        encode("any", dumps({"output": text})),
        encode_event(StreamEvent(CURSOR, Part(Segment.OUTPUT, 0, "", text, START))),
        encode_event(StreamEvent(CURSOR, Final(Status.COMPLETED, body))),
        b"".join(encode_large("completed", body, "1.1-3")),
        error_event(ModelFailed(text)),
    ]
    for event in events:
        assert text in json.dumps(json.loads(data_of(event)), ensure_ascii=False).replace("\\\\", "\\")


def test_s1_other_text_stays_as_it_is() -> None:
    text = "…\u00a0\u0084\u2027\u202a日本語"
    assert f'"{text}"'.encode() in encode("any", dumps({"text": text}))
