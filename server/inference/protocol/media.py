"""Where a document has its files: in itself, or at addresses."""

from collections.abc import Iterator
from typing import Any

from server.inference.protocol.inline import InlineFile, read_base64
from server.inference.protocol.texts import Unintelligible

MAX_FILES = 8
_MAX_DEPTH = 3
_HOLDERS = ("images", "image", "audio", "data", "output", "outputs", "result")
"""Where providers put them: fal.ai, together, nscale, replicate, wavespeed, Black Forest Labs, older ones."""
_NAMES = ("url", "image_url", "audio_url", "b64_json", "base64", "image", "audio", "sample", "blob")


def find_files(document: Any) -> list[InlineFile | str]:
    """Those of a holder, else of the document itself, in their order; an address as a string.

    Raises `Unintelligible` where there is none.
    """
    places = [] if document is None else list(_places(document))[:MAX_FILES]
    if not places:
        raise Unintelligible
    return [_file(place, content_type) for place, content_type in places]


def _places(document: Any) -> Iterator[tuple[str, str]]:
    if isinstance(document, dict):
        for holder in _HOLDERS:
            if document.get(holder):
                yield from _entries(document[holder])
                return
    yield from _entries(document)


def _entries(value: Any, *, depth: int = 0) -> Iterator[tuple[str, str]]:
    """What stands deeper than any provider puts it is not looked for."""
    if depth > _MAX_DEPTH:
        return
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, str):
            yield entry, ""
        elif isinstance(entry, dict):
            content_type = entry.get("content_type") or entry.get("content-type")
            inner = next((entry[name] for name in _NAMES if entry.get(name)), None)
            if isinstance(inner, str):
                yield inner, content_type if isinstance(content_type, str) else ""
            elif inner is not None:
                yield from _entries(inner, depth=depth + 1)
            elif "outputs" in entry:  # wavespeed wraps in `data`
                yield from _entries(entry["outputs"] or [], depth=depth + 1)


def _file(place: str, content_type: str) -> InlineFile | str:
    if place.startswith(("https://", "http://")):
        return place
    return read_base64(place, content_type=content_type)
