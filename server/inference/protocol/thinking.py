"""Reasoning inside the text: `<think>…</think>` at its beginning, in any chunks."""

from collections.abc import Iterator
from enum import Enum, auto

from server.inference.events import Segment

_OPEN, _CLOSE = "<think>", "</think>"

Piece = tuple[str, Segment]


class _Place(Enum):
    BEGINNING = auto()
    OPENED = auto()
    THOUGHT = auto()
    CLOSED = auto()
    ANSWER = auto()


class ThoughtSplitter:
    """Separates reasoning at the beginning of a text from the answer; a later tag is text.

    Blanks around the thoughts belong to neither. Text that may begin a tag is held back until more text decides.
    """

    def __init__(self) -> None:
        self._place = _Place.BEGINNING
        self._held = ""

    @property
    def is_past(self) -> bool:
        """Whether all further text is the answer, and nothing is held back."""
        return self._place is _Place.ANSWER

    def feed(self, text: str) -> list[Piece]:
        text, self._held = self._held + text, ""
        return [piece for piece in self._split(text) if piece[0]]

    def flush(self) -> list[Piece]:
        """The text that was held back; nothing is fed afterwards."""
        text, self._held = self._held, ""
        match self._place:
            case _Place.BEGINNING if text:
                return [(text, Segment.OUTPUT)]
            case _Place.THOUGHT if text.rstrip():
                return [(text.rstrip(), Segment.REASONING)]
        return []

    def _split(self, text: str) -> Iterator[Piece]:
        if self._place is _Place.BEGINNING:
            text = self._begin(text)
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
            self._place = _Place.OPENED
            return start.removeprefix(_OPEN)
        if _OPEN.startswith(start):
            self._held = text
            return ""
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
