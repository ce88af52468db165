"""Money between its two spellings: whole minor units, and the decimal text of major units.

Decides how many decimals a currency has (ISO 4217, from the package `iso4217`) and that neither direction ever rounds:
what is not exact is refused. Klarna counts in minor units as we do; BlueSnap writes decimal text. Leaves to each kind
of command which amounts it takes. A currency that ISO 4217 has withdrawn, or that has no minor units (gold), is
unknown here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from iso4217 import Currency

from .errors import InvalidAmount, UnknownCurrency

#: Currency → how many decimals it has: JPY 0, USD 2, KWD 3.
DECIMALS: Mapping[str, int] = MappingProxyType(
    {currency.value: currency.exponent for currency in Currency if currency.exponent is not None}
)

#: More digits than any amount has. What is longer is no amount, and is not worth reading.
_LONGEST_TEXT = 40

_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?")


def decimals(currency: str) -> int:
    """Say how many decimals a currency has.

    Raises:
        UnknownCurrency: ISO 4217 has no such currency, or it has no minor units.
    """
    found = DECIMALS.get(currency)
    if found is None:
        raise UnknownCurrency

    return found


def decimal_text(amount: int, *, currency: str) -> str:
    """Write minor units as the text of major units, with exactly the currency's decimals: 1234 USD is "12.34".

    Raises:
        UnknownCurrency: As `decimals` does.
        InvalidAmount: The amount is negative.
    """
    places = decimals(currency)
    if amount < 0:
        raise InvalidAmount("it is negative")
    if places == 0:
        return str(amount)

    whole, rest = divmod(amount, 10**places)

    return f"{whole}.{rest:0{places}d}"


def minor_units(text: str, *, currency: str) -> int:
    """Read the text of major units as minor units: "12.34" USD is 1234, and so is "12.3" 1230.

    Raises:
        UnknownCurrency: As `decimals` does.
        InvalidAmount: It is not a plain decimal number, or has more decimals than its currency.
    """
    places = decimals(currency)
    found = _DECIMAL.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if found is None:
        raise InvalidAmount("it is not a plain decimal number such as 12.34")
    rest = found[2] or ""
    if len(rest) > places:
        raise InvalidAmount(f"it has {len(rest)} decimals, {currency} has {places}")

    return int(found[1] + rest.ljust(places, "0"))
