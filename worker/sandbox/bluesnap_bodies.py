"""Decides which request bodies BlueSnap takes: required fields, lengths and forms of each operation.

What a transaction then allows is `transactions.py`; which HTTP answer a finding becomes is `bluesnap.py`.
"""

from collections.abc import Mapping

from .money import is_currency
from .rules import Rule, items, record, text


def _currency(value: object, place: str) -> list[str]:
    return [] if isinstance(value, str) and is_currency(value) else [f"{place} must be a currency of three letters"]


def _flag(value: object, place: str) -> list[str]:
    return [] if isinstance(value, bool) else [f"{place} must be true or false"]


def _id(value: object, place: str) -> list[str]:
    is_id = (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value != "")

    return [] if is_id else [f"{place} must be an id"]


#: How many digits an amount may have depends on its currency, which is not always in the body: that is `bluesnap.py`.
_AMOUNT = text(20, least=1)

_METADATA = record(
    {},
    {
        "metaData": items(
            record({"metaKey": text(40, least=1), "metaValue": text(500)}, {"metaDescription": text(40)}),
            least=0,
            most=20,
        )
    },
)

_NAMED = {
    "merchantTransactionId": text(50, least=1),
    "softDescriptor": text(20),
    "transactionMetaData": _METADATA,
}

_RULES: Mapping[str, Rule] = {
    "post_transaction": record(
        {"amount": _AMOUNT, "currency": _currency}, {**_NAMED, "vaultedShopperId": _id, "pfToken": text(200, least=1)}
    ),
    "put_transaction": record({}, {**_NAMED, "transactionId": _id, "amount": _AMOUNT}),
    "refund": record(
        {},
        {
            "amount": _AMOUNT,
            "taxAmount": _AMOUNT,
            "reason": text(4_000),
            "cancelSubscriptions": _flag,
            "transactionMetaData": _METADATA,
        },
    ),
}

#: A record of the simple stores may hold anything, as long as it is an object.
_ANYTHING = record({}, {})


def takes_body(kind: str) -> bool:
    """Tell whether the operation reads its body at all."""
    return not kind.startswith("read_") and kind != "cancel_pending_refund"


def problems_of(kind: str, content: object) -> list[str]:
    """Name everything that is wrong with the body of an operation; nothing wrong, no sentences."""
    return _RULES.get(kind, _ANYTHING)(content, "")
