"""Finds the price of an answer: the operator's, or the one that the router lists for the provider that answered."""

from collections.abc import Callable, Mapping
from decimal import Decimal

from server.inference.events import Listing, LiveModel
from server.model_request import Usage
from server.prices import Price


class Pricing:
    """`own` prices win over those of `listing`, which is read at each answer and must not wait."""

    def __init__(self, own: Mapping[str, Price], listing: Callable[[], Listing | None]) -> None:
        self._own = own
        self._listing = listing
        self._indexed: tuple[LiveModel, ...] = ()
        self._listed: dict[tuple[str, str], Price] = {}

    def cost_of(self, usage: Usage, *, model: str | None, provider: str | None) -> Decimal | None:
        """Dollars; None if the price or a count is unknown. `model` may have a suffix, as in `org/model:fastest`."""
        if model is None or (usage.token_used is None and usage.token_count is None):
            return None
        price = self._find(model, provider)
        return None if price is None else price.cost_of(usage)

    def _find(self, model: str, provider: str | None) -> Price | None:
        name, _, suffix = model.partition(":")
        if (own := self._own.get(model) or self._own.get(name)) is not None:
            return own
        if (listing := self._listing()) is None:
            return None
        if listing.models is not self._indexed:
            self._indexed, self._listed = listing.models, _index(listing.models)
        return self._listed.get((name, provider or suffix))


def _index(models: tuple[LiveModel, ...]) -> dict[tuple[str, str], Price]:
    return {
        (model.id, provider.provider): Price(**{kind: Decimal(str(price)) for kind, price in provider.pricing.items()})
        for model in models
        for provider in model.providers
        if provider.pricing is not None and "input" in provider.pricing
    }
