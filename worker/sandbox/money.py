"""Decides how an amount of money is written at BlueSnap: decimal text in major units with the currency's digits.

All arithmetic is decimal and exact; nothing here ever becomes a float.
"""

import re
from decimal import Decimal

#: Currencies whose smallest unit is not a hundredth, as ISO 4217 has them, by how many digits they have.
_CURRENCIES_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
}

_DIGITS_BY_CURRENCY = {
    currency: digits for digits, currencies in _CURRENCIES_BY_DIGITS.items() for currency in currencies.split()
}

_CURRENCY = re.compile("[A-Z]{3}")
_AMOUNT = re.compile(r"(?P<whole>[0-9]{1,12})(\.(?P<rest>[0-9]+))?")


def digits_of(currency: str) -> int:
    """Tell how many digits a currency has behind the point."""
    return _DIGITS_BY_CURRENCY.get(currency, 2)


def is_currency(code: str) -> bool:
    """Tell whether a text has the form of a currency's code."""
    return _CURRENCY.fullmatch(code) is not None


def read_amount(text: object, currency: str) -> Decimal | None:
    """Read an amount; None for what is no decimal text, or has more digits than the currency."""
    found = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if found is None or len(found["rest"] or "") > digits_of(currency):
        return None

    return Decimal(found[0])


def written(amount: Decimal, currency: str) -> str:
    """Write an amount with the digits of its currency."""
    return f"{amount:.{digits_of(currency)}f}"


def from_minor(units: int, currency: str) -> Decimal:
    """Turn minor units into an amount."""
    return Decimal(units).scaleb(-digits_of(currency))


def to_minor(amount: Decimal, currency: str) -> int:
    """Turn an amount into minor units; what is smaller than one is cut off."""
    return int(amount.scaleb(digits_of(currency)))
