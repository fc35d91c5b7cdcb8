"""The test double's answer to each task: valid in form, with meaningless values derived from the input."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.inference.events import Call, InputFile, Task
from server.inference.offline.sample_files import make_mask, make_png, make_wav
from server.model_request import Usage

INTRODUCTION = "Offline model, not AI:"
DIMENSIONS = 384
"""The default length of a vector, that of the smallest models in use."""
_MAX_QUOTE = 2000
_MAX_WORDS = 64
"""Words of a text that its vector is derived from."""
_WORD = re.compile(r"\w+")
_MASK = re.compile(r"\[MASK\]|<mask>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Made:
    """A complete answer; `files` are (content type, bytes)."""

    data: Mapping[str, Any]
    usage: Usage = Usage()  # noqa: RUF009 - frozen
    files: tuple[tuple[str, bytes], ...] = ()


def make_result(call: Call) -> Made:
    """The answer to a call of any task except text generation."""
    return _MAKERS[call.task](call)


def quoted(text: str) -> str:
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "…"


def _text(call: Call) -> Made:
    given = str(call.input_data["text"])
    return _spoken(f'{INTRODUCTION} the {call.task} of "{quoted(given)}"', given)


def _spoken(output: str, given: str = "") -> Made:
    count = len(output.split())
    return Made({"output": output}, Usage(count + len(given.split()), count))


def _heard(call: Call) -> Made:
    name = "audio" if "audio" in call.input_data else "image"
    return _spoken(f"{INTRODUCTION} {name} of {_size_of(call, str(call.input_data[name]))} bytes")


def _size_of(call: Call, reference: str) -> int:
    file = call.files.get(reference)
    if isinstance(file, InputFile):
        return file.size
    data = reference.partition(",")[2]
    return len(data) * 3 // 4 - data.count("=")


def _labels(call: Call) -> Made:
    labels: Sequence[str] = call.parameters.get("candidate_labels") or _labels_of(call.task)
    scores = _shares(_seed_of(call), len(labels))
    pairs = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])[: call.parameters.get("top_k")]
    return Made({"output": pairs[0][0], "labels": [{"label": label, "score": score} for label, score in pairs]})


def _labels_of(task: Task) -> Sequence[str]:
    return ("POSITIVE", "NEGATIVE") if task is Task.TEXT_CLASSIFICATION else ("offline", "test", "double")


def _shares(seed: str, count: int) -> list[float]:
    """`count` numbers whose sum is 1."""
    weights = [1 + _number(f"{seed}/{at}") for at in range(count)]
    return [weight / sum(weights) for weight in weights]


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:2], "big")


def _seed_of(call: Call) -> str:
    return "\n".join(str(value) for _, value in sorted(call.input_data.items()))


def _filled(call: Call) -> Made:
    text = str(call.input_data["text"])
    words = list(call.parameters.get("targets") or ("offline", "test", "double"))[: call.parameters.get("top_k")]
    scores = sorted(_shares(text, len(words)), reverse=True)
    masks = max(1, len(_MASK.findall(text)))
    candidates = [
        {
            "mask": mask,
            "token": _number(word),
            "token_str": word,
            "sequence": _MASK.sub(lambda _, word=word: word, text),  # type: ignore[misc]
            "score": score,
        }
        for mask in range(masks)
        for word, score in zip(words, scores, strict=True)
    ]
    return Made(({"output": candidates[0]["sequence"]} if masks == 1 else {}) | {"candidates": candidates})


def _entities(call: Call) -> Made:
    """Every word with a capital letter is an entity."""
    found = [match for match in _WORD.finditer(str(call.input_data["text"])) if match[0][0].isupper()]
    return Made(
        {
            "entities": [
                {"entity": "OFFLINE", "word": match[0], "score": 1.0, "start": match.start(), "end": match.end()}
                for match in found
            ]
        }
    )


def _answer(call: Call) -> Made:
    """The answer is the first word of the context."""
    context = str(call.input_data["context"])
    match = _WORD.search(context)
    start, end = match.span() if match else (0, len(context))
    answer = context[start:end]
    return Made({"output": answer, "answers": [{"answer": answer, "score": 1.0, "start": start, "end": end}]})


def _table_answer(call: Call) -> Made:
    """The answer is the first cell."""
    table = call.input_data["table"]
    cell = table[call.input_data.get("columns", list(table))[0]][0]
    answer = {"answer": cell, "aggregator": "NONE", "cells": [cell], "coordinates": [[0, 0]]}
    return Made({"output": cell, "answers": [answer]})


def _vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1. Texts with common words have similar vectors, as with a real model."""
    words = _WORD.findall(text.lower())[:_MAX_WORDS] or [text]
    total = [0] * dimensions
    for word in words:
        total = list(map(int.__add__, total, hashlib.shake_128(word.encode()).digest(dimensions)))
    vector = [value - 127.5 * len(words) for value in total]
    length = math.sqrt(sum(value * value for value in vector))
    return [round(value / length, 8) for value in vector]


def _scores(call: Call) -> Made:
    source = _vector(str(call.input_data["source_sentence"]))
    others = (_vector(str(sentence)) for sentence in call.input_data["sentences"])
    return Made({"scores": [round(sum(map(float.__mul__, source, other)), 6) for other in others]})


def _embeddings(call: Call) -> Made:
    given = call.input_data["text"]
    dimensions = call.parameters.get("dimensions") or DIMENSIONS
    texts = given if isinstance(given, list) else [given]
    vectors = [_vector(str(text), dimensions) for text in texts]
    data = {"embeddings": vectors} if isinstance(given, list) else {"embedding": vectors[0]}
    return Made(data, Usage(sum(len(str(text).split()) for text in texts), None))


def _objects(_: Call) -> Made:
    return Made(
        {"objects": [{"label": "offline", "score": 1.0, "box": {"xmin": 0, "ymin": 0, "xmax": 64, "ymax": 64}}]}
    )


def _segments(_: Call) -> Made:
    segments = [{"label": "offline", "score": 1.0, "mask": 0}]
    return Made({"segments": segments}, files=(("image/png", make_mask()),))


def _image(call: Call) -> Made:
    size = call.parameters.get("target_size") or call.parameters
    image = make_png(_seed_of(call), width=size.get("width") or 256, height=size.get("height") or 256)
    return Made({}, files=(("image/png", image),))


def _speech(call: Call) -> Made:
    return Made({}, files=(("audio/wav", make_wav(str(call.input_data["text"]))),))


_MAKERS: dict[Task, Callable[[Call], Made]] = {
    Task.SUMMARIZATION: _text,
    Task.TRANSLATION: _text,
    Task.FILL_MASK: _filled,
    Task.TEXT_CLASSIFICATION: _labels,
    Task.ZERO_SHOT_CLASSIFICATION: _labels,
    Task.TOKEN_CLASSIFICATION: _entities,
    Task.QUESTION_ANSWERING: _answer,
    Task.TABLE_QUESTION_ANSWERING: _table_answer,
    Task.SENTENCE_SIMILARITY: _scores,
    Task.FEATURE_EXTRACTION: _embeddings,
    Task.TEXT_TO_IMAGE: _image,
    Task.IMAGE_TO_IMAGE: _image,
    Task.IMAGE_CLASSIFICATION: _labels,
    Task.OBJECT_DETECTION: _objects,
    Task.IMAGE_SEGMENTATION: _segments,
    Task.IMAGE_TO_TEXT: _heard,
    Task.AUTOMATIC_SPEECH_RECOGNITION: _heard,
    Task.AUDIO_CLASSIFICATION: _labels,
    Task.TEXT_TO_SPEECH: _speech,
}
