"""Prices: exact costs of what was counted, none for what was not, and a list of the operator's own."""

from decimal import Decimal
from pathlib import Path

import pytest

from server.model_request import Usage
from server.prices import BadPrices, Price, read_prices

PRICE = Price(input=Decimal("0.6"), cached=Decimal("0.06"), output=Decimal("2.2"))
CACHED = {"prompt_tokens_details": {"cached_tokens": 30}}


@pytest.mark.parametrize(
    ("price", "usage", "dollars"),
    [
        (PRICE, Usage(135, 103), "0.0002458"),  # (32 * 0.6 + 103 * 2.2) / 1,000,000
        (PRICE, Usage(135, 103, details=CACHED), "0.0002296"),  # 30 of the 32 at a tenth
        (PRICE, Usage(30, 20, details=CACHED), "0.0000446"),  # more cached tokens than the prompt has
        (Price(input=Decimal("0.1"), output=Decimal("0.2")), Usage(4, 1, details=CACHED), "0.0000005"),
        (Price(input=Decimal("0.01")), Usage(5, None, 5), "0.00000005"),  # embeddings
        (Price(input=Decimal(0), output=Decimal(0)), Usage(5, 2), "0"),
        (Price(input=Decimal("0.0000001"), output=Decimal(0)), Usage(3, 2), "0"),  # less than a millionth of a cent
        (PRICE, Usage(2**31 - 1, 2**31 - 1), "4724.4640234"),
    ],
)
def test_a_cost_is_exact(price: Price, usage: Usage, dollars: str) -> None:
    assert price.cost_of(usage) == Decimal(dollars)


@pytest.mark.parametrize(
    ("price", "usage"),
    [
        (PRICE, Usage()),
        (PRICE, Usage(7)),
        (PRICE, Usage(None, 2)),
        (PRICE, Usage(None, None, 32)),
        (Price(input=Decimal(1)), Usage(5, 2)),
    ],
)
def test_what_is_not_known_has_no_cost(price: Price, usage: Usage) -> None:
    assert price.cost_of(usage) is None


def test_an_operators_list_keeps_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"org/a": {"input": 0.1, "cached": 0.0123456789012345, "output": 3}, "b": {"input": 0}}')
    cached = Decimal("0.0123456789012345")
    assert read_prices(path) == {
        "org/a": Price(input=Decimal("0.1"), cached=cached, output=Decimal(3)),
        "b": Price(input=Decimal(0)),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "object"),
        ("{", "JSON"),
        ('{"a": {}}', "a.input: is required"),
        ('{"a": {"input": -1}}', "a.input: must be greater than or equal to 0"),
        ('{"a": {"input": 2e6}}', "a.input: must be less than or equal to 1000000"),
        ('{"a": {"input": NaN}}', "a.input"),
        ('{"a": {"input": 1, "ouput": 2}}', "a.ouput: is not a known field"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_explained_in_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadPrices, match=str(path)) as raised:
        read_prices(path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
