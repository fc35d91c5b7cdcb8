"""Reasoning inside the text: `<think>…</think>` at its beginning, or harmony's channels, in any chunks."""

import re
from collections.abc import Iterator
from enum import Enum, auto

from server.inference.events import Segment

_OPEN, _CLOSE = "<think>", "</think>"
_HARMONY = ("<|channel|>", "<|start|>")
_BEGINNINGS = (_OPEN, *_HARMONY)
_TOKEN = re.compile(r"<\|(start|channel|constrain|message|end|return|call)\|>")
_HALF_TOKEN = re.compile(r"<(?:\|[a-z]*\|?)?$")

_QUOTES = ("`", "'", '"')

Piece = tuple[str, Segment]


def split_at_close(text: str) -> tuple[str, str] | None:
    """Reasoning and answer of a text with a closing tag only, as templates with the opening tag in the prompt give it.

    None for another text. A tag in quotes or in a block of code is text.
    """
    thought, tag, answer = text.partition(_CLOSE)
    is_quoted = thought.endswith(_QUOTES) or answer.startswith(_QUOTES) or thought.count("```") % 2 == 1
    if not tag or is_quoted or _OPEN in thought:
        return None
    return thought.strip(), answer.lstrip()


class _Place(Enum):
    BEGINNING = auto()
    OPENED = auto()
    THOUGHT = auto()
    CLOSED = auto()
    ANSWER = auto()


class ThoughtSplitter:
    """Separates reasoning at the beginning of a text from the answer; a later tag is text.

    Blanks around the thoughts belong to neither. Text that may begin a tag is held back until more text decides.
    A text that begins with a token of harmony is read as harmony (gpt-oss without its parser).
    """

    def __init__(self) -> None:
        self._place = _Place.BEGINNING
        self._held = ""
        self._has_tag = False
        self._harmony: _Harmony | None = None

    @property
    def is_past(self) -> bool:
        """Whether all further text is the answer, and nothing is held back."""
        return self._place is _Place.ANSWER

    @property
    def has_found(self) -> bool:
        """Whether the text began with reasoning, perhaps an empty one."""
        return self._harmony is not None or self._has_tag

    def feed(self, text: str) -> list[Piece]:
        text, self._held = self._held + text, ""
        pieces = self._split(text) if self._harmony is None else self._harmony.split(text)
        return [piece for piece in pieces if piece[0]]

    def flush(self) -> list[Piece]:
        """The text that was held back; nothing is fed afterwards."""
        text, self._held = self._held, ""
        if self._harmony is not None:
            return self._harmony.flush()
        match self._place:
            case _Place.BEGINNING if text:
                return [(text, Segment.OUTPUT)]
            case _Place.THOUGHT if text.rstrip():
                return [(text.rstrip(), Segment.REASONING)]
        return []

    def _split(self, text: str) -> Iterator[Piece]:
        if self._place is _Place.BEGINNING:
            text = self._begin(text)
        if self._harmony is not None:
            yield from self._harmony.split(text)
            return
        if self._place is _Place.OPENED and (text := text.lstrip()):
            self._place = _Place.THOUGHT
        if self._place is _Place.THOUGHT:
            thought, text = self._take_thought(text)
            yield thought, Segment.REASONING
        if self._place is _Place.CLOSED and (text := text.lstrip()):
            self._place = _Place.ANSWER
        if self._place is _Place.ANSWER:
            yield text, Segment.OUTPUT

    def _begin(self, text: str) -> str:
        """The text after the opening tag, or all text if there is no tag; nothing until that is known."""
        start = text.lstrip()
        if start.startswith(_OPEN):
            self._place, self._has_tag = _Place.OPENED, True
            return start.removeprefix(_OPEN)
        if start.startswith(_HARMONY):
            self._harmony = _Harmony()
            return start
        if any(beginning.startswith(start) for beginning in _BEGINNINGS):
            self._held = text
            return ""
        if split_at_close(text) is not None:
            self._place, self._has_tag = _Place.OPENED, True
            return start
        self._place = _Place.ANSWER
        return text

    def _take_thought(self, text: str) -> tuple[str, str]:
        """The part of `text` that is certainly reasoning, and the text after the closing tag."""
        thought, tag, rest = text.partition(_CLOSE)
        if tag:
            self._place = _Place.CLOSED
            return thought.rstrip(), rest
        half = next((size for size in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:size])), 0)
        sure = text[: len(text) - half].rstrip()
        self._held = text[len(sure) :]
        return sure, ""


class _Harmony:
    """Messages of OpenAI's harmony format: a header with the channel, `<|message|>`, and the text.

    The channels `analysis` and `commentary` are reasoning; all others are the answer.
    """

    def __init__(self) -> None:
        self._held = ""
        self._header = ""
        self._segment: Segment | None = None

    def split(self, text: str) -> Iterator[Piece]:
        text, self._held = self._held + text, ""
        if half := _HALF_TOKEN.search(text):
            text, self._held = text[: half.start()], half[0]
        for number, part in enumerate(_TOKEN.split(text)):
            if number % 2:
                self._take_token(part)
            elif self._segment is not None:
                yield part, self._segment
            else:
                self._header += part

    def flush(self) -> list[Piece]:
        """The text that was held back; a header without a message is the answer."""
        if self._segment is not None:
            return [(self._held, self._segment)] if self._held else []
        text = self._header + self._held
        return [(text, Segment.OUTPUT)] if text.strip() else []

    def _take_token(self, name: str) -> None:
        if name == "constrain":
            return  # the rest of the header names a format
        is_thought = self._header.lstrip().startswith(("analysis", "commentary"))
        self._segment = None if name != "message" else Segment.REASONING if is_thought else Segment.OUTPUT
        self._header = ""
