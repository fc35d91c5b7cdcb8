"""Lists of texts in several calls, one after the other, for providers that take fewer texts than users send."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.inference.events import Call, Started, Task
from server.inference.protocol.exchange import AnswerReader, FollowUp, OpenReader, Progress
from server.inference.protocol.faults import Failure, UpstreamError
from server.inference.protocol.forms import Build, KnownForms, Steps
from server.inference.protocol.result_reader import MAX_MISSES, TOO_LARGE, UNKNOWN_SHAPE
from server.inference.protocol.usage import read_count
from server.inference.protocol.wire import WireRequest
from server.model_request import Completed, Usage

_LISTS = {Task.FEATURE_EXTRACTION: "text", Task.SENTENCE_SIMILARITY: "sentences"}
"""The field of the input that may be a long list, by task."""
_PAUSE_S = 1.0
_MAX_PAUSE_S = 10.0
"""Before a part of the list is asked for again, after a failure."""
MAX_NUMBERS = 4 * 1024 * 1024
"""Numbers of a result in parts: 2,048 vectors of 2,048 numbers, in about 250 MB of memory and 45 MB of JSON."""
TOO_MANY_NUMBERS = UpstreamError("The vectors of all texts would be larger than a result may be: send fewer texts.")
_CONTENT_TOO_LARGE = 413
_REFUSALS = frozenset({400, 422, 424})
_TOO_MANY = re.compile(
    r"\bbatch|too many|array\b.{0,20}too long|number of (?:texts|inputs|items|documents|strings)"
    r"|(?:at most|up to|maximum of|more than) \d+ (?!tokens|characters)",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"(?:max|most|limit|larger|more|greater|exceed|up to|>)\D{0,40}(\d{1,6})", re.IGNORECASE)


def is_list(call: Call) -> bool:
    """Whether the input is a list that may be asked for in parts."""
    return isinstance(call.input_data.get(_LISTS.get(call.task, "")), list)


def ask_in_batches(
    call: Call, model: str, known: KnownForms, *, build: Build, read: Callable[[Call], OpenReader]
) -> tuple[WireRequest, OpenReader]:
    """The request for the first part of a list. Its reader asks for the others, and joins the results in order.

    A part has as many texts as the model takes, as far as known. If a provider refuses a part as too long, the number
    that its message names is used, or else half. All this belongs to one attempt.
    """
    batches = _Batches(call, model, known, build, read, known.find(model).max_texts)
    return build(batches.part), batches.wrap(read(batches.part))


@dataclass(frozen=True, slots=True)
class _Batches:
    """The state of a list: the results of its first parts, and the size of the next one.

    `misses`: transient failures of the current part in a row.
    """

    call: Call
    model: str
    known: KnownForms
    build: Build
    read: Callable[[Call], OpenReader]
    size: int
    results: tuple[Completed, ...] = ()
    done: int = 0
    misses: int = 0

    @property
    def part(self) -> Call:
        """The call for the next part."""
        name = _LISTS[self.call.task]
        texts = self.call.input_data[name][self.done : self.done + self.size]
        return replace(self.call, input_data={**self.call.input_data, name: texts})

    @property
    def count(self) -> int:
        """Texts of the next part."""
        return min(self.size, self._total - self.done)

    @property
    def _total(self) -> int:
        return len(self.call.input_data[_LISTS[self.call.task]])

    def wrap(self, read: OpenReader) -> OpenReader:
        def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
            return _BatchReader(read(status, headers), self)

        return open_reader

    def after(self, result: Completed) -> "Completed | FollowUp | Failure":
        """The result of the whole list, or the request for its next part."""
        if self.size < self.known.find(self.model).max_texts:
            self.known.record(self.model, replace(self.known.find(self.model), max_texts=self.size))
        results, done = (*self.results, result), self.done + self.count
        if done < self._total:
            if _count_numbers(result.output_data) * self._total > MAX_NUMBERS * self.count:
                return Failure(TOO_MANY_NUMBERS, model=result.model)
            return replace(self, results=results, done=done, misses=0).follow(is_next_part=True)
        data = _join([result.output_data for result in results])
        if data is None:
            return Failure(UNKNOWN_SHAPE, model=result.model)
        return Completed(data, _sum([result.usage for result in results]), result.model)

    def after_failure(self, failure: Failure) -> Failure | FollowUp:
        """The same part in a smaller size or, within a list that has begun, once more."""
        error = failure.error
        if (size := self._smaller(error)) is not None:
            return replace(self, size=size).follow()
        pause_s = error.retry_after_s or _PAUSE_S
        if not self.results or not error.is_transient or self.misses >= MAX_MISSES or pause_s > _MAX_PAUSE_S:
            return failure
        return replace(self, misses=self.misses + 1).follow(pause_s=pause_s)

    def follow(self, *, pause_s: float = 0.0, is_next_part: bool = False) -> FollowUp:
        """The request for the next part."""
        return FollowUp(self.build(self.part), self.wrap(self.read(self.part)), pause_s, is_next_part)

    def _smaller(self, error: UpstreamError) -> int | None:
        """The size to try after a refusal; None if the size was not the reason."""
        is_refused = error.status in _REFUSALS and _TOO_MANY.search(error.message) is not None
        if self.count < 2 or not (is_refused or error.status == _CONTENT_TOO_LARGE or error == TOO_LARGE):  # noqa: PLR2004
            return None
        named = (int(number) for number in _LIMIT.findall(error.message))
        return next((number for number in named if 0 < number < self.count), self.count // 2)


class _BatchReader:
    """Implements `AnswerReader` with the reader of one part. The first event of the list comes with its result."""

    def __init__(self, reader: AnswerReader, batches: _Batches) -> None:
        self._reader = reader
        self._batches = batches

    @property
    def grace_s(self) -> float | None:
        return self._reader.grace_s

    @property
    def usage(self) -> Usage:
        return self._reader.usage

    @property
    def is_over(self) -> bool:
        return self._reader.is_over

    def feed(self, chunk: bytes) -> list[Progress]:
        """Nothing: a result comes as a whole."""
        self._reader.feed(chunk)
        return []

    def finish(self, *, cut: UpstreamError | None = None) -> Steps:
        steps = self._reader.finish(cut=cut)
        last = steps[-1]
        if isinstance(last, FollowUp):  # of the part itself, such as the call after the search for the model's id
            return [replace(last, read=self._batches.wrap(last.read))]
        if isinstance(last, Failure):
            return [self._batches.after_failure(last)]
        if not isinstance(last, Completed):
            return steps
        whole = self._batches.after(last)
        started = [step for step in steps if isinstance(step, Started)]
        return [*started, whole] if isinstance(whole, Completed) else [whole]


def _join(results: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The lists of all results, one after the other; None if the results are not of one kind."""
    joined: dict[str, Any] = dict(results[0])
    for name in _names_of_lists(joined):
        joined[name] = [item for result in results for item in result.get(name, ())]
    are_alike = all(_names_of_lists(result) == _names_of_lists(joined) for result in results)
    return joined if are_alike else None


def _names_of_lists(result: Mapping[str, Any]) -> set[str]:
    return {name for name, value in result.items() if isinstance(value, list)}


def _count_numbers(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_count_numbers, value.values()))
    if isinstance(value, list) and value:
        return sum(map(_count_numbers, value)) if isinstance(value[0], list) else len(value)
    return 0


def _sum(usages: list[Usage]) -> Usage:
    """The counts of all parts. Embeddings have no details."""
    return Usage(
        _add([usage.token_used for usage in usages]),
        _add([usage.token_count for usage in usages]),
        _add([usage.prompt for usage in usages]),
    )


def _add(counts: list[int | None]) -> int | None:
    """The sum; None if one of the counts is unknown."""
    known = [count for count in counts if count is not None]
    return read_count(sum(known)) if len(known) == len(counts) else None
