"""Reads the answer to a call: a stream of chat, of completions or of TGI, one JSON document, or an error."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Protocol

from server.inference.events import FileChunk, Segment, Started
from server.inference.protocol.answer import Answer, letters_of
from server.inference.protocol.contents import REASONING_FIELDS, is_thought, reasoning_of, text_of
from server.inference.protocol.exchange import FollowUp, Progress
from server.inference.protocol.faults import Failure, UpstreamError, is_error, is_success, read_refusal, read_reported
from server.inference.protocol.media import in_chunks
from server.inference.protocol.sse import ServerEvent, SseSplitter
from server.inference.protocol.texts import Unintelligible, parse_json
from server.inference.protocol.usage import MAX_COUNT, read_spelled_count
from server.model_request import Completed, Usage

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Limit of a document, of one event, and of what is kept of a stream: text, arguments, probabilities, images."""
MAX_STREAM_BYTES = 64 * 1024 * 1024
"""Limit of a stream: 131,072 tokens in events of 512 bytes each."""
MAX_ERROR_BYTES = 64 * 1024
"""Limit of an error; the longest recorded one is a page of 22 KB."""

AFTER_FINISH_S = 3.0
"""The wait for usage after the finish reason. Some providers send no `[DONE]` and leave the stream open."""
AFTER_USAGE_S = 0.5
"""The wait for `[DONE]` after the finish reason and usage."""

EMPTY = UpstreamError("The model provider sent an empty completion.", is_transient=True)
BROKEN_OFF = UpstreamError("The model's answer broke off before its end.", is_transient=True)
FAILED = UpstreamError("The model provider reported that it could not finish its answer.", is_transient=True)
GARBLED = UpstreamError("The model provider's answer could not be understood.", is_transient=True)
WEB_PAGE = UpstreamError("The model provider answered with a web page instead of a completion.", is_transient=True)
TOO_LARGE = UpstreamError("The model provider's answer was larger than any completion.")

BLANK = b"\xef\xbb\xbf \t\r\n"
"""Bytes that may precede an answer, a byte order mark included."""
_FIRST_OF_JSON = b'{["-0123456789tfn'
_FIRST_OF_EVENTS = b":deir"
"""Comments, and the fields data, event, id and retry."""
_FAILURES = frozenset(
    {
        *("error", "networkerror", "servererror", "internalerror", "internalservererror", "abort", "aborted"),
        *("cancelled", "canceled", "failed", "timeout", "insufficientsystemresource", "malformedfunctioncall"),
    }
)
"""Finish reasons of failed generations, in the form of `letters_of`."""
_KEEP_ALIVE = frozenset({b"ping", b"heartbeat", b"keepalive", b"keep-alive"})
"""Names of events whose data says nothing."""
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)


class Judge(Protocol):
    """Reads the error of an unsuccessful answer; `headers` are in lower case."""

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> UpstreamError: ...


def read_provider(headers: Mapping[str, str]) -> str | None:
    """The provider that answered, as the router reports it; `headers` are in lower case."""
    provider = headers.get("x-inference-provider", "")
    return provider if _PROVIDER.fullmatch(provider) else None


Fetch = Callable[[Completed, int, tuple[str, ...]], FollowUp]
"""Makes the request for images at addresses; the first one has this number. The answer is complete but for them."""


class _Form(Enum):
    UNKNOWN = auto()
    EVENTS = auto()
    WHOLE = auto()


class TextResponseReader:
    """Reads the status, the headers and then the bytes of one answer, in any chunks.

    Its events are free of NUL and lone surrogates. With `splits_thoughts` it separates reasoning at the beginning of
    the text from the answer. `Started` precedes the first delta, or a `Completed` without deltas: not earlier, since
    errors may have status 200. Images at addresses are ignored without `fetch`.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        model: str | None = None,
        now: datetime | None = None,
        judge: Judge = read_refusal,
        splits_thoughts: bool = True,
        fetch: Fetch | None = None,
    ) -> None:
        self._status = status
        self._headers = {name.lower(): value for name, value in headers.items()}
        self._model = model
        self._now = now or datetime.now(UTC)
        self._judge = judge
        self._provider = read_provider(self._headers)
        self._is_success = is_success(status)
        self._form = _Form.UNKNOWN if self._is_success else _Form.WHOLE
        self._body = bytearray()
        self._fetch = fetch
        self._splitter = SseSplitter(max_line_bytes=MAX_BODY_BYTES)
        self._files = 0
        self._size = 0
        self._answer = Answer(splits_thoughts=splits_thoughts)
        self._held: list[str] = []
        self._choice = MAX_COUNT
        self._messages: str | None = None
        self._error: UpstreamError | None = None
        self._is_complete = False
        self._has_usage = False
        self._has_started = False
        self._is_over = False
        self.grace_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether further bytes have no effect."""
        return self._is_over

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        return self._answer.usage

    def feed(self, chunk: bytes) -> list[Progress]:
        """The events that `chunk` completes."""
        if self._is_over:
            return []
        self._size += len(chunk)
        if not self._is_success:
            self._body += chunk[: MAX_ERROR_BYTES - len(self._body)]
            self._is_over = len(self._body) >= MAX_ERROR_BYTES
            return []
        if self._size > (MAX_STREAM_BYTES if self._form is _Form.EVENTS else MAX_BODY_BYTES):
            self._break(TOO_LARGE)
        else:
            self._read(chunk)
            if self._answer.size > MAX_BODY_BYTES:
                self._break(TOO_LARGE)
        return self._take_progress()

    def finish(self, *, cut: UpstreamError | None = None) -> list[Progress | Completed | Failure | FollowUp]:
        """The remaining events. `cut` is the reason why the body could not be read to its end, if so.

        The last item is a `Completed` or a `Failure`; after deltas a failure is never transient.
        """
        if self._is_success and not self._is_over:
            self._finish_reading(cut)
        elif not self._is_success:
            self._error = self._judge(self._status, self._headers, bytes(self._body), now=self._now)
        if not self._is_complete and self._error is None:
            self._error = cut or self._name_what_is_missing()
        self._answer.flush(is_complete=self._error is None or self._is_complete)
        progress = self._take_progress()
        if self._error is None or self._is_complete:
            return [*progress, *self._complete()]
        return [*progress, self._fail(self._error)]

    def _read(self, chunk: bytes) -> None:
        if self._form is _Form.UNKNOWN:
            chunk = bytes(chunk).lstrip(BLANK)
            if not chunk:
                return
            self._form = self._recognise(chunk[:1])
        if self._form is _Form.WHOLE:
            self._body += chunk
            return
        self._take_events(self._splitter.feed(chunk))
        if self._splitter.has_overflowed and not self._is_over:
            self._break(TOO_LARGE)

    def _recognise(self, first: bytes) -> _Form:
        """The form by the first byte: providers answer a streaming call with a document, and vice versa."""
        if first in _FIRST_OF_EVENTS:
            return _Form.EVENTS
        says_events = self._headers.get("content-type", "").lower().startswith("text/event-stream")
        return _Form.EVENTS if says_events and first not in _FIRST_OF_JSON + b"<" else _Form.WHOLE

    def _take_events(self, server_events: list[ServerEvent]) -> None:
        for event in server_events:
            if self._is_over:
                break
            try:
                self._take_event(event)
            except Unintelligible:
                self._break(GARBLED)

    def _take_event(self, event: ServerEvent) -> None:
        data = event.data.strip()
        if data == b"[DONE]":
            self._is_over = True
            self._release()
            self._is_complete |= not self._answer.is_empty  # some end tool calls without a finish_reason
        elif data:
            try:
                document = parse_json(data)
            except Unintelligible:
                self._take_odd(ServerEvent(event.name, data))
                return
            if event.name == b"error":
                self._break(read_reported(document))
            else:
                self._take(document)

    def _take_odd(self, event: ServerEvent) -> None:
        """An event that is not JSON: words of an error, a comment, several documents, or the field's name once more."""
        lines = event.data.splitlines()
        if event.name == b"error":
            self._break(read_reported(event.data.decode("utf-8", "replace")))
        elif len(lines) > 1:
            self._take_events([ServerEvent(event.name, line) for line in lines])
        elif event.data.startswith(b"data:"):
            self._take_event(ServerEvent(event.name, event.data.removeprefix(b"data:")))
        elif not event.data.startswith(b":") and event.name not in _KEEP_ALIVE:
            raise Unintelligible

    def _take(self, document: Any) -> None:
        """One event, or the whole document: they differ in few names."""
        while isinstance(document, list) and document:
            document = document[0]  # TGI wraps; only the first of several answers counts
        if not isinstance(document, dict):
            if self._form is _Form.EVENTS:
                return  # null, a number or a text keeps the connection alive
            raise Unintelligible
        if is_error(document):
            self._break(read_reported(document))
            return
        if usage := document.get("usage") or ("x_groq" in document and _in_groqs_place(document["x_groq"])):
            self._count(usage)
        if "choices" in document:
            self._take_choices(document["choices"])
        else:
            self._take_generated(document)

    def _take_choices(self, choices: Any) -> None:
        if choices and not isinstance(choices, list):
            raise Unintelligible
        if choices and len(choices) > 1:
            choices = sorted((choice for choice in choices if isinstance(choice, dict)), key=_number_of)
        choice = choices[0] if choices else None
        if isinstance(choice, dict) and (number := _number_of(choice)) <= self._choice:
            self._choice = number
            self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        """A choice has a `delta`, a `message`, or plain `text`. Together sends the same text next to its deltas."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = self._undivided(choice)
        self._take_delta(delta)
        self._answer.add_logprobs(choice.get("logprobs"))
        if usage := choice.get("usage") or delta.get("usage"):
            self._count(usage)  # Moonshot's place
        if reason := choice.get("finish_reason"):
            self._end(reason, choice)
        elif choice.get("error"):
            self._break(read_reported(choice))
        if self._form is _Form.WHOLE and self._error is None:
            self._is_complete |= isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str)

    def _take_delta(self, delta: Mapping[str, Any]) -> None:
        answer = self._answer
        if not REASONING_FIELDS.isdisjoint(delta):
            answer.add(reasoning_of(delta), Segment.REASONING)
        if content := delta.get("content"):
            self._add_content(content)
        elif refusal := delta.get("refusal"):
            answer.add_refusal(text_of(refusal))
        if images := delta.get("images"):
            answer.add_images(images)
        if pieces := delta.get("tool_calls"):
            answer.add_calls(pieces)
        elif function := delta.get("function_call"):
            answer.add_calls({"index": 0, "function": function})  # OpenAI's form before tool calls

    def _count(self, usage: Any) -> None:
        self._answer.count(usage)
        self._has_usage = True
        if self._is_complete:
            self.grace_s = AFTER_USAGE_S

    def _add_content(self, content: Any) -> None:
        """A text, or parts, some of which are reasoning."""
        if isinstance(content, str):
            self._answer.add(content)
            return
        for part in content if isinstance(content, list) else [content]:
            is_object = isinstance(part, dict)
            self._answer.add(text_of(part), Segment.REASONING if is_object and is_thought(part) else Segment.OUTPUT)
            if is_object:
                self._answer.add_refusal(text_of(part.get("refusal")))
                if image := part.get("image_url") or part.get("image"):
                    self._answer.add_images(image)

    def _end(self, reason: Any, choice: Mapping[str, Any]) -> None:
        """Note why the generation ended; some providers report a failure in no other way."""
        reason = reason.get("type") if isinstance(reason, dict) else reason
        if isinstance(reason, str) and letters_of(reason) in _FAILURES:
            self._break(read_reported(choice) if choice.get("error") else FAILED)
            return
        self._answer.finish(reason)
        self._is_complete |= self._answer.finish_reason is not None
        if self._is_complete:
            self.grace_s = AFTER_USAGE_S if self._has_usage else AFTER_FINISH_S

    def _undivided(self, choice: Mapping[str, Any]) -> Mapping[str, Any]:
        """The text or the message of a choice without a delta. A message after deltas only repeats them.

        In a stream of messages, each one is a piece, or repeats the text before it.
        """
        message = choice.get("message")
        if not isinstance(message, dict):
            return {"content": choice.get("text")}
        content = message.get("content")
        if self._answer.is_empty:
            self._messages = content if isinstance(content, str) else None
            return {**choice, **message}
        if self._messages is None or not isinstance(content, str):
            return {}
        content = content.removeprefix(self._messages)
        self._messages += content
        return {"content": content, "tool_calls": message.get("tool_calls")}

    def _take_generated(self, document: Mapping[str, Any]) -> None:
        """TGI's own shapes. The last event has the full text, which can differ from the joined tokens (flan-t5: a token
        " ", the text ""). So tokens are held back until it arrives, and released only if it does not.
        """
        text, token, details = (document.get(name) for name in ("generated_text", "token", "details"))
        if isinstance(details, dict):
            self._answer.finish(details.get("finish_reason"))
            self._answer.count_details(details)
        if isinstance(text, str):
            self._held.clear()
            self._is_complete = self._is_over = True
            self._answer.add(text)
        elif self._form is _Form.WHOLE:
            raise Unintelligible
        elif isinstance(token, dict):
            self._held.append("" if token.get("special") else text_of(token.get("text")))

    def _finish_reading(self, cut: UpstreamError | None) -> None:
        if self._form is _Form.WHOLE:
            self._take_whole(cut)
            return
        for event in self._splitter.flush(with_rest=cut is None):
            try:
                self._take_event(event)
            except Unintelligible:
                break  # the beginning of an event that never came whole
        self._release()

    def _take_whole(self, cut: UpstreamError | None) -> None:
        if self._body.startswith(b"<"):
            self._break(WEB_PAGE)
            return
        try:
            for document in _documents(bytes(self._body)):
                if not self._is_over:
                    self._take(document)
        except Unintelligible:
            self._break(cut or GARBLED)

    def _name_what_is_missing(self) -> UpstreamError:
        """A document, an empty body and a lone `[DONE]` are complete but empty; other answers broke off."""
        return EMPTY if self._is_over or self._form is not _Form.EVENTS else BROKEN_OFF

    def _break(self, error: UpstreamError) -> None:
        self._error = error
        self._is_over = True
        self._release()

    def _release(self) -> None:
        """Release the tokens that were held back."""
        text = "".join(self._held)
        self._held.clear()
        self._answer.add(text)

    def _take_progress(self) -> list[Progress]:
        """The new deltas and images, with a `Started` before the first one."""
        progress: list[Progress] = [*self._answer.take()]
        if self._answer.images:
            progress += self._take_images()
        if not progress or self._has_started:
            return progress
        self._has_started = True
        return [Started(self._model, self._provider), *progress]

    def _take_images(self) -> Iterator[FileChunk]:
        for number, image in enumerate(self._answer.images, self._files):
            yield from in_chunks(image.data, number, image.content_type)
        self._files += len(self._answer.images)
        self._answer.images = []

    def _complete(self) -> list[Progress | Completed | Failure | FollowUp]:
        data = self._answer.as_data(provider=self._provider, is_partial=False)
        completed = Completed(data, self._answer.usage, self._model)
        last: Completed | FollowUp = completed
        if self._answer.addresses and self._fetch is not None:
            try:
                last = self._fetch(completed, self._files, tuple(self._answer.addresses))
            except Unintelligible:
                return [self._fail(GARBLED)]
        return [last] if self._has_started else [Started(self._model, self._provider), last]

    def _fail(self, error: UpstreamError) -> Failure:
        if not self._has_started:
            return Failure(error, None, self._answer.usage, self._model)
        data = self._answer.as_data(provider=self._provider, is_partial=True)
        error = replace(error, is_transient=False, retry_after_s=None, is_model_missing=False)
        return Failure(error, data, self._answer.usage, self._model)


def _number_of(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if type(index) is int else read_spelled_count(index) or 0


def _in_groqs_place(value: Any) -> Any:
    return value.get("usage") if isinstance(value, dict) else None


def _documents(body: bytes) -> list[Any]:
    """The document of a body, or its chunks: one in each line, or all in an array. Raises `Unintelligible`."""
    try:
        document = parse_json(body)
    except Unintelligible:
        lines = [line for line in body.splitlines() if line.strip()]
        if len(lines) == 1:
            raise
        return [parse_json(line) for line in lines]
    are_chunks = isinstance(document, list) and all(isinstance(item, dict) and "choices" in item for item in document)
    return document if are_chunks and document else [document]
