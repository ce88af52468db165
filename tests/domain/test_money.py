from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from worker.domain.errors import InvalidAmount, UnknownCurrency
from worker.domain.money import DECIMALS, decimal_text, decimals, minor_units

#: Currency, minor units, the same as text: each number of decimals, and where zeros have to be kept.
SPELLINGS = [
    ("JPY", 0, "0"),
    ("JPY", 1, "1"),
    ("JPY", 1234, "1234"),
    ("USD", 0, "0.00"),
    ("USD", 1, "0.01"),
    ("USD", 10, "0.10"),
    ("USD", 100, "1.00"),
    ("USD", 1234, "12.34"),
    ("KWD", 1, "0.001"),
    ("KWD", 1234, "1.234"),
    ("KWD", 10000, "10.000"),
    ("CLF", 12345, "1.2345"),
    ("USD", 2**63, "92233720368547758.08"),
]


@pytest.mark.parametrize(("currency", "places"), [("JPY", 0), ("ISK", 0), ("USD", 2), ("EUR", 2), ("KWD", 3)])
def test_a_currency_has_its_own_number_of_decimals(currency, places):
    """Two for all of them would take a hundred times too much yen and a tenth of the dinars."""
    assert places == decimals(currency)


@pytest.mark.parametrize(("currency", "amount", "text"), SPELLINGS)
def test_minor_units_and_decimal_text_are_two_spellings_of_one_amount(currency, amount, text):
    """What is written is what is read."""
    assert text == decimal_text(amount, currency=currency)
    assert amount == minor_units(text, currency=currency)


@pytest.mark.parametrize(
    ("currency", "text", "amount"), [("USD", "12.3", 1230), ("USD", "12", 1200), ("KWD", "1", 1000)]
)
def test_decimals_that_are_left_out_are_zeros(currency, text, amount):
    """BlueSnap writes 12 and 12.3 as well; both are exact."""
    assert amount == minor_units(text, currency=currency)


@given(st.sampled_from(sorted(DECIMALS)), st.integers(0, 10**18))
def test_both_ways_are_exact_for_every_currency_and_amount(currency, amount):
    """No float stands between them: not one minor unit is lost."""
    text = decimal_text(amount, currency=currency)

    assert amount == minor_units(text, currency=currency)
    assert Decimal(amount).scaleb(-DECIMALS[currency]) == Decimal(text)
    assert -DECIMALS[currency] == Decimal(text).as_tuple().exponent


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDD", "EURO", "XXX", "XTS", "XAU", "$", "US\n", "840"])
def test_an_unknown_currency_is_refused(currency):
    """Nobody knows where its decimal point stands; a guess would be a hundred times wrong."""
    with pytest.raises(UnknownCurrency, match="ISO 4217"):
        decimals(currency)
    with pytest.raises(UnknownCurrency):
        decimal_text(1, currency=currency)
    with pytest.raises(UnknownCurrency):
        minor_units("1", currency=currency)


@pytest.mark.parametrize(
    ("currency", "text", "why"),
    [
        ("USD", "1.234", "it has 3 decimals, USD has 2"),
        ("USD", "1.230", "it has 3 decimals, USD has 2"),
        ("JPY", "1.0", "it has 1 decimals, JPY has 0"),
        ("KWD", "1.2345", "it has 4 decimals, KWD has 3"),
    ],
)
def test_more_decimals_than_the_currency_has_are_refused(currency, text, why):
    """Half a cent cannot be paid, and whoever writes one means something else."""
    with pytest.raises(InvalidAmount, match=why):
        minor_units(text, currency=currency)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,00", "01", "1 000", " 1", "1\n", "NaN", "Infinity", "٣", "0" * 41],
)
def test_what_is_no_plain_decimal_number_is_refused(text):
    """Each of these is read differently by somebody."""
    with pytest.raises(InvalidAmount, match="plain decimal number"):
        minor_units(text, currency="USD")


def test_a_negative_amount_is_not_written():
    """The direction of money is in the command, never in a sign."""
    with pytest.raises(InvalidAmount, match="negative"):
        decimal_text(-1, currency="USD")
