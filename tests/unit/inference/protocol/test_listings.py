"""What the router and the Hub list, as it was recorded: models, and what providers call them."""

import json
from collections import Counter
from typing import Any

import pytest

from server.inference.events import Task
from server.inference.protocol import read_models
from server.inference.protocol.native_ids import follow_redirect, read_native_model
from tests.fakes.huggingface import body_of
from tests.fakes.tapes import ABSENT, tape


def _fixture(task: str, body: str, *, status: int = 200, **headers: str) -> dict[str, Any]:
    return {"task": task, "response": {"status": status, "headers": headers, "body": body}}


_FIXTURES = [
    _fixture("router-models", '{"object": "list", "data": [{"id": "a/b", "providers": []}]}'),
    _fixture("hub-model-list", '[{"_id": "1", "id": "a/b"}]'),
    _fixture(
        "hub-model-info",
        '{"id": "a/b", "inferenceProviderMapping": '
        '{"fal-ai": {"status": "live", "providerId": "x/y", "task": "text-to-image"}}}',
    ),
    _fixture("hub-model-info", "Temporary Redirect", status=307, location="/api/models/a/c"),
]
KINDS = ("router-models", "hub-model-list", "hub-model-info")


def listings() -> list[dict[str, Any]]:
    return [*_FIXTURES, *(record for record in tape() if record["task"] in KINDS)]


def test_every_listing_is_read() -> None:
    counts: Counter[str] = Counter()
    for record in listings():
        counts[record["task"]] += 1
        if record["response"]["status"] == 307:
            wire = follow_redirect(record["response"]["headers"]["location"])
            assert wire is not None
            assert wire.url.startswith("https://huggingface.co/api/models/")
            continue
        document = json.loads(body_of(record))
        if record["task"] == "hub-model-info":
            _check_mapping(document)
        else:
            entries = document["data"] if isinstance(document, dict) else document
            assert read_models(body_of(record)) == [entry["id"] for entry in entries]
    for kind in KINDS:
        print(f"{kind:<20} {counts[kind]:>3}")


def _check_mapping(document: dict[str, Any]) -> None:
    for provider, entry in document.get("inferenceProviderMapping", {}).items():
        if entry["task"] in set(Task):
            expected = entry["providerId"] if entry["status"] in {"live", "staging"} else None
            found = read_native_model(document, provider, Task(entry["task"]))
            assert (None if found is None else found.id) == expected
    assert read_native_model(document, "nobody", Task.TEXT_TO_IMAGE) is None


def test_the_recordings_hold_some_of_each() -> None:
    if not tape():
        pytest.skip(ABSENT)
    assert {record["task"] for record in tape()} >= set(KINDS)
