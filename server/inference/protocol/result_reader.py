"""Reads the answers of tasks other than text: a document, a file, or a reference to a later answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from server.inference.events import Call, Delta, Started, Task
from server.inference.protocol.exchange import AnswerReader, FollowUp, OpenReader, Progress
from server.inference.protocol.faults import Failure, UpstreamError, is_error, is_success, read_reported
from server.inference.protocol.jobs import FIRST_PAUSE_S, MAX_PAUSE_S, PAUSE_GROWTH, JobFailed, find_poll, get
from server.inference.protocol.media import DETECTED_BYTES, detect, find_files, in_chunks, media_type_of
from server.inference.protocol.results import Result, read_result
from server.inference.protocol.text_response_reader import (
    BLANK,
    GARBLED,
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    Judge,
    read_provider,
)
from server.inference.protocol.texts import Unintelligible, clean_all, parse_json
from server.inference.protocol.usage import read_usage
from server.inference.protocol.wire import WireRequest
from server.model_request import NO_USAGE, Completed, Usage

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Limit of one generated file."""
MAX_MISSES = 3
"""Failed polls of a job, or downloads of a file, before it is given up: the result is paid for."""

FILE_TASKS = {Task.TEXT_TO_IMAGE: "image/", Task.IMAGE_TO_IMAGE: "image/", Task.TEXT_TO_SPEECH: "audio/"}
"""The tasks whose answers are files, and their kind."""

EMPTY = UpstreamError("The model provider sent an empty answer.", is_transient=True)
WEB_PAGE = UpstreamError("The model provider answered with a web page instead of a result.", is_transient=True)
TOO_LARGE = UpstreamError("The model provider's answer was larger than any result may be.")
UNKNOWN_SHAPE = replace(GARBLED, is_transient=False)
"""A complete answer in an unknown shape. It is final: a retry would cost again and give the same."""

Last = Progress | Completed | Failure | FollowUp


@dataclass(slots=True)
class Exchange:
    """The state that all readers of one call share.

    `asked` is the current request if a repetition is free: a poll or a download. `misses` is the number of its failures
    in a row. `first_file` and `more_files`: the number of the current file, and the addresses of the next ones. `told`
    is the answer that lacks only these files.
    """

    call: Call
    model: str | None
    base_url: str
    judge: Judge
    provider: str | None = None
    asked: WireRequest | None = None
    is_download: bool = False
    pause_s: float = FIRST_PAUSE_S
    misses: int = 0
    first_file: int = 0
    more_files: tuple[str, ...] = ()
    told: Completed | None = None


class _Form(Enum):
    UNKNOWN = auto()
    DOCUMENT = auto()
    FILE = auto()


def open_with(exchange: Exchange) -> OpenReader:
    def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
        return ResultReader(exchange, status, headers)

    return open_reader


def fetch_files(exchange: Exchange, number: int, addresses: tuple[str, ...]) -> FollowUp:
    """The request for file `number` at the first address, and then for the others.

    Raises `Unintelligible` for an invalid address.
    """
    wire = get(addresses[0], exchange.base_url)
    download = replace(exchange, asked=wire, is_download=True, misses=0, first_file=number, more_files=addresses[1:])
    return FollowUp(wire, open_with(download))


class ResultReader:
    """Implements `AnswerReader`. A file is passed on in chunks; a document is read when it is complete."""

    grace_s: float | None = None
    usage = NO_USAGE

    def __init__(self, exchange: Exchange, status: int, headers: Mapping[str, str]) -> None:
        self._headers = {name.lower(): value for name, value in headers.items()}
        self._exchange = replace(exchange, provider=exchange.provider or read_provider(self._headers))
        self._status = status
        self._is_success = is_success(status)
        self._form = _Form.UNKNOWN
        self._body = bytearray()
        self._size = 0
        self._media_type = ""
        self._error: UpstreamError | None = None
        self._has_started = exchange.first_file > 0 or exchange.told is not None

    @property
    def is_over(self) -> bool:
        """Whether further bytes have no effect."""
        return self._error is not None or (not self._is_success and self._size >= MAX_ERROR_BYTES)

    def feed(self, chunk: bytes) -> list[Progress]:
        """The events that `chunk` completes."""
        if self.is_over or not chunk:
            return []
        self._size += len(chunk)
        if not self._is_success:
            self._body += chunk[: MAX_ERROR_BYTES - len(self._body)]
            return []
        if self._form is _Form.FILE:
            if self._size <= MAX_FILE_BYTES:
                return list(self._hand_on(chunk, self._exchange.first_file, self._media_type))
            self._error = TOO_LARGE
            return []
        self._body += chunk
        progress = self._recognise(is_whole=False) if self._form is _Form.UNKNOWN else []
        if self._form is _Form.DOCUMENT and self._size > MAX_BODY_BYTES:
            self._error = TOO_LARGE
        return progress

    def finish(self, *, cut: UpstreamError | None = None) -> list[Last]:
        """The remaining events. The last item is a `Completed`, a `Failure` or a `FollowUp`."""
        if not self._is_success:
            now = datetime.now(UTC)
            return [self._give_up(self._exchange.judge(self._status, self._headers, bytes(self._body), now=now))]
        events: list[Last] = []
        if self._form is _Form.UNKNOWN and self._error is None:
            events += self._recognise(is_whole=True)
        if self._form is _Form.FILE:
            return [*events, *self._finish_file(self._error or cut)]
        if self._error is None and not bytes(self._body).strip(BLANK):
            self._error = cut or EMPTY
        if self._error is not None:
            return [*events, self._give_up(self._error)]
        return [*events, *self._read_document(cut)]

    def _recognise(self, *, is_whole: bool) -> list[Progress]:
        """Decide between file and document by the first bytes, since the declared type may be wrong."""
        if len(self._body) < DETECTED_BYTES and not is_whole:
            return []
        wanted = FILE_TASKS.get(self._exchange.call.task, "image/" if self._exchange.is_download else None)
        head = bytes(self._body[:DETECTED_BYTES])
        found = detect(head)
        if found is None and head.lstrip(BLANK)[:1] not in (b"", b"{", b"[", b"<", b'"'):
            found = media_type_of(self._headers.get("content-type", ""))
        if wanted is None or found is None or not found.startswith(wanted):
            self._form = _Form.DOCUMENT
            return []
        self._form, self._media_type = _Form.FILE, found
        body, self._body = bytes(self._body), bytearray()
        return list(self._hand_on(body, self._exchange.first_file, found))

    def _hand_on(self, data: bytes, number: int, media_type: str) -> Iterator[Progress]:
        yield from self._start()
        yield from in_chunks(data, number, media_type)

    def _start(self) -> Iterator[Started]:
        if not self._has_started:
            self._has_started = True
            yield Started(self._exchange.model, self._exchange.provider)

    def _finish_file(self, error: UpstreamError | None) -> list[Last]:
        if error is not None:
            return [self._give_up(error)]
        if self._exchange.more_files:
            return [fetch_files(self._exchange, self._exchange.first_file + 1, self._exchange.more_files)]
        return list(self._complete({}))

    def _read_document(self, cut: UpstreamError | None) -> list[Last]:
        if bytes(self._body).lstrip(BLANK).startswith(b"<"):
            return [self._give_up(WEB_PAGE)]
        try:
            document = parse_json(bytes(self._body))
        except Unintelligible:
            return [self._give_up(cut or GARBLED)]
        try:
            return list(self._interpret(document))
        except Unintelligible:
            return [self._give_up(UNKNOWN_SHAPE)]
        except JobFailed as failed:
            return [self._give_up(failed.error)]

    def _interpret(self, document: Any) -> Iterator[Last]:
        """All errors of the document are found before its first event."""
        first = document[0] if isinstance(document, list) and document else document
        if self._exchange.is_download:
            raise Unintelligible  # a document in place of a file
        exchange = self._exchange
        if (poll := find_poll(document, exchange.base_url, polled=exchange.asked)) is not None:
            yield self._ask_again(poll)
        elif isinstance(first, dict) and is_error(first):
            yield self._give_up(read_reported(document))
        elif exchange.call.task in FILE_TASKS:
            yield from self._take_files(document)
        else:
            yield from self._take_result(read_result(exchange.call, document), document)

    def _take_result(self, result: Result, document: Any) -> Iterator[Last]:
        data, did_replace = clean_all(result.data)
        if did_replace:
            data["cleaned"] = True
        yield from self._start()
        for number, file in enumerate(result.files):
            yield from self._hand_on(file.data, number, file.content_type)
        if text := data.get("output"):
            yield Delta(text)
        usage = document.get("usage") if isinstance(document, dict) else None
        yield from self._complete(data, read_usage(usage))

    def _take_files(self, document: Any) -> Iterator[Last]:
        """The files in the document first, then those at addresses, one by one."""
        files = find_files(document)
        inline = [file for file in files if not isinstance(file, str)]
        wanted = FILE_TASKS[self._exchange.call.task]
        if any(not file.content_type.startswith(wanted) for file in inline):
            raise Unintelligible
        addresses = tuple(file for file in files if isinstance(file, str))
        fetch = fetch_files(self._exchange, len(inline), addresses) if addresses else None
        for number, file in enumerate(inline):
            yield from self._hand_on(file.data, number, file.content_type)
        if fetch is None:
            yield from self._complete({})
        else:
            yield fetch

    def _ask_again(self, poll: WireRequest) -> FollowUp:
        """Poll a job at growing intervals, as long as the try lasts."""
        is_new = poll != self._exchange.asked
        pause_s = FIRST_PAUSE_S if is_new else min(MAX_PAUSE_S, self._exchange.pause_s * PAUSE_GROWTH)
        return FollowUp(poll, open_with(replace(self._exchange, asked=poll, pause_s=pause_s, misses=0)), pause_s)

    def _give_up(self, error: UpstreamError) -> Failure | FollowUp:
        """Repeat free requests. A job that a provider has begun is not started again within this try."""
        exchange = self._exchange
        if exchange.asked is not None and self._can_ask_again(error):
            again = replace(exchange, misses=exchange.misses + 1)
            return FollowUp(exchange.asked, open_with(again), max(exchange.pause_s, error.retry_after_s or 0.0))
        if self._has_started or exchange.asked is not None:
            error = replace(error, max_retries=0, is_model_missing=False, is_stale=False)
        if exchange.told is None:
            return Failure(error, model=exchange.model)
        return Failure(error, {**exchange.told.output_data, "partial": True}, exchange.told.usage, exchange.told.model)

    def _can_ask_again(self, error: UpstreamError) -> bool:
        """Not after the first bytes of a file."""
        return error.is_transient and self._form is not _Form.FILE and self._exchange.misses < MAX_MISSES

    def _complete(self, data: dict[str, Any], usage: Usage = NO_USAGE) -> Iterator[Last]:
        yield from self._start()
        if self._exchange.told is not None:
            yield self._exchange.told
            return
        if self._exchange.provider is not None:
            data["provider"] = self._exchange.provider
        yield Completed(data, usage, self._exchange.model)
