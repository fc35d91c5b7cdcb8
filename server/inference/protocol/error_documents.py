"""The content of an error document: its words, its kinds, and the names in it. Shapes come from recordings. Pure."""

import codecs
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from server.inference.protocol.texts import Unintelligible, parse_json, to_words

_HOLDERS = ("error", "Error", "Response", "fault", "detail", "message", "errors", "metadata", "raw", "base_resp")
"""Fields that may hold the error as an object, or as JSON in a text: gateways wrap the error of a provider."""
_MAX_LEVELS = 5
_WORDS = (
    "message",
    "Message",
    "msg",
    "detail",
    "error",
    "errors",
    "error_description",
    "error_message",
    "error_msg",
    "ErrorMessage",
    "status_msg",
    "faultstring",
    "raw",
    "description",
    "reason",
    "title",
)
"""Fields of the message for people, in their order."""
_INSIDE = ("msg", "message", "detail", "error")
_PHRASES = frozenset(status.phrase.lower() for status in HTTPStatus) | {"provider returned error", "error"}
_NAME = re.compile(r"[\w.-]*", re.ASCII)
_EVENT = re.compile(rb"^data:[ \t]*(\{.*\})\s*$", re.MULTILINE)


def read_document(body: bytes) -> Any:
    """The JSON of an error, which may be the data of a server-sent event; None for another body."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        return parse_json(body)
    except Unintelligible:
        event = _EVENT.search(body)
    try:
        return None if event is None else parse_json(event[1])
    except Unintelligible:
        return None


def places_of(document: Any, *, levels: int = _MAX_LEVELS) -> list[Mapping[str, Any]]:
    """The objects that describe an error, the inner ones first."""
    while isinstance(document, list) and document:
        document = document[0]
    if isinstance(document, str) and document.lstrip().startswith("{"):
        try:
            document = parse_json(document.encode("utf-8", "surrogatepass"))
        except Unintelligible:
            return []
    if not isinstance(document, dict) or not levels:
        return []
    held = (document.get(name) for name in _HOLDERS)
    inner = [place for value in held if not isinstance(value, list) for place in places_of(value, levels=levels - 1)]
    return [*inner, document]


def words_of(document: Any) -> str:
    """The message for people; "" if there is none. Bare names and phrases such as "Bad Request" are the last resort."""
    places = places_of(document)
    if not places:
        return to_words(_joined(document))
    found = [words for place in places for name in _WORDS if (words := to_words(_joined(place.get(name))))]
    words = next((words for words in found if not _is_bare(words)), found[0] if found else "")
    return _with_warning(words, places[-1])


def _is_bare(words: str) -> bool:
    return words.lower() in _PHRASES or _NAME.fullmatch(words) is not None


def _joined(found: Any) -> str:
    """A string, a list of strings, FastAPI's list of `{loc, msg}`, an object with a message, or messages by field."""
    if isinstance(found, str):
        return found
    if isinstance(found, dict):
        where = ".".join(map(str, found["loc"])) if isinstance(found.get("loc"), list) else ""
        what = next((found[name] for name in _INSIDE if found.get(name)), None)
        if what is None:
            return "; ".join(f"{name}: {'; '.join(value)}" for name, value in found.items() if _are_texts(value))
        return ": ".join(part for part in (where, what) if isinstance(part, str) and part)
    if isinstance(found, list):
        return "; ".join(filter(None, (_joined(item) for item in found if not isinstance(item, list))))
    return ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _with_warning(words: str, document: Mapping[str, Any]) -> str:
    warnings = document.get("warnings")
    if words != "unknown error" or not isinstance(warnings, list) or not warnings:
        return words
    return to_words(f"{words} ({_joined(warnings[0])})")


def kinds_of(document: Any) -> list[str]:
    """The kinds of error that a document names, in lower case."""
    names = ("code", "type", "error_type", "reason")
    places = places_of(document)
    return [str(place[name]).lower() for place in places for name in names if isinstance(place.get(name), (str, int))]


def name_of(document: Any, pattern: re.Pattern[str], *fields: str) -> str | None:
    """A name for programs in the first of these fields that has one; none that may be a secret."""
    found = (place.get(field) for field in fields for place in places_of(document))
    return next(
        (name for name in found if isinstance(name, str) and pattern.fullmatch(name) and to_words(name) == name), None
    )
