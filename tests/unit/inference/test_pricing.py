"""The price of an answer is the operator's, or that of the provider that answered, or unknown."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from server.inference.events import Listing, LiveModel, LiveProvider
from server.inference.pricing import Pricing
from server.model_request import Usage
from server.prices import Price

MILLION = Usage(1_000_000, 0)
MODELS = (
    LiveModel(
        "org/a",
        (
            LiveProvider("novita", pricing={"input": 0.6, "output": 2.2}),
            LiveProvider("groq", pricing={"input": 0.1}),
            LiveProvider("free"),
            LiveProvider("odd", pricing={"output": 2.0}),
        ),
    ),
)


def listing(models: tuple[LiveModel, ...] = MODELS) -> Listing:
    return Listing(datetime.now(UTC), is_stale=False, models=models)


@pytest.mark.parametrize(
    ("model", "provider", "dollars"),
    [
        ("org/a", "novita", "0.6"),
        ("org/a:fastest", "groq", "0.1"),
        ("org/a:groq", None, "0.1"),
        ("org/a:groq", "novita", "0.6"),
        ("org/a:fastest", None, None),
        ("org/a", None, None),
        ("org/a", "other", None),
        ("org/a", "free", None),
        ("org/a", "odd", None),
        ("org/b", "novita", None),
        (None, "novita", None),
    ],
)
def test_the_listed_price_is_that_of_the_provider_that_answered(
    model: str | None, provider: str | None, dollars: str | None
) -> None:
    cost = Pricing({}, listing).cost_of(MILLION, model=model, provider=provider)
    assert cost == (None if dollars is None else Decimal(dollars))


def test_the_operators_price_wins() -> None:
    own = {
        "org/a": Price(input=Decimal(7)),
        "org/a:groq": Price(input=Decimal(0)),
        "llama3:8b": Price(input=Decimal(3)),
    }
    pricing = Pricing(own, listing)
    costs = [pricing.cost_of(MILLION, model=name, provider="novita") for name in ("org/a", "org/a:x", "org/a:groq")]
    assert costs == [7, 7, 0]
    assert pricing.cost_of(MILLION, model="llama3:8b", provider=None) == 3


def test_a_newer_listing_has_newer_prices() -> None:
    lists: list[Listing | None] = [
        None,
        listing(),
        listing((LiveModel("org/a", (LiveProvider("novita", pricing={"input": 9}),)),)),
    ]
    pricing = Pricing({}, lambda: lists.pop(0))
    costs = [pricing.cost_of(MILLION, model="org/a", provider="novita") for _ in range(3)]
    assert costs == [None, Decimal("0.6"), 9]


def test_nothing_is_looked_up_for_what_was_not_counted() -> None:
    pricing = Pricing({"org/a": Price(input=Decimal(1))}, pytest.fail)
    assert pricing.cost_of(Usage(), model="org/a", provider=None) is None
