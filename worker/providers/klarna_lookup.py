"""What Klarna's order shows of a command: done, absent, or something a person must look at.

Decides by one literal table which kinds can be read back, and for each of them what its effect looks like. Leaves the
request, and an answer that is no order, to `klarna`.

One read of the order serves all kinds, captures too. It shows the list of captures, the list of refunds and the totals
as they were at one moment, so that each can be held against the other; the list of captures alone has no total beside
it. Captures and refunds are found by our own mark, the `reference` that was sent: never by amount, total, status or
place in the list. Totals that disagree with the list only take away the right to call something absent.

A change that sets fields is done when they stand as they were sent, whoever set them. A later change by somebody else
hides ours; such a command is called absent, which is true of the order as it stands.

Nothing shows that an order was acknowledged, papers sent again, or a due date moved: these kinds are not in the table.
How long an authorization was to live before is not known here, so an extension cannot be told from none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ..domain.finding import Absent, Ambiguous, Done, Finding
from ..ports import Held
from .http import identifier, sent_in
from .reading import Case, Json, agrees, alike, differing, evidence, exactly, named, quoted

_NOT_READABLE = "This kind of command leaves nothing that Klarna shows."
_MAY_BE_HIDDEN = "A later change by somebody else would hide it."

_CAPTURED = frozenset({"CAPTURED", "CLOSED"})
_OPEN = frozenset({"AUTHORIZED", "PART_CAPTURED"})
_NOT_CANCELLED = frozenset({"AUTHORIZED", "PART_CAPTURED", "CAPTURED", "EXPIRED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Booking:
    """Something that an order lists with amount and reference. `amount` is its name in the entry and as a total."""

    noun: str
    listed: str
    id: str
    amount: str


_CAPTURE = _Booking(noun="capture", listed="captures", id="capture_id", amount="captured_amount")
_REFUND = _Booking(noun="refund", listed="refunds", id="refund_id", amount="refunded_amount")


def find(held: Held, content: object) -> Finding | None:
    """Hold a command against what a read of its order brought; None when that is not the order asked for."""
    if not isinstance(content, dict) or identifier(content.get("order_id")).lower() != held.order_id.lower():
        return None
    look = LOOKUPS.get(held.kind)
    if look is None:
        return Ambiguous(evidence=_NOT_READABLE)

    return look(Case(held=held, sent=sent_in(held), shown=content))


def unknown_order(held: Held) -> Ambiguous:
    """Say that there is no order to look at, which proves nothing: wrong region, wrong merchant, or gone."""
    return Ambiguous(evidence=evidence(f"Klarna knows no such order: {quoted(held.order_id)}."))


# --- money -------------------------------------------------------------------------------------------------


def _booked(case: Case, booking: _Booking) -> Finding:
    reference, amount = case.sent.get("reference"), _amount(case.sent.get(booking.amount))
    entries = _entries(case.shown, booking.listed)
    if reference is None or amount is None:
        return _ambiguous(case, f"The command carries no reference by which its {booking.noun} could be found.")
    if entries is None:
        return _ambiguous(case, f"The order's list of {booking.listed} cannot be understood.")

    times_by_id = Counter(identifier(entry.get(booking.id)) for entry in entries)
    times_by_id.pop("", None)
    mark = (
        f"our reference {quoted(reference)}"
        if reference == case.held.idempotency_key
        else "the reference that the caller gave"
    )
    mine = [entry for entry in entries if entry.get("reference") == reference]
    match mine:
        case []:
            return _not_booked(case, booking, entries, mark=mark, repeated=[i for i, n in times_by_id.items() if n > 1])
        case [entry]:
            found_id, shown = identifier(entry.get(booking.id)), _amount(entry.get(booking.amount))
            what = f"{booking.noun} {quoted(found_id)}"
            if shown != amount:
                told = f"The {what} carries {mark}, but is of {quoted(entry.get(booking.amount))} instead of {amount}."
                return _ambiguous(case, told)
            if times_by_id[found_id] > 1:
                return _ambiguous(case, f"The {what} carries {mark}, but another has the same id.")
            return Done(
                evidence=_told(case, f"The {what} of {amount} carries {mark}.", _disagreement(case, booking, entries)),
                result={booking.id: found_id} if found_id else {},
            )
        case _:
            ids = named([quoted(identifier(entry.get(booking.id))) for entry in mine])
            return _ambiguous(case, f"{len(mine)} {booking.listed} carry {mark}: {ids}.")


def _not_booked(case: Case, booking: _Booking, entries: list[Json], *, mark: str, repeated: list[str]) -> Finding:
    looked = f"Of the order's {len(entries)} {booking.listed} none carries {mark}"
    disagreement = _disagreement(case, booking, entries)
    if disagreement:
        return _ambiguous(case, f"{looked}.", disagreement)
    if repeated:
        return _ambiguous(case, f"{looked}, but several have the same id: {named(repeated)}.")
    equal = sum(1 for entry in entries if entry.get(booking.amount) == case.sent.get(booking.amount))
    others = f" ({equal} of the same amount, not ours)" if equal else ""

    return Absent(evidence=_told(case, f"{looked}{others}."))


def _disagreement(case: Case, booking: _Booking, entries: list[Json]) -> str:
    """Say how the list and the total of the order disagree; empty when they agree."""
    amounts = [_amount(entry.get(booking.amount)) for entry in entries]
    total = _amount(case.shown.get(booking.amount))
    if total is None or None in amounts:
        return f"The amounts of the {booking.listed}, or their total, cannot be understood."
    listed = sum(amount for amount in amounts if amount is not None)
    if total == listed:
        return ""

    return f"The list and the total disagree: {quoted(listed)} in {booking.listed} listed, {quoted(total)} in all."


# --- the authorization -------------------------------------------------------------------------------------


def _cancelled(case: Case) -> Finding:
    status, captures = _status(case.shown), _entries(case.shown, "captures")
    if captures is None:
        return _ambiguous(case, "The order's list of captures cannot be understood.")
    if status == "CANCELLED" and not captures:
        return Done(evidence=_told(case, "The order is cancelled."))
    if status in _NOT_CANCELLED or (status == "CLOSED" and captures):
        return Absent(evidence=_told(case, "The order is not cancelled."))

    return _ambiguous(case, "It cannot be told whether the order was cancelled.")


def _released(case: Case) -> Finding:
    status, left = _status(case.shown), _amount(case.shown.get("remaining_authorized_amount"))
    if status in _CAPTURED and left == 0:
        return Done(evidence=_told(case, "Nothing is authorized any more beyond what is captured."))
    if status in _OPEN and left:
        return Absent(evidence=_told(case, f"{left} is still authorized."))

    return _ambiguous(case, "It cannot be told whether the rest of the authorization was released.")


def _authorization_set(case: Case) -> Finding:
    """An amount that stands as sent, with other lines, may have been so before: only both together show the change."""
    asked, shown = _amount(case.sent.get("order_amount")), _amount(case.shown.get("order_amount"))
    if asked is None or shown is None:
        return _ambiguous(case, "The order's amount cannot be understood.")
    if asked != shown:
        return Absent(evidence=_told(case, f"The order's amount is {shown}, not {asked}.", _MAY_BE_HIDDEN))
    # Klarna replaces the lines by what it is sent, and by none when none are sent.
    if agrees(case.sent.get("order_lines") or [], case.shown.get("order_lines") or [], same=exactly):
        return Done(evidence=_told(case, f"The order's amount is {asked}, and its lines are as sent."))

    return _ambiguous(case, f"The order's amount is {asked}, but its lines are not as sent.")


def _extended(case: Case) -> Finding:
    expires_at = quoted(case.shown.get("expires_at"))

    return _ambiguous(case, f"The authorization ends {expires_at}; when it was to end before is not known here.")


# --- fields ------------------------------------------------------------------------------------------------


def _customer_set(case: Case) -> Finding:
    return _fields_set(case, case.sent.get("shipping_address"), case.shown.get("shipping_address"), same=alike)


def _references_set(case: Case) -> Finding:
    return _fields_set(case, case.sent, case.shown, same=exactly)


def _fields_set(case: Case, sent: object, shown: object, *, same: Callable[[object, object], bool]) -> Finding:
    """Compare what was sent with what is shown, and name fields only: their values are about a person."""
    if not isinstance(sent, dict) or not sent or not (shown is None or isinstance(shown, dict)):
        return _ambiguous(case, "The fields that were to be set cannot be compared.")
    others = differing(sent, shown or {}, same=same)
    if not others:
        return Done(evidence=_told(case, f"Set as sent: {named(list(sent))}."))

    return Absent(evidence=_told(case, f"Not as sent: {named(others)}.", _MAY_BE_HIDDEN))


def _order_shipped(case: Case) -> Finding:
    return _shipped(case, _entries(case.shown, "shipping_info"), place="order")


def _capture_shipped(case: Case) -> Finding:
    target, captures = case.held.target, _entries(case.shown, "captures")
    about = [each for each in captures or [] if identifier(each.get("capture_id")) == target]
    if len(about) != 1:
        return _ambiguous(case, f"The order shows {len(about)} captures with the id {quoted(target)}.")

    return _shipped(case, _entries(about[0], "shipping_info"), place="capture")


def _shipped(case: Case, shown: list[Json] | None, *, place: str) -> Finding:
    """Look for the tracking numbers: what else is known of a parcel, many others have in common with it."""
    sent = _tracking_numbers(_entries(case.sent, "shipping_info"))
    if not sent:
        return _ambiguous(case, "The command carries no tracking number by which its parcel could be found.")
    if shown is None:
        return _ambiguous(case, f"The {place}'s list of parcels cannot be understood.")
    missing = sorted(sent - _tracking_numbers(shown))
    if not missing:
        return Done(evidence=_told(case, f"The {place} shows every parcel of the command: {named(sorted(sent))}."))
    if len(missing) == len(sent):
        return Absent(evidence=_told(case, f"The {place} shows none of the command's parcels: {named(missing)}."))

    return _ambiguous(case, f"The {place} shows some of the command's parcels, but not {named(missing)}.")


def _tracking_numbers(entries: list[Json] | None) -> set[str]:
    return {found for entry in entries or [] if (found := identifier(entry.get("tracking_number")))}


#: How the effect of each kind is found in the order. A kind that is not here cannot be read back.
LOOKUPS: Mapping[str, Callable[[Case], Finding]] = {
    "capture": partial(_booked, booking=_CAPTURE),
    "refund": partial(_booked, booking=_REFUND),
    "cancel": _cancelled,
    "release_remaining_authorization": _released,
    "update_authorization": _authorization_set,
    "extend_authorization_time": _extended,
    "update_customer_details": _customer_set,
    "update_merchant_references": _references_set,
    "add_order_shipping_info": _order_shipped,
    "add_capture_shipping_info": _capture_shipped,
}


# --- how an order is read and spoken of --------------------------------------------------------------------


def _entries(content: Json, name: str) -> list[Json] | None:
    """Read a list of objects, empty where there is none; None for anything else."""
    listed = content.get(name)
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        return None

    return listed


def _amount(value: object) -> int | None:
    """Read minor units; None for a text, a fraction, a boolean or less than nothing."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _status(order: Json) -> str:
    return quoted(order.get("status")).upper()


def _ambiguous(case: Case, *sentences: str) -> Ambiguous:
    return Ambiguous(evidence=_told(case, *sentences))


def _told(case: Case, *sentences: str) -> str:
    order = case.shown
    fraud = quoted(order.get("fraud_status")).upper()
    review = "" if fraud in {"ACCEPTED", "NONE"} else f" and its fraud check {fraud}"
    totals = ", ".join(
        f"{word} {quoted(order.get(name))}"
        for word, name in (
            ("captured", "captured_amount"),
            ("refunded", "refunded_amount"),
            ("authorized still", "remaining_authorized_amount"),
        )
    )
    currency = quoted(order.get("purchase_currency"))
    facts = f"Order {quoted(case.held.order_id)} is {_status(order)}{review}: {totals} (minor units of {currency})."

    return evidence(*sentences, facts)
