"""The listing of models: read from every shape, fetched once for all, kept while it cannot be had anew."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from server.inference.events import LiveModel, LiveProvider
from server.inference.listings import FAILED_S, FRESH_S, LiveListing
from server.inference.protocol import Unintelligible, UpstreamError
from server.inference.protocol.listing import MAX_MODELS, MAX_PROVIDERS, read_live_models
from server.inference.short_calls import Reply
from tests.fakes.clock import Clock

ROUTER = {
    "object": "list",
    "data": [
        {
            "id": "zai-org/GLM-4.7",
            "object": "model",
            "created": 1766389552,
            "owned_by": "zai-org",
            "providers": [
                {
                    "provider": "novita",
                    "status": "live",
                    "context_length": 204800,
                    "pricing": {"input": 0.6, "output": 2.2},
                    "supports_tools": True,
                    "is_model_author": False,
                },
                {"provider": "nebius", "status": "error", "is_model_author": False},
            ],
        }
    ],
}


def test_the_router_names_providers_with_what_they_offer() -> None:
    novita = LiveProvider("novita", "live", 204800, {"input": 0.6, "output": 2.2}, supports_tools=True)
    nebius = LiveProvider("nebius", "error")
    assert read_live_models(json.dumps(ROUTER).encode()) == (LiveModel("zai-org/GLM-4.7", (novita, nebius)),)


@pytest.mark.parametrize(
    "document",
    [
        {"object": "list", "data": [{"id": "a"}, {"id": "b", "providers": None}]},
        {"models": [{"name": "a"}, {"name": "b"}]},
        ["a", "b"],
        [{"id": "a"}, {"id": 3}, None, {"id": ""}, {"id": "x" * 1000}, "b"],
    ],
)
def test_a_server_of_one_s_own_names_models_only(document: Any) -> None:
    assert read_live_models(json.dumps(document).encode()) == (LiveModel("a"), LiveModel("b"))


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e400", "-1", "NaN", "true", '"4"'])
def test_a_number_that_cannot_be_one_is_not_known(number: str) -> None:
    """The listing is handed on as JSON, which an integer beyond 64 bits cannot be written as."""
    provider = f'{{"provider": "x", "context_length": {number}, "pricing": {{"input": {number}, "output": 2}}}}'
    [model] = read_live_models(f'[{{"id": "a", "providers": [{provider}]}}]'.encode())
    assert model.providers == (LiveProvider("x", pricing={"output": 2}),)


@pytest.mark.parametrize("body", [b"<html>", b"3", b"null", b'"a"', b""])
def test_what_is_no_list_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(Unintelligible):
        read_live_models(body)


@pytest.mark.parametrize(
    "provider",
    [
        {"provider": "p", "status": 3, "context_length": "long", "pricing": [1], "supports_tools": "yes"},
        {"provider": "p", "context_length": True, "pricing": {"input": "1"}, "supports_tools": None},
    ],
)
def test_what_makes_no_sense_of_a_provider_is_unknown(provider: Any) -> None:
    [model] = read_live_models(json.dumps([{"id": "a", "providers": [provider, 3, {}]}]).encode())
    assert model.providers == (LiveProvider("p"),)


def test_what_cannot_be_stored_is_cleaned() -> None:
    [model] = read_live_models(rb'[{"id": "a\u0000\ud800"}]')
    assert model.id == "a��"


def test_a_listing_is_bounded() -> None:
    many = [{"id": "a", "providers": [{"provider": "p"}] * 100}] * (MAX_MODELS + 1)
    models = read_live_models(json.dumps(many).encode())
    assert len(models) == MAX_MODELS
    assert len(models[0].providers) == MAX_PROVIDERS


class Source:
    """Answers each question with the next of these replies, when it is let go."""

    def __init__(self, *replies: Reply) -> None:
        self._replies: Iterator[Reply] = iter(replies)
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Reply:
        self.asked += 1
        await self.go.wait()
        return next(self._replies)


def listed(*names: str) -> Reply:
    return Reply(json.dumps([{"id": name} for name in names]).encode())


AWAY = Reply(error=UpstreamError("away", is_transient=True))


async def names_of(listing: LiveListing) -> list[str] | None:
    found = await listing.get()
    return None if found is None else [model.id for model in found.models]


async def settled(listing: LiveListing) -> None:
    if listing._fetch is not None:
        await asyncio.wait({listing._fetch})


async def test_a_listing_is_asked_for_once_by_all_and_kept() -> None:
    source, clock = Source(listed("a")), Clock()
    source.go.clear()
    listing = LiveListing(source, clock=clock)
    waiting = [asyncio.create_task(names_of(listing)) for _ in range(5)]
    await asyncio.sleep(0)
    source.go.set()
    assert await asyncio.gather(*waiting) == [["a"]] * 5
    clock.now += FRESH_S - 1
    assert await names_of(listing) == ["a"]
    assert source.asked == 1


async def test_a_first_listing_that_takes_too_long_is_not_waited_for() -> None:
    source = Source(listed("a"))
    source.go.clear()
    listing = LiveListing(source, first_wait_s=0.01, clock=Clock())
    assert await names_of(listing) is None
    source.go.set()
    await settled(listing)
    assert await names_of(listing) == ["a"]
    assert source.asked == 1


async def test_an_old_listing_is_shown_as_such_while_the_new_one_is_fetched() -> None:
    source, clock = Source(listed("a"), listed("b")), Clock()
    listing = LiveListing(source, clock=clock)
    assert await names_of(listing) == ["a"]
    clock.now += FRESH_S
    source.go.clear()
    old = await listing.get()
    assert old is not None
    assert (old.is_stale, old.models) == (True, (LiveModel("a"),))
    source.go.set()
    await settled(listing)
    new = await listing.get()
    assert new is not None
    assert (new.is_stale, new.models) == (False, (LiveModel("b"),))


@pytest.mark.parametrize("failure", [AWAY, Reply(b"<html>")])
async def test_an_upstream_that_is_away_is_asked_again_later_and_the_old_listing_kept(failure: Reply) -> None:
    source, clock = Source(listed("a"), failure, listed("b")), Clock()
    listing = LiveListing(source, clock=clock)
    await listing.get()
    clock.now += FRESH_S
    for _ in range(3):
        assert await names_of(listing) == ["a"]
        await settled(listing)
    assert source.asked == 2
    clock.now += FAILED_S
    await listing.get()
    await settled(listing)
    assert await names_of(listing) == ["b"]


async def test_no_listing_is_no_listing() -> None:
    listing = LiveListing(Source(AWAY), clock=Clock())
    assert await names_of(listing) is None


async def test_a_fetch_ends_with_its_owner() -> None:
    source = Source(listed("a"))
    source.go.clear()
    listing = LiveListing(source, first_wait_s=0.01)
    await listing.get()
    await listing.close()
    assert listing._fetch is None


async def test_around_a_list_that_is_too_old_is_fetched_again_and_at_most_once_in_that_time() -> None:
    source, clock = Source(listed("a"), listed("a", "b"), AWAY), Clock()
    listing = LiveListing(source, clock=clock)

    async def has_b() -> bool | None:
        found = await listing.get(max_age_s=10)
        return None if found is None else found.has("b")

    assert (await has_b(), source.asked) == (False, 1)
    clock.now += 9
    assert (await has_b(), source.asked) == (False, 1)
    clock.now += 1
    assert await asyncio.gather(*(has_b() for _ in range(5))) == [True] * 5
    assert source.asked == 2
    clock.now += 10
    for _ in range(3):  # an upstream that is away is not asked by each create
        assert await has_b() is None
    assert source.asked == 3
    assert await names_of(listing) == ["a", "b"]  # without a bound on its age the list stays


@pytest.mark.parametrize(
    ("name", "is_listed"), [("llama3", True), ("llama3:latest", True), ("llama3:8b", False), ("llama", False)]
)
async def test_around_ollamas_latest_is_the_name_without_a_tag(name: str, is_listed: bool) -> None:  # noqa: FBT001
    found = await LiveListing(Source(listed("llama3:latest")), clock=Clock()).get()
    assert found is not None
    assert found.has(name) is is_listed


async def test_a_look_at_the_listing_waits_for_nothing_and_keeps_it_fresh() -> None:
    source, clock = Source(listed("a"), AWAY, listed("b")), Clock()
    listing = LiveListing(source, clock=clock)
    assert (listing.peek(refreshes=False), source.asked) == (None, 0)
    seen = []
    for later_s in (0, FRESH_S, FAILED_S - 1, 1, 0):
        clock.now += later_s
        found = listing.peek(refreshes=True)
        seen.append((found and found.models[0].id, source.asked))
        await asyncio.sleep(0)
        await settled(listing)
    assert [name for name, _ in seen] == [None, "a", "a", "a", "b"]
    assert source.asked == 3
