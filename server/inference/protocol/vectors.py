"""Vectors and scores: lists of numbers whose depth differs by model and by provider."""

import math
from typing import Any

from server.inference.protocol.texts import Unintelligible


def read_scores(document: Any) -> list[float]:
    """`[float]`, also nested once, or in a field."""
    if isinstance(document, dict):
        document = document.get("similarities") or document.get("scores")
    if isinstance(document, list) and len(document) == 1 and isinstance(document[0], list):
        document = document[0]
    return _vector(document)


def read_vectors(document: Any, *, count: int | None) -> dict[str, Any]:
    """`embedding` of one text, `embeddings` of a list of `count`; `token_embeddings` where tokens were not pooled.

    OpenAI's `{"data": [{index, embedding}]}` need not be in order, but each index is there once. A list of numbers may
    be wrapped up to three times. A list that is not as long as that of the texts says of none which is its own.
    """
    texts = _by_index(document["data"]) if isinstance(document, dict) and "data" in document else _by_text(document)
    if count is not None and count > 1:
        texts = _without_wrapping(texts)
    vectors = [_without_wrapping(text) for text in ([texts] if count is None else texts)]
    if count is not None and len(vectors) != count:
        raise Unintelligible
    if all(_depth(text) == 1 for text in vectors):
        checked = [_vector(text) for text in vectors]
        return {"embedding": checked[0]} if count is None else {"embeddings": checked}
    return {"token_embeddings": [[_vector(token) for token in _tokens(text)] for text in vectors]}


def _by_index(entries: Any) -> list[Any]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unintelligible
    places = [entry["index"] for entry in entries if entry.get("index") is not None]
    if places:  # without any, they are in order
        if set(map(type, places)) != {int} or sorted(places) != list(range(len(entries))):
            raise Unintelligible
        entries = sorted(entries, key=lambda entry: entry["index"])
    return [entry.get("embedding") for entry in entries]


def _by_text(document: Any) -> Any:
    if isinstance(document, dict):
        document = document.get("embeddings") or document.get("embedding")
    if not isinstance(document, list) or not document:
        raise Unintelligible
    return [document] if _depth(document) == 1 else document


def _without_wrapping(text: Any) -> Any:
    while isinstance(text, list) and len(text) == 1 and isinstance(text[0], list):
        text = text[0]
    return text


def _tokens(text: Any) -> list[Any]:
    if not isinstance(text, list) or not text:
        raise Unintelligible
    return [text] if _depth(text) == 1 else text


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _vector(value: Any) -> list[float]:
    if not isinstance(value, list) or not value:
        raise Unintelligible
    if not set(map(type, value)) <= {int, float}:
        raise Unintelligible
    try:
        numbers = list(map(float, value))
    except OverflowError:
        raise Unintelligible from None
    if not all(map(math.isfinite, numbers)):
        raise Unintelligible
    return numbers
