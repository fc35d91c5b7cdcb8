"""Finds the files of a document: in the document itself, or at addresses."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from server.inference.protocol.inline import InlineFile, read_base64
from server.inference.protocol.providers import PROVIDERS
from server.inference.protocol.texts import Unintelligible

MAX_FILES = 8
_MAX_DEPTH = 3


def _union(groups: Iterable[tuple[str, ...]], *others: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*itertools.chain.from_iterable(groups), *others)))


_HOLDERS = _union((provider.holders for provider in PROVIDERS.values()), "result")
_FILE_FIELDS = _union((provider.file_fields for provider in PROVIDERS.values()), "image", "audio", "sample", "blob")
"""The providers' fields in their order, then those of Black Forest Labs and of older pipelines."""


def find_files(document: Any) -> list[InlineFile | str]:
    """The files of a holder, or else of the document itself, in order; an address is a string.

    Raises `Unintelligible` where there is none.
    """
    found = [] if document is None else list(_search(document))[:MAX_FILES]
    if not found:
        raise Unintelligible
    return [_file(text, content_type) for text, content_type in found]


def _search(document: Any) -> Iterator[tuple[str, str]]:
    if isinstance(document, dict):
        for holder in _HOLDERS:
            if document.get(holder):
                yield from _entries(document[holder])
                return
    yield from _entries(document)


def _entries(value: Any, *, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Entries to the depth that providers use."""
    if depth > _MAX_DEPTH:
        return
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, str):
            yield entry, ""
        elif isinstance(entry, dict):
            content_type = entry.get("content_type") or entry.get("content-type")
            inner = next((entry[name] for name in _FILE_FIELDS if entry.get(name)), None)
            if isinstance(inner, str):
                yield inner, content_type if isinstance(content_type, str) else ""
            elif inner is not None:
                yield from _entries(inner, depth=depth + 1)
            elif "outputs" in entry:  # wavespeed wraps in `data`
                yield from _entries(entry["outputs"] or [], depth=depth + 1)


def _file(text: str, content_type: str) -> InlineFile | str:
    if text.startswith(("https://", "http://")):
        return text
    return read_base64(text, content_type=content_type)
