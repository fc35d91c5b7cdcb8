"""Reads the documents of the tasks other than text into the task's form of `output_data`.

Providers and versions differ in wrapping, names and depth; each reader takes all that were recorded or specified.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from server.inference.events import Call, Task
from server.inference.protocol.media import InlineFile, read_base64
from server.inference.protocol.texts import Unintelligible
from server.inference.protocol.vectors import read_scores, read_vectors

_TEXT_NAMES = ("summary_text", "translation_text", "generated_text", "text", "transcription", "translation")


class Result(NamedTuple):
    """`data` for `output_data`, and the files that it refers to by number."""

    data: dict[str, Any]
    files: tuple[InlineFile, ...] = ()


def read_result(call: Call, document: Any) -> Result:
    """The result of a document. Raises `Unintelligible` for a document without one."""
    read = _READERS.get(call.task)
    if read is None:
        raise Unintelligible
    return read(call, document)


def _text(_: Call, document: Any) -> Result:
    """`[{"summary_text"}]`, with a name that depends on task and model; also replicate's `output`."""
    document = _unwrapped(document)
    if isinstance(document, dict) and document.get("output") is not None:
        document = _unwrapped(document["output"])
    if isinstance(document, dict):
        document = next((document[name] for name in _TEXT_NAMES if isinstance(document.get(name), str)), None)
    return Result({"output": _string(document)})


def _transcription(call: Call, document: Any) -> Result:
    """`{"text", "chunks"}`; OpenAI's interface calls the chunks `segments`."""
    data = _text(call, document).data
    chunks = [_spoken(chunk) for chunk in _list(_chunks_of(document))]
    return Result(data | ({"chunks": chunks} if chunks else {}))


def _chunks_of(document: Any) -> Any:
    document = _unwrapped(document)
    if not isinstance(document, dict):
        return []
    inner = document.get("output")
    holder = inner if isinstance(inner, dict) else document
    return holder.get("chunks") or holder.get("segments") or []


def _spoken(chunk: Any) -> dict[str, Any]:
    chunk = _dict(chunk)
    times = chunk.get("timestamp") or [chunk.get("start"), chunk.get("end")]
    return {"text": _string(chunk.get("text") or ""), "timestamp": [_maybe_number(time) for time in _list(times)]}


def _labels(_: Call, document: Any) -> Result:
    """`[{label, score}]`, also nested in a list, or `{labels, scores}`, also in a list: zero-shot's older form."""
    pairs = list(_pairs(document))
    if not pairs:
        raise Unintelligible
    labels = sorted(({"label": label, "score": score} for label, score in pairs), key=_by_score)
    return Result({"output": labels[0]["label"], "labels": labels})


def _pairs(document: Any) -> Iterator[tuple[str, float]]:
    document = _first_of_batch(document)
    if isinstance(document, list) and document and isinstance(document[0], dict) and "labels" in document[0]:
        document = document[0]
    if isinstance(document, dict) and "labels" in document:
        labels, scores = _list(document["labels"]), _list(document.get("scores"))
        if len(labels) != len(scores):
            raise Unintelligible
        yield from zip(map(_string, labels), map(_number, scores), strict=True)
        return
    for item in [document] if isinstance(document, dict) else _list(document):
        yield _string(_dict(item).get("label")), _number(item.get("score"))


def _candidates(_: Call, document: Any) -> Result:
    """`[{score, token, token_str, sequence}]`; a list of these for a text with several masks."""
    masks = _list(document)
    if not all(isinstance(mask, list) for mask in masks):
        masks = [masks]
    found = [_candidate(item, number) for number, mask in enumerate(masks) for item in sorted(mask, key=_by_score)]
    if not found:
        raise Unintelligible
    return Result(({"output": found[0]["sequence"]} if len(masks) == 1 else {}) | {"candidates": found})


def _candidate(item: Any, mask: int) -> dict[str, Any]:
    item = _dict(item)
    return {
        "mask": mask,
        "token": _maybe_whole(item.get("token")),
        "token_str": _string(item.get("token_str")),
        "sequence": _string(item.get("sequence")),
        "score": _number(item.get("score")),
    }


def _entities(_: Call, document: Any) -> Result:
    """`[{entity_group | entity, score, word, start, end}]`, may be empty."""
    return Result({"entities": [_entity(_dict(item)) for item in _list(_first_of_batch(document))]})


def _entity(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "entity": _string(item.get("entity_group") or item.get("entity")),
        "word": _string(item.get("word")),
        "score": _number(item.get("score")),
        "start": _maybe_whole(item.get("start")),
        "end": _maybe_whole(item.get("end")),
    }


def _answers(_: Call, document: Any) -> Result:
    """`{answer, score, start, end}`, or a list of such."""
    answers = [_answer(_dict(item)) for item in _some(_first_of_batch(document))]
    answers.sort(key=lambda answer: -(answer["score"] or 0.0))
    return Result({"output": answers[0]["answer"], "answers": answers})


def _answer(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "answer": _string(item.get("answer")),
        "score": _maybe_number(item.get("score")),
        "start": _maybe_whole(item.get("start")),
        "end": _maybe_whole(item.get("end")),
    }


def _table_answers(_: Call, document: Any) -> Result:
    """`{answer, coordinates, cells, aggregator}`, or a list of such."""
    answers = [_table_answer(_dict(item)) for item in _some(_first_of_batch(document))]
    return Result({"output": answers[0]["answer"], "answers": answers})


def _table_answer(item: Mapping[str, Any]) -> dict[str, Any]:
    aggregator = item.get("aggregator")
    return {
        "answer": _string(item.get("answer")),
        "aggregator": aggregator if isinstance(aggregator, str) else None,
        "cells": [_string(cell) for cell in _list(item.get("cells") or [])],
        "coordinates": [[_whole(place) for place in _list(cell)] for cell in _list(item.get("coordinates") or [])],
    }


def _scores(_: Call, document: Any) -> Result:
    return Result({"scores": read_scores(document)})


def _embeddings(call: Call, document: Any) -> Result:
    texts = call.input_data.get("text")
    return Result(read_vectors(document, count=len(texts) if isinstance(texts, list) else None))


def _objects(_: Call, document: Any) -> Result:
    """`[{score, label, box}]`, may be empty."""
    objects = [_object(_dict(item)) for item in _list(_first_of_batch(document))]
    return Result({"objects": sorted(objects, key=_by_score)})


def _object(item: Mapping[str, Any]) -> dict[str, Any]:
    box = _dict(item.get("box"))
    return {
        "label": _string(item.get("label")),
        "score": _number(item.get("score")),
        "box": {side: _whole(round(_number(box.get(side)))) for side in ("xmin", "ymin", "xmax", "ymax")},
    }


def _segments(_: Call, document: Any) -> Result:
    """`[{score, label, mask}]`; the masks become files, in the order of the segments."""
    items = [_dict(item) for item in _list(_first_of_batch(document))]
    segments = [
        {"label": _string(item.get("label")), "score": _maybe_number(item.get("score")), "mask": number}
        for number, item in enumerate(items)
    ]
    return Result({"segments": segments}, tuple(read_base64(item.get("mask")) for item in items))


def _by_score(item: Any) -> float:
    return -_number(_dict(item).get("score"))


def _unwrapped(document: Any) -> Any:
    """The first of a list: providers wrap a single answer."""
    while isinstance(document, list) and document:
        document = document[0]
    return document


def _first_of_batch(document: Any) -> Any:
    """The list for the first input: a pipeline that could take several wraps even one."""
    while isinstance(document, list) and document and isinstance(document[0], list):
        document = document[0]
    return document


def _some(document: Any) -> list[Any]:
    items = [document] if isinstance(document, dict) else _list(document)
    if not items:
        raise Unintelligible
    return items


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unintelligible
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unintelligible
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise Unintelligible
    return value


def _number(value: Any) -> float:
    """Finite; an integer no larger than JSON of the database can be read back with."""
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _whole(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**53) < value < 2**53:
        raise Unintelligible
    return value


def _maybe_number(value: Any) -> float | None:
    return None if value is None else _number(value)


def _maybe_whole(value: Any) -> int | None:
    return None if value is None else _whole(value)


_READERS: dict[Task, Callable[[Call, Any], Result]] = {
    Task.SUMMARIZATION: _text,
    Task.TRANSLATION: _text,
    Task.IMAGE_TO_TEXT: _text,
    Task.AUTOMATIC_SPEECH_RECOGNITION: _transcription,
    Task.TEXT_CLASSIFICATION: _labels,
    Task.ZERO_SHOT_CLASSIFICATION: _labels,
    Task.IMAGE_CLASSIFICATION: _labels,
    Task.AUDIO_CLASSIFICATION: _labels,
    Task.FILL_MASK: _candidates,
    Task.TOKEN_CLASSIFICATION: _entities,
    Task.QUESTION_ANSWERING: _answers,
    Task.TABLE_QUESTION_ANSWERING: _table_answers,
    Task.SENTENCE_SIMILARITY: _scores,
    Task.FEATURE_EXTRACTION: _embeddings,
    Task.OBJECT_DETECTION: _objects,
    Task.IMAGE_SEGMENTATION: _segments,
}
