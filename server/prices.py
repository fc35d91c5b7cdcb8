"""Prices of tokens: US dollars per million of each kind, and the list of the operator."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.model_request import Usage
from server.schemas import field_errors

MAX_PRICE = 1_000_000
"""Dollars per million tokens."""
_MILLION = 1_000_000
_SMALLEST = Decimal("1e-12")
"""Dollars. A millionth of the price of one token has no more digits at prices with six decimals."""

Dollars = Annotated[Decimal, Field(ge=0, le=MAX_PRICE, allow_inf_nan=False)]


class BadPrices(Exception):
    """The list of prices cannot be used; the message says why."""


class Price(BaseModel):
    """Dollars per million tokens. None: unknown; cached tokens then cost as much as others of the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input: Dollars
    cached: Dollars | None = None
    output: Dollars | None = None

    def cost_of(self, usage: Usage) -> Decimal | None:
        """Dollars, to 12 decimals; None if a count or a price that matters is unknown."""
        prompt, generated, used = usage.prompt_tokens, usage.token_count, usage.token_used
        if generated is None and prompt is not None and used is not None:
            generated = used - prompt  # embeddings generate nothing, and have no such count
        if prompt is None or generated is None or (generated and self.output is None):
            return None
        cached = min(prompt, usage.details.get("prompt_tokens_details", {}).get("cached_tokens", 0))
        cost = (prompt - cached) * self.input
        cost += cached * (self.input if self.cached is None else self.cached)
        cost += generated * (self.output or 0)
        return (cost / _MILLION).quantize(_SMALLEST)


def read_prices(path: Path) -> dict[str, Price]:
    """The prices of a JSON file by the names of models. Raises `BadPrices`."""
    try:
        return TypeAdapter(dict[str, Price]).validate_json(path.read_bytes())
    except OSError:
        raise BadPrices(f"{path} cannot be read.") from None
    except ValidationError as error:
        first = field_errors(error)[0]
        raise BadPrices(f"{path}: {first.field}: {first.message}.") from None
