"""What a recorded answer of a task beside text says, read independently of the server: from docs/tasks.md."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.fakes.huggingface import body_of
from tests.fakes.reader import Expectation, refusal

IMAGES = frozenset({"text-to-image", "image-to-image"})
FILES = IMAGES | {"text-to-speech"}
OFFERED = FILES | {
    "summarization",
    "translation",
    "fill-mask",
    "text-classification",
    "zero-shot-classification",
    "token-classification",
    "question-answering",
    "table-question-answering",
    "sentence-similarity",
    "feature-extraction",
    "image-classification",
    "object-detection",
    "image-segmentation",
    "image-to-text",
    "automatic-speech-recognition",
    "audio-classification",
}
NOT_OFFERED = {
    "document-question-answering": "not on the router",
    "visual-question-answering": "not on the router",
    "audio-to-audio": "dead on the router",
    "conversational-legacy": "dead; chat-completion takes its place",
    "tabular": "not on the router",
    "tabular-classification": "not on the router",
    "text2text-generation": "its specification was removed",
    "hub-model-info": "what the Hub knows of a model; read by the reader of native ids",
    "hub-model-list": "a list of models; read by the reader of listings",
    "router-models": "a list of models; read by the reader of listings",
}
"""Tasks of recordings that no model type asks for, and why."""


def is_inference(record: Mapping[str, Any]) -> bool:
    """Whether it is the answer to a call of a task: some recordings are of pages that were fetched for one."""
    return str(record.get("request", {}).get("method", "POST")) == "POST"


def read_task(record: Mapping[str, Any]) -> Expectation:
    if (error := refusal(record)) is not None:
        return error
    body, task = body_of(record), record["task"]
    if not body.strip():
        return _outage("empty answer")
    try:
        document = json.loads(body)
        if isinstance(document, dict) and document.get("error"):
            return _outage(str(document["error"])[:100])
        return _made(document) if task in FILES else _storable(_result(document, task))
    except (KeyError, TypeError, IndexError, AttributeError):
        return Expectation(is_ok=False, words="could not be understood")
    except ValueError:
        return _undocumented(record, body)


def _undocumented(record: Mapping[str, Any], body: bytes) -> Expectation:
    """A file, or what nothing could be done with."""
    if record["task"] in FILES and body[:1] not in b"<{[":
        return Expectation(is_ok=True, data={}, files=((_kind(body, record), body),))
    return _outage("web page" if body.lstrip()[:1] == b"<" else "could not be understood")


def _outage(words: str) -> Expectation:
    return Expectation(is_ok=False, is_transient=True, words=words)


def _kind(body: bytes, record: Mapping[str, Any]) -> str:
    """The type that the bytes have, or else the one that was said."""
    starts = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"fLaC": "audio/flac", b"RIFF": "audio/wav"}
    said = {name.lower(): value for name, value in record["response"]["headers"].items()}.get("content-type", "")
    return next((kind for start, kind in starts.items() if body.startswith(start)), said.split(";")[0])


def _made(document: Any) -> Expectation:
    """Files in a document: as base64, at an address, or not made yet."""
    text = json.dumps(document)
    if "b64_json" in text or "data:" in text:
        [place] = [value for value in _strings(document) if len(value) > 40]
        data = base64.b64decode(place.rpartition(",")[2])
        return Expectation(is_ok=True, data={}, files=((_kind(data, {"response": {"headers": {}}}), data),))
    for name in ("polling_url", "response_url"):
        if isinstance(document, dict) and name in document:
            return Expectation(is_ok=True, fetch=document[name])
    kept = {name: value for name, value in document.items() if name not in {"urls", "input", "logs"}}
    addresses = [value for value in _strings(kept) if value.startswith("https://")]
    if addresses:
        return Expectation(is_ok=True, fetch=addresses[0])
    holder = document.get("data", document)
    return Expectation(is_ok=True, fetch=holder["urls"]["get"])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _result(document: Any, task: str) -> Expectation:
    match task:
        case "summarization" | "translation" | "image-to-text" | "automatic-speech-recognition":
            first = _first(document)
            [text] = [first[name] for name in first if name.endswith("_text") or name == "text"]
            chunks = {"chunks": first["chunks"]} if first.get("chunks") else {}
            data: dict[str, Any] = {"output": text, **chunks}
        case "text-classification" | "zero-shot-classification" | "image-classification" | "audio-classification":
            pairs = sorted(_labels(document), key=lambda pair: -pair[1])
            data = {"output": pairs[0][0], "labels": [{"label": label, "score": score} for label, score in pairs]}
        case "fill-mask":
            masks = document if isinstance(document[0], list) else [document]
            names = ("token", "token_str", "sequence", "score")
            found = [{"mask": at, **_picked(item, names)} for at, mask in enumerate(masks) for item in mask]
            data = {"candidates": found} | ({"output": found[0]["sequence"]} if len(masks) == 1 else {})
        case "token-classification":
            names = ("word", "score", "start", "end")
            data = {
                "entities": [
                    {"entity": item.get("entity_group") or item["entity"], **_picked(item, names)} for item in document
                ]
            }
        case "question-answering":
            answers = document if isinstance(document, list) else [document]
            answers = [_picked(item, ("answer", "score", "start", "end")) for item in answers]
            data = {"output": answers[0]["answer"], "answers": answers}
        case "table-question-answering":
            answers = document if isinstance(document, list) else [document]
            answers = [_picked(item, ("answer", "aggregator", "cells", "coordinates")) for item in answers]
            data = {"output": answers[0]["answer"], "answers": answers}
        case "sentence-similarity":
            data = {"scores": [float(score) for score in document]}
        case "feature-extraction":
            return _embedding(document)
        case "object-detection":
            objects = [_picked(item, ("label", "score", "box")) for item in document]
            data = {"objects": sorted(objects, key=lambda item: -item["score"])}
        case "image-segmentation":
            return _segments(document)
        case _:
            raise AssertionError(task)
    return Expectation(is_ok=True, text=data.get("output"), data=data)


def _first(document: Any) -> Any:
    return document[0] if isinstance(document, list) else document


def _storable(expected: Expectation) -> Expectation:
    """With what Postgres cannot store replaced; a number that is none makes the whole unintelligible."""
    text = json.dumps(expected.data)
    if "NaN" in text:
        raise TypeError
    if "\\u0000" not in text:
        return expected
    data = json.loads(text.replace("\\u0000", "\\ufffd")) | {"cleaned": True}
    return replace(expected, data=data, text=data.get("output"))


def _picked(item: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: item.get(name) for name in names}


def _labels(document: Any) -> list[tuple[str, float]]:
    if isinstance(document, dict) and "labels" in document:
        return list(zip(document["labels"], document["scores"], strict=True))
    if isinstance(document, dict):
        return [(document["label"], document["score"])]
    return [pair for item in document for pair in _labels(item)]


def _embedding(document: Any) -> Expectation:
    """Of one text."""
    usage = document.get("usage", {}) if isinstance(document, dict) else {}
    vector = document["data"][0]["embedding"] if isinstance(document, dict) else document
    while len(vector) == 1 and isinstance(vector[0], list):
        vector = vector[0]
    name, value = ("token_embeddings", [vector]) if isinstance(vector[0], list) else ("embedding", vector)
    return Expectation(is_ok=True, data={name: value}, token_used=usage.get("total_tokens"))


def _segments(document: Any) -> Expectation:
    segments = [
        {"label": item["label"], "score": item["score"], "mask": number} for number, item in enumerate(document)
    ]
    files = tuple(("image/png", base64.b64decode(item["mask"])) for item in document)
    return Expectation(is_ok=True, data={"segments": segments}, files=files)
