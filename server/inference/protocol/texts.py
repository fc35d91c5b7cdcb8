"""Cleans text and JSON of upstream: removes values that Postgres cannot store and users must not see."""

import json
import re
from typing import Any

import orjson

MAX_WORDS = 500
"""Maximum length of upstream's message in an error message."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH_SURROGATE = re.compile("[\ud800-\udbff]$")
_HTML = re.compile(r"<(?:!doctype|/?(?:html|head|body|title|h\d|p|div|span|center|script|style|pre)\b)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SPACES = re.compile(r"\s+")
_SECRETS = re.compile(
    r"\bhf_(?:[a-z0-9]{16,}|(?=[a-z]*\d)[a-z0-9]{6,})"
    r"|\bsk-[a-z0-9_-]{16,}|\bgsk_[a-z0-9]{16,}"
    r"|\beyJ[a-z0-9_-]+\.[a-z0-9_-]+\.[a-z0-9_-]*"
    r"|(?<=bearer )[a-z0-9._~+/=-]{12,}",
    re.IGNORECASE,
)
_USER_NAME = re.compile(r"(?<=\bon behalf of user)\s+\S+", re.IGNORECASE)
_lenient = json.JSONDecoder(strict=False)


class Unintelligible(Exception):
    """Not JSON, or JSON of an unknown shape."""


def parse_json(data: bytes) -> Any:
    """Parse JSON leniently: lone surrogates, NaN, raw control characters and invalid UTF-8 are accepted.

    Raises `Unintelligible`.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return _lenient.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise Unintelligible from None


def clean(text: str) -> str:
    """`text` with U+FFFD for each NUL and each lone surrogate; halves that belong together are joined."""
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", REPLACEMENT)


class Cleaner:
    """`clean` for a text in pieces, which may split a pair of surrogates."""

    def __init__(self) -> None:
        self._held = ""
        self.did_replace = False

    def feed(self, piece: str) -> str:
        if piece.isascii() and not self._held and "\0" not in piece:
            return piece  # nearly always, and in a fraction of the time
        piece = self._held + piece
        self._held = ""
        if _HIGH_SURROGATE.search(piece):
            piece, self._held = piece[:-1], piece[-1]
        return self._clean(piece)

    def whole(self, text: str) -> str:
        """A text in one piece."""
        return self.feed(text) + self.flush()

    def flush(self) -> str:
        """The half pair that was held back."""
        piece, self._held = self._held, ""
        return self._clean(piece)

    def _clean(self, piece: str) -> str:
        cleaned = clean(piece)
        self.did_replace |= cleaned.count(REPLACEMENT) != piece.count(REPLACEMENT)
        return cleaned


def clean_all(value: Any) -> tuple[Any, bool]:
    """`value` with every text in it cleaned, names included, and whether that changed anything."""
    cleaner = Cleaner()
    return _clean_inside(value, cleaner), cleaner.did_replace


def _clean_inside(value: Any, cleaner: Cleaner) -> Any:
    match value:
        case str():
            return cleaner.whole(value)
        case dict():
            return {cleaner.whole(name): _clean_inside(item, cleaner) for name, item in value.items()}
        case [str() | dict() | list(), *_]:
            return [_clean_inside(item, cleaner) for item in value]
    return value  # numbers and vectors contain no text


def is_html(text: str) -> bool:
    return _HTML.search(text) is not None


def to_words(text: str) -> str:
    """Upstream's text as part of a sentence for users: one line, at most `MAX_WORDS`, without secrets; "" for HTML."""
    if is_html(text):
        return ""
    text = _SPACES.sub(" ", _CONTROL.sub(" ", clean(text[: 8 * MAX_WORDS]))).strip()
    text = _USER_NAME.sub("", _SECRETS.sub("[redacted]", text))
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1].rstrip() + "…"
