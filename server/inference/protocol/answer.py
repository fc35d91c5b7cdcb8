"""The answer as it grows: text, reasoning, tool calls, images and usage of the first choice."""

import contextlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from server.inference.events import REFUSAL, Delta, Segment
from server.inference.protocol.media import MAX_FILES, InlineFile, find_files
from server.inference.protocol.texts import Cleaner, clean, clean_all
from server.inference.protocol.thinking import ThoughtSplitter, split_at_close
from server.inference.protocol.tool_calls import ToolCalls
from server.inference.protocol.usage import add_counts, latest, read_count, read_usage
from server.model_request import NO_USAGE, Usage

_OPENAI_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""OpenAI's names; its deprecated `function_call` is `tool_calls` here."""
_FINISH = {
    **{reason.replace("_", ""): reason for reason in _OPENAI_REASONS},
    **dict.fromkeys(("eostoken", "eos", "stopsequence", "endturn", "endofturn", "stoptoken", "complete"), "stop"),
    **dict.fromkeys(("maxtokens", "maxlength", "maxoutputtokens", "modellength", "maxnewtokens"), "length"),
    **dict.fromkeys(("lengthlimit", "tokenlimit", "maxcompletiontokens", "modelcontextwindowexceeded"), "length"),
    **dict.fromkeys(("toolcall", "tooluse", "functioncall"), "tool_calls"),
    **dict.fromkeys(("safety", "refusal", "sensitive", "moderation", "contentmoderated"), "content_filter"),
    **dict.fromkeys(("recitation", "prohibitedcontent", "blocklist", "spii", "imagesafety"), "content_filter"),
    **dict.fromkeys(("null", "none"), ""),
}
"""Reasons of TGI, Anthropic, Google, Zhipu and others, in the form of `letters_of`, by OpenAI's names. "" is none."""


def letters_of(reason: str) -> str:
    """`MAX_TOKENS`, `max-tokens` and `maxTokens` are one reason."""
    return "".join(filter(str.isalpha, reason.lower()))


class Answer:
    """Collects the pieces of one answer, and returns new text as deltas."""

    def __init__(self, *, splits_thoughts: bool = False) -> None:
        self.usage = NO_USAGE
        self.finish_reason: str | None = None
        self.tool_calls = ToolCalls()
        self.images: list[InlineFile] = []
        """Images that were not taken yet."""
        self.addresses: dict[str, None] = {}
        """Addresses of further images, in their order."""
        self.has_text = False
        self.size = 0
        """Characters of text and of arguments, and bytes of probabilities and images."""
        self._logprobs: dict[str, list[bytes]] = {}
        self._is_refusal = False
        self._fresh: list[Delta] = []
        self._seen: set[bytes] = set()
        self._texts: dict[Segment, list[str]] = {segment: [] for segment in (Segment.OUTPUT, Segment.REASONING)}
        self._cleaners = {segment: Cleaner() for segment in self._texts}
        self._splits_thoughts = splits_thoughts
        self._thoughts = ThoughtSplitter() if splits_thoughts else None

    @property
    def is_empty(self) -> bool:
        return not (self.has_text or self.tool_calls or self._seen or self.addresses)

    def add(self, text: str, segment: Segment = Segment.OUTPUT) -> None:
        if not text:
            return
        self.has_text = True
        if segment is not Segment.OUTPUT or self._thoughts is None:
            self._clean(text, segment)
            return
        for piece, place in self._thoughts.feed(text):
            self._clean(piece, place)
        if self._thoughts.is_past:
            self._splits_thoughts = not self._thoughts.has_found  # else a second closing tag is text
            self._thoughts = None

    def add_refusal(self, text: str) -> None:
        """Add text of the model's refusal to answer. After text of an answer it is more of that."""
        self._is_refusal |= bool(text) and not self.has_text
        self.add(text)

    def add_calls(self, pieces: Any) -> None:
        """Add the `tool_calls` of a message or of a delta. Raises `Unintelligible` for too many."""
        deltas = list(self.tool_calls.add(pieces))
        self.size += sum(len(delta.text) for delta in deltas)
        self._fresh += deltas

    def add_images(self, images: Any) -> None:
        """Add images in base64 or at addresses: the first `MAX_FILES`, each once. Raises `Unintelligible`."""
        for image in find_files(images):
            if len(self._seen) + len(self.addresses) == MAX_FILES:
                return
            if isinstance(image, str):
                self.addresses[image] = None
            elif (digest := sha256(image.data).digest()) not in self._seen:
                self._seen.add(digest)
                self.size += len(image.data)
                self.images.append(image)

    def add_logprobs(self, given: Any) -> None:
        """Join the lists of the tokens' probabilities: `content` of a chat, several lists of a completion.

        They are kept as JSON until the end, since there may be megabytes of them.
        """
        for name, values in given.items() if isinstance(given, dict) else ():
            if isinstance(values, list) and values:
                with contextlib.suppress(orjson.JSONEncodeError):
                    cleaned, _ = clean_all(orjson.loads(orjson.dumps(values)))
                    piece = orjson.dumps(cleaned)[1:-1]
                    self.size += len(piece)
                    self._logprobs.setdefault(clean(name), []).append(piece)

    def take(self) -> list[Delta]:
        """The deltas since the last call."""
        deltas, self._fresh = self._fresh, []
        return deltas

    def flush(self, *, is_complete: bool) -> None:
        """Release text that was held back; nothing is added afterwards.

        A complete answer with a closing tag only is split here: its parts then differ from the deltas.
        """
        for piece, place in self._thoughts.flush() if self._thoughts is not None else ():
            self._clean(piece, place)
        for segment, cleaner in self._cleaners.items():
            self._emit(cleaner.flush(), segment)
        self._fresh += self.tool_calls.flush(is_complete=is_complete)
        if is_complete and self._splits_thoughts and not self._texts[Segment.REASONING]:
            parts = split_at_close("".join(self._texts[Segment.OUTPUT]))
            if parts is not None:
                self._texts = {Segment.REASONING: [parts[0]], Segment.OUTPUT: [parts[1]]}

    def finish(self, reason: Any) -> None:
        """Note why the generation ended, if `reason` says so."""
        if isinstance(reason, str) and reason:
            self.finish_reason = clean(_FINISH.get(letters_of(reason), reason))[:64] or None

    def count(self, usage: Any) -> None:
        """Keep the latest usage in OpenAI's shape: some providers send a growing one with every chunk.

        Zeros do not replace counts: some send a chunk with placeholders at the end. Some send prompt and completion in
        chunks of their own.
        """
        if isinstance(usage, dict):
            self.usage = latest(read_usage(usage), self.usage)

    def count_details(self, details: Mapping[str, Any]) -> None:
        """Keep TGI's counts; the count of the prompt may be missing."""
        generated = read_count(details.get("generated_tokens"))
        self.usage = Usage(add_counts(details.get("input_length"), generated), generated)

    def as_data(self, *, provider: str | None, is_partial: bool) -> dict[str, Any]:
        """`output_data` of the HTTP contract."""
        data: dict[str, Any] = {"output": "".join(self._texts[Segment.OUTPUT])}
        if not is_partial or self.finish_reason is not None:
            data["finish_reason"] = self.finish_reason
        if reasoning := "".join(self._texts[Segment.REASONING]):
            data["reasoning"] = reasoning
        if self.tool_calls:
            data["tool_calls"] = self.tool_calls.as_data()
        if self._logprobs:
            data["logprobs"] = {
                name: orjson.loads(b"[%b]" % b",".join(pieces)) for name, pieces in self._logprobs.items()
            }
        if self._is_refusal:
            data["refused"] = True
        if provider is not None:
            data["provider"] = provider
        if self.tool_calls.did_replace or any(cleaner.did_replace for cleaner in self._cleaners.values()):
            data["cleaned"] = True
        if is_partial:
            data["partial"] = True
        return data

    def _clean(self, text: str, segment: Segment) -> None:
        self._emit(self._cleaners[segment].feed(text), segment)

    def _emit(self, text: str, segment: Segment) -> None:
        if text:
            self.size += len(text)
            self._texts[segment].append(text)
            is_refusal = self._is_refusal and segment is Segment.OUTPUT
            self._fresh.append(Delta(text, segment, name=REFUSAL) if is_refusal else Delta(text, segment))
