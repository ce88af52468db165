"""What BlueSnap's records show of a command: done, absent, or something a person must look at.

Decides by one literal table which kinds can be read back, which read that takes, and for each kind what its effect
looks like. Leaves the request, and an answer that is no record, to `bluesnap`.

Our mark is the command's key in `transactionMetaData`. A transaction has one set of metadata, which a later change of
it may replace: that our mark is missing from a captured transaction proves nothing, only an authorization that is
whole does. A refund has metadata of its own, but the transaction's list of refunds need not show it: a refund of the
right amount without metadata may be ours. Where the command's own success named the refund, its id is proof enough.

A change that sets fields is done when they stand as they were sent, whoever set them. A payment is found by the
caller's own `merchantTransactionId`, where the command has one and the account says its merchant id. Whatever else is
created has no name of ours that could be read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from ..domain.bluesnap_commands import META_KEY
from ..domain.finding import Absent, Ambiguous, Done, Finding
from ..ports import Held
from .http import identifier, sent_in
from .reading import Case, Json, alike, differing, evidence, named, quoted

_MAY_BE_HIDDEN = "A later change by somebody else would hide it."

_GONE = frozenset({"FAIL", "FAILED", "FAILURE", "DECLINED"})
_CANCELLED = frozenset({"CANCELLED", "CANCELED"})
#: BlueSnap's older answers name no status of a refund: that is no failure.
_SETTLED = frozenset({"SUCCESS", ""})

_DECIMAL = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_LONGEST_DECIMAL = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """How a kind is read back: `read` is the kind of the read, `id` where the record shows what it is."""

    read: str
    id: str
    judge: Callable[[Case], Finding]


def find(held: Held, content: object) -> Finding | None:
    """Hold a command against what its read brought; None when that is not the record asked for.

    Args:
        held: The command.
        content: The record.
    """
    look, sent = LOOKUPS.get(held.kind), sent_in(held)
    if look is None:
        return Ambiguous(evidence="This kind of command has no name of ours that BlueSnap shows.")
    asked = identifier(sent.get(look.id)) if look.id == _PAYMENT_ID else held.order_id
    if not isinstance(content, dict) or not asked or identifier(content.get(look.id)) != asked:
        return None

    return look.judge(Case(held=held, sent=sent, shown=content, result=held.result or {}))


# --- captures and reversals --------------------------------------------------------------------------------


def _captured(case: Case) -> Finding:
    kind, amount, left = _type(case.shown), _decimal(case.shown.get("amount")), _decimal(_open(case.shown))
    asked = _decimal(case.sent.get("amount"))
    if amount is None or asked is None:
        return _ambiguous(case, "The transaction's amount cannot be understood.")
    if case.held.idempotency_key in _keys(case.shown):
        if kind != "CAPTURE" or asked > amount or _processing(case.shown) in _GONE:
            return _ambiguous(case, f"The transaction carries our key, but shows no capture of {quoted(str(asked))}.")
        told = f"The transaction carries the key of our capture of {quoted(str(asked))}."
        return Done(evidence=_told(case, told), result=_transaction_result(case.shown))
    if kind == "AUTH_ONLY" and amount == left and _refunds(case.shown) == []:
        return Absent(evidence=_told(case, "The whole amount is still open to capture."))

    return _ambiguous(case, "Our key is not on the transaction, and it is not open to capture as a whole any more.")


def _reversed(case: Case) -> Finding:
    """A reversal takes no metadata: the transaction's own type tells."""
    kind, left = _type(case.shown), _decimal(_open(case.shown))
    if kind == "AUTH_REVERSAL" and not left:
        return Done(evidence=_told(case, "The authorization is reversed."), result=_transaction_result(case.shown))
    if kind in {"CAPTURE", "AUTH_CAPTURE"} or (kind == "AUTH_ONLY" and left):
        return Absent(evidence=_told(case, "The authorization is not reversed."))

    return _ambiguous(case, "It cannot be told whether the authorization was reversed.")


# --- refunds -----------------------------------------------------------------------------------------------


def _refunded(case: Case) -> Finding:
    refunds = _refunds(case.shown)
    if refunds is None:
        return _ambiguous(case, "The list of refunds cannot be understood.")
    known = identifier(case.result.get("refund_transaction_id"))
    if known:
        mine = [refund for refund in refunds if _refund_id(refund) == known]
    else:
        mine = [refund for refund in refunds if _is_marked(refund, case.held.idempotency_key)]

    times_by_id = Counter(filter(None, map(_refund_id, refunds)))
    repeated = [each for each, times in times_by_id.items() if times > 1]
    if repeated:
        return _ambiguous(case, f"Several refunds have the same id: {named(repeated)}.")
    match mine:
        case [refund]:
            return _one_refund(case, refunds, refund, is_known=bool(known))
        case []:
            return _no_refund(case, refunds, known=known)
        case _:
            ids = named([_refund_id(refund) for refund in mine])
            return _ambiguous(case, f"{len(mine)} refunds carry our key: {ids}.")


def _one_refund(case: Case, refunds: list[Json], refund: Json, *, is_known: bool) -> Finding:
    status, what = _refund_status(refund), f"refund {quoted(_refund_id(refund))}"
    if not _fits(case, refund):
        return _ambiguous(case, f"The {what} is this command's, but is of {_money(refund)}.")
    state = f"The {what} of {_money(refund)} is this command's, and is {status or 'without a status'}."
    told = _told(case, state, _disagreement(case, refunds))
    result = {
        name: found
        for name, found in (("refund_transaction_id", _refund_id(refund)), ("refund_status", _as_shown(refund)))
        if found
    }
    if status == "PENDING" or status in _SETTLED:
        return Done(evidence=told, result=result, settled=status in _SETTLED)
    # Somebody called it back on purpose: to make it anew is not for a machine, unless it was known to have been made.
    if status in _GONE or (is_known and status in _CANCELLED):
        return Absent(evidence=told)

    return Ambiguous(evidence=told)


def _no_refund(case: Case, refunds: list[Json], *, known: str) -> Finding:
    if known:
        return Absent(evidence=_told(case, f"The refund {quoted(known)} is not listed."))
    disagreement = _disagreement(case, refunds)
    if disagreement:
        return _ambiguous(case, "No refund listed carries our key.", disagreement)
    nobodys = [refund for refund in refunds if not _keys_shown(refund) and _fits(case, refund)]
    if nobodys:
        ids = named([_refund_id(refund) for refund in nobodys])
        return _ambiguous(case, f"Of the refunds that fit, none shows whose it is: {ids}.")

    return Absent(evidence=_told(case, f"Of {len(refunds)} refunds listed none is this command's."))


def _disagreement(case: Case, refunds: list[Json]) -> str:
    """Say how list and totals disagree; empty when they agree, or when there is no balance to compare with."""
    listed = case.shown.get("refunds")
    balance = listed.get("balanceAmount") if isinstance(listed, dict) else None
    amounts = [_decimal(refund.get("amount")) for refund in refunds if _refund_status(refund) not in _GONE | _CANCELLED]
    total, left = _decimal(case.shown.get("amount")), _decimal(balance)
    currencies = {quoted(each.get("currency", case.shown.get("currency"))) for each in (case.shown, *refunds)}
    if total is None or None in amounts or (left is None and balance is not None) or len(currencies) > 1:
        return "The amounts cannot be understood."
    given_back = sum((amount for amount in amounts if amount is not None), Decimal(0))
    if left is None or total - given_back == left:
        return ""

    return f"The list and the balance disagree: {quoted(str(given_back))} refunded in the list, {quoted(balance)} left."


def _refund_cancelled(case: Case) -> Finding:
    """The call names no refund, and one at most is pending: a mix of called back and settled ones does not tell."""
    refunds = _refunds(case.shown)
    if refunds is None:
        return _ambiguous(case, "The list of refunds cannot be understood.")
    statuses = {_refund_status(refund) for refund in refunds}
    if "PENDING" in statuses:
        return Absent(evidence=_told(case, "A refund is still pending."))
    if statuses and statuses <= _CANCELLED:
        return Done(evidence=_told(case, f"Called back: {named([_refund_id(refund) for refund in refunds])}."))

    return _ambiguous(case, "No refund is pending, and it cannot be told whether one was called back.")


def _fits(case: Case, refund: Json) -> bool:
    """Whether a refund is of the amount that was sent; without one any is, for all that was left was asked for."""
    asked = case.sent.get("amount")

    return asked is None or (_decimal(asked) is not None and _decimal(asked) == _decimal(refund.get("amount")))


def _is_marked(refund: Json, key: str) -> bool:
    reason = refund.get("reason")

    return key in _keys(refund) or (isinstance(reason, str) and key in reason)


def _refunds(transaction: Json) -> list[Json] | None:
    """Read the list of refunds, empty where there is none; None for anything else."""
    listed = transaction.get("refunds")
    if listed is None:
        return []
    if not isinstance(listed, dict):
        return None

    return _objects(listed.get("refund"))


def _refund_id(refund: Json) -> str:
    return identifier(refund.get("refundTransactionId"))


def _as_shown(refund: Json) -> str:
    return identifier(refund.get("refundStatus"))


def _refund_status(refund: Json) -> str:
    status = refund.get("refundStatus")

    return "" if status is None else quoted(status).upper()


# --- payments and records ----------------------------------------------------------------------------------

#: The caller's own name of a payment, in the record as in what was sent.
_PAYMENT_ID = "merchantTransactionId"


def _paid(case: Case) -> Finding:
    sent, shown, key = case.sent, case.shown, case.held.idempotency_key
    amount = _decimal(sent.get("amount"))
    agrees = amount is not None and amount == _decimal(shown.get("amount"))
    if not agrees or not alike(sent.get("currency"), shown.get("currency")):
        return _ambiguous(case, f"The payment by that name is not one of {quoted(sent.get('amount'))} as sent.")
    if (_keys_shown(shown) and key not in _keys(shown)) or _processing(shown) in _GONE:
        return _ambiguous(case, "The payment by that name and of that amount carries another key, or has failed.")

    return Done(evidence=_told(case, "The payment by that name is of that amount."), result=_transaction_result(shown))


def _set(case: Case, *, kept_as: str) -> Finding:
    """Compare what was sent with what is shown, and name fields only: their values may be about a person."""
    if not case.sent:
        return Ambiguous(evidence=evidence("The command carries no fields that could be compared."))
    others = differing(case.sent, case.shown, same=_same)
    about = f"BlueSnap's record {quoted(case.held.order_id)}"
    if not others:
        return Done(
            evidence=evidence(f"{about} is as sent: {named(list(case.sent))}."), result={kept_as: case.held.order_id}
        )

    return Absent(evidence=evidence(f"{about} is not as sent: {named(others)}.", _MAY_BE_HIDDEN))


def _same(sent: object, shown: object) -> bool:
    """Whether two values are the same; BlueSnap shows as a number what was sent as text, and the other way round."""
    amounts = _decimal(sent), _decimal(shown)
    if None not in amounts:
        return amounts[0] == amounts[1]

    return alike(sent, shown)


#: How the effect of each kind is found, and in which record. A kind that is not here cannot be read back.
LOOKUPS: Mapping[str, Lookup] = {
    "capture": Lookup(read="read_transaction", id="transactionId", judge=_captured),
    "auth_reversal": Lookup(read="read_transaction", id="transactionId", judge=_reversed),
    "refund": Lookup(read="read_transaction", id="transactionId", judge=_refunded),
    "cancel_pending_refund": Lookup(read="read_transaction", id="transactionId", judge=_refund_cancelled),
    "authorize": Lookup(read="read_transaction", id=_PAYMENT_ID, judge=_paid),
    "sale": Lookup(read="read_transaction", id=_PAYMENT_ID, judge=_paid),
    "update_subscription": Lookup(
        read="read_subscription", id="subscriptionId", judge=partial(_set, kept_as="subscription_id")
    ),
    "update_plan": Lookup(read="read_plan", id="planId", judge=partial(_set, kept_as="plan_id")),
    "update_shopper": Lookup(
        read="read_shopper", id="vaultedShopperId", judge=partial(_set, kept_as="vaulted_shopper_id")
    ),
    "update_vendor": Lookup(read="read_vendor", id="vendorId", judge=partial(_set, kept_as="vendor_id")),
}

#: Kinds that are found by the caller's own name alone, which needs the account's merchant id beside it.
NAMED_BY_CALLER = frozenset(kind for kind, look in LOOKUPS.items() if look.id == _PAYMENT_ID)


# --- how a record is read and spoken of --------------------------------------------------------------------


def payment_name(held: Held) -> str:
    """Read the caller's own name of a payment; empty where it has none."""
    return identifier(sent_in(held).get(_PAYMENT_ID))


def _objects(listed: object) -> list[Json] | None:
    """Read a list of objects, or the single one that stands for a list of one; None for anything else."""
    match listed:
        case None:
            return []
        case dict():
            return [listed]
        case list() if all(isinstance(entry, dict) for entry in listed):
            return listed
        case _:
            return None


def _metadata(content: Json) -> list[Json]:
    shown = content.get("transactionMetaData")

    return (_objects(shown.get("metaData")) if isinstance(shown, dict) else None) or []


def _keys(content: Json) -> set[str]:
    """Read the keys of commands of ours that stand in the metadata."""
    return {identifier(entry.get("metaValue")) for entry in _metadata(content) if entry.get("metaKey") == META_KEY}


def _keys_shown(content: Json) -> bool:
    """Whether metadata is shown at all: where it is, the lack of our key means that it is somebody else's."""
    return bool(_metadata(content))


def _decimal(value: object) -> Decimal | None:
    """Read decimal text of major units, or a number that stands for it; None for anything else, exact both ways."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = repr(value) if isinstance(value, float) else str(value)

    return Decimal(text) if len(text) <= _LONGEST_DECIMAL and _DECIMAL.fullmatch(text) else None


def _type(transaction: Json) -> str:
    return quoted(transaction.get("cardTransactionType")).upper()


def _open(transaction: Json) -> object:
    return transaction.get("openToCapture")


def _processing(transaction: Json) -> str:
    info = transaction.get("processingInfo")

    return quoted(info.get("processingStatus")).upper() if isinstance(info, dict) else ""


def _money(content: Json) -> str:
    return f"{quoted(content.get('amount'))} {quoted(content.get('currency'))}"


def _transaction_result(transaction: Json) -> Mapping[str, str]:
    info = transaction.get("processingInfo")
    found = {
        "transaction_id": identifier(transaction.get("transactionId")),
        "processing_status": identifier(info.get("processingStatus")) if isinstance(info, dict) else "",
    }

    return {name: value for name, value in found.items() if value}


def _ambiguous(case: Case, *sentences: str) -> Ambiguous:
    return Ambiguous(evidence=_told(case, *sentences))


def _told(case: Case, *sentences: str) -> str:
    shown = case.shown
    processing = _processing(shown)
    review = "" if processing in {"", "SUCCESS", "NONE"} else f", processing {processing}"
    left = f", open to capture {quoted(_open(shown))}" if _open(shown) is not None else ""
    facts = f"Transaction {quoted(shown.get('transactionId'))} is {_type(shown)} of {_money(shown)}{left}{review}."

    return evidence(*sentences, facts)
