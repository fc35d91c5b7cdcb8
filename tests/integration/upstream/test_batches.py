"""Long lists of texts: they are sent in parts that the provider takes, and their vectors stay in order."""

from dataclasses import replace
from typing import Any

import pytest

from server.inference.events import Call, Event, GenerationFailed, Started, Task
from server.inference.protocol.forms import MAX_TEXTS, Form
from server.model_request import Completed, Usage
from tests.fakes.huggingface import Answer, FakeHuggingFace, Received, error_answer, json_answer
from tests.integration.upstream.generations import Client

TEXTS = [f"text {number}" for number in range(100)]
VECTORS = [[float(number), 0.5] for number in range(2048)]


def vectors_answer(received: Received, *, order: int = 1) -> Answer:
    texts = received.body["input"]
    data = [{"index": at, "embedding": VECTORS[int(text.split()[1])]} for at, text in enumerate(texts)][::order]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return json_answer({"data": data, "usage": usage})


def tei(limit: int, refusal: Answer | None = None, field: str = "input") -> Any:
    """A server that takes so many texts in one call."""

    def respond(received: Received) -> Answer:
        count = len(received.body[field])
        words = f"batch size {count} > maximum allowed batch size {limit}"
        return (refusal or error_answer(422, words)) if count > limit else vectors_answer(received, order=-1)

    return respond


async def embed(client: Client, texts: list[str] | str, **options: Any) -> list[Event]:
    call = Call(options.pop("task", Task.FEATURE_EXTRACTION), ("org/first",), {"text": texts}, options)
    return [event async for event in client.upstream.generate(call, timeout_s=30)]


def sizes(fake: FakeHuggingFace) -> list[int]:
    return [len(received.body["input"]) for received in fake.calls]


@pytest.mark.parametrize(
    ("refusal", "tried"),
    [
        (error_answer(422, "batch size 100 > maximum allowed batch size 32"), [100]),
        (error_answer(413, "batch size 100 > maximum allowed batch size 32"), [100]),
        (
            json_answer(
                {"message": "batch size 100 > maximum allowed batch size 32", "code": 422, "type": "Validation"},
                status=422,
            ),
            [100],
        ),
        (error_answer(400, "batch size is invalid, it should not be larger than 32: input.contents"), [100]),
        (error_answer(400, "Invalid 'input': total number of texts must be at most 32."), [100]),
        (error_answer(400, "at most 32 requests can be in one batch"), [100]),
    ],
)
async def test_a_list_is_split_by_the_number_that_the_refusal_names(
    refusal: Answer, tried: list[int], client: Client
) -> None:
    client.fake.default = tei(32, refusal)
    started, completed = await embed(client, TEXTS)
    assert isinstance(started, Started)
    assert isinstance(completed, Completed)
    assert completed.output_data["embeddings"] == VECTORS[:100]
    assert completed.usage == Usage(100, None)
    assert sizes(client.fake) == [*tried, 32, 32, 32, 4]


@pytest.mark.parametrize("refusal", [error_answer(413, "Payload Too Large"), error_answer(422, "too many inputs")])
async def test_a_list_is_halved_where_no_number_is_named(refusal: Answer, client: Client) -> None:
    client.fake.default = tei(32, refusal)
    completed = (await embed(client, TEXTS))[-1]
    assert isinstance(completed, Completed)
    assert completed.output_data["embeddings"] == VECTORS[:100]
    assert sizes(client.fake) == [100, 50, 25, 25, 25, 25]


async def test_the_number_is_remembered_for_the_model(client: Client) -> None:
    client.fake.default = tei(32)
    for _ in range(2):
        assert isinstance((await embed(client, TEXTS[:40]))[-1], Completed)
    assert sizes(client.fake) == [40, 32, 8, 32, 8]


async def test_2048_texts_are_sent_in_parts_from_the_start(client: Client) -> None:
    client.fake.default = vectors_answer
    completed = (await embed(client, [f"text {number}" for number in range(2048)]))[-1]
    assert isinstance(completed, Completed)
    assert completed.output_data["embeddings"] == VECTORS
    assert sizes(client.fake) == [MAX_TEXTS] * 8


async def test_vectors_that_would_be_too_large_together_are_refused_after_the_first_part(client: Client) -> None:
    numbers = [0.5] * 2049
    client.fake.default = lambda received: json_answer(
        {"data": [{"embedding": numbers} for _ in received.body["input"]]}
    )
    [failed] = await embed(client, ["a"] * 2048)
    assert isinstance(failed, GenerationFailed)
    assert "send fewer texts" in failed.message
    assert len(client.fake.calls) == 1
    assert isinstance((await embed(client, ["a"] * 300))[-1], Completed)


async def test_one_text_in_a_list_and_alone(client: Client) -> None:
    client.fake.default = lambda received: json_answer({"data": [{"index": 0, "embedding": [1.0]}]})
    assert (await embed(client, ["a"]))[-1].output_data == {"embeddings": [[1.0]]}  # type: ignore[union-attr]
    assert (await embed(client, "a"))[-1].output_data == {"embedding": [1.0]}  # type: ignore[union-attr]


async def test_a_part_that_fails_for_a_moment_is_asked_for_again(client: Client) -> None:
    answers = iter([None, error_answer(503), None, error_answer(429), None, None])
    client.fake.default = lambda received: next(answers, None) or vectors_answer(received)
    client.upstream._known_forms.record("org/first", _form(32))
    completed = (await embed(client, TEXTS))[-1]
    assert isinstance(completed, Completed)
    assert completed.output_data["embeddings"] == VECTORS[:100]
    assert sizes(client.fake) == [32, 32, 32, 32, 32, 4]
    assert client.upstream._budget._saved == 20.0


async def test_a_part_that_keeps_failing_fails_the_list(client: Client) -> None:
    client.upstream._max_retries = 0
    client.upstream._known_forms.record("org/first", _form(32))
    client.fake.answer(vectors_answer(Received("POST", "", {}, {"input": TEXTS[:32]})))
    client.fake.default = lambda _: error_answer(503)
    [failed] = await embed(client, TEXTS)
    assert isinstance(failed, GenerationFailed)
    assert failed.transient
    assert sizes(client.fake) == [32, 32, 32, 32, 32]


async def test_a_refusal_for_another_reason_is_final(client: Client) -> None:
    words = "Input validation error: `inputs` must have less than 32 tokens. Given: 600"
    client.fake.default = lambda _: error_answer(422, words)
    [failed] = await embed(client, TEXTS)
    assert isinstance(failed, GenerationFailed)
    assert sizes(client.fake) == [100]


async def test_a_single_text_that_is_too_large_ends_the_halving(client: Client) -> None:
    client.fake.default = lambda _: error_answer(413, "Payload Too Large")
    [failed] = await embed(client, TEXTS[:8])
    assert isinstance(failed, GenerationFailed)
    assert sizes(client.fake) == [8, 4, 2, 1]


@pytest.mark.parametrize("indices", [[0, 0, 2], [0, 1, 1], [1, 2, 3], [0, 1, None], [0, 1, "2"], [0, True, 2]])
async def test_duplicate_and_missing_indices_are_a_wrong_answer(indices: list[Any], client: Client) -> None:
    data = [{"index": index, "embedding": [0.5]} for index in indices]
    client.fake.default = lambda _: json_answer({"data": data})
    [failed] = await embed(client, TEXTS[:3])
    assert isinstance(failed, GenerationFailed)
    assert not failed.transient
    assert len(client.fake.calls) == 1


async def test_usage_is_unknown_where_a_part_has_none(client: Client) -> None:
    client.upstream._known_forms.record("org/first", _form(64))
    client.fake.answer(json_answer({"data": [{"embedding": vector} for vector in VECTORS[:64]]}))
    client.fake.default = vectors_answer
    completed = (await embed(client, TEXTS))[-1]
    assert isinstance(completed, Completed)
    assert completed.output_data["embeddings"] == VECTORS[:100]
    assert completed.usage == Usage(None, None)


async def test_parts_of_different_kinds_are_a_wrong_answer(client: Client) -> None:
    client.upstream._known_forms.record("org/first", _form(64))
    client.fake.answer(json_answer([[[1.0], [2.0]]] * 64))
    client.fake.default = vectors_answer
    assert isinstance((await embed(client, TEXTS))[-1], GenerationFailed)


async def test_tei_s_own_route_and_its_similarity_are_split_too(client: Client) -> None:
    def respond(received: Received) -> Answer:
        inputs = received.body["inputs"]
        texts = inputs["sentences"] if isinstance(inputs, dict) else inputs
        if len(texts) > 8:
            return error_answer(422, f"batch size {len(texts)} > maximum allowed batch size 8")
        numbers = [float(text.split()[1]) for text in texts]
        return json_answer(numbers if isinstance(inputs, dict) else [[number] for number in numbers])

    client.fake.default = respond
    completed = (await embed(client, TEXTS[:20], normalize=True))[-1]
    assert completed.output_data == {"embeddings": [[float(number)] for number in range(20)]}  # type: ignore[union-attr]
    data = {"source_sentence": "a", "sentences": TEXTS[:20]}
    call = Call(Task.SENTENCE_SIMILARITY, ("org/first",), data, {})
    scored = [event async for event in client.upstream.generate(call, timeout_s=30)][-1]
    assert isinstance(scored, Completed)
    assert scored.output_data == {"scores": [float(number) for number in range(20)]}
    assert [received.path for received in client.fake.calls] == ["/embed"] * 4 + ["/similarity"] * 3


async def test_each_part_has_the_time_of_an_attempt(client: Client) -> None:
    client.upstream._timeout_s = 0.6
    client.upstream._known_forms.record("org/first", _form(25))
    client.fake.default = lambda received: replace(vectors_answer(received), delay_s=0.25)
    assert isinstance((await embed(client, TEXTS))[-1], Completed)
    assert sizes(client.fake) == [25] * 4


def _form(max_texts: int) -> Any:
    return Form(max_texts=max_texts)
