"""Decides what an order of Klarna's v1 allows in which status, and what each change does to its amounts.

Whether a request reaches an order at all, and as which HTTP answer a refusal leaves, is `klarna.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid5

from .errors import SandboxError

Json = dict[str, Any]

#: An authorization lives this long unless the contract says otherwise; extending counts the same again from today.
AUTHORIZATION_LIFE = timedelta(days=28)

#: No extension reaches further than this from the day the order was made.
LONGEST_AUTHORIZATION = timedelta(days=180)

#: For so long after its rejection an order may still be captured.
_GRACE_AFTER_REJECTION = timedelta(hours=4)

STATUSES = ("AUTHORIZED", "PART_CAPTURED", "CAPTURED", "CANCELLED", "EXPIRED", "CLOSED")

#: What a buyer pays, in minor units, for so many days more.
_FEE_BY_DAYS = {10: 0, 20: 150, 30: 300}

_OPEN = ("AUTHORIZED", "PART_CAPTURED")

#: The namespace of the ids of captures and refunds.
_IDS = UUID("0b6a4d1e-53c1-4b44-9d0a-6f6f0c6d2c1d")


class Refusal(Exception):
    """The order does not allow the change: a business answer with an error code, never a fault."""

    def __init__(self, code: str, *messages: str, status: int = 403) -> None:
        super().__init__(f"{status} {code}: {' '.join(messages)}")
        self.status, self.code, self.messages = status, code, messages


@dataclass(slots=True, kw_only=True)
class Capture:
    """Money taken from an order's authorization."""

    capture_id: str
    klarna_reference: str
    captured_amount: int
    captured_at: datetime
    refunded_amount: int = 0
    description: str | None = None
    reference: str | None = None
    order_lines: list[Json] = field(default_factory=list)
    shipping_info: list[Json] = field(default_factory=list)
    shipping_address: Json | None = None

    def shown(self) -> Json:
        """Show the capture as a read does."""
        return _without_none(
            {
                "capture_id": self.capture_id,
                "klarna_reference": self.klarna_reference,
                "captured_amount": self.captured_amount,
                "captured_at": _iso(self.captured_at),
                "description": self.description,
                "reference": self.reference,
                "refunded_amount": self.refunded_amount,
                "order_lines": self.order_lines,
                "shipping_info": self.shipping_info,
                "shipping_address": self.shipping_address,
            }
        )

    def copied(self) -> Self:
        """Make a copy that later changes leave alone."""
        return replace(self, shipping_info=list(self.shipping_info))

    def takes(self, amount: int, lines: list[Json]) -> bool:
        """Tell whether a refund is booked against this capture: its lines are ours, add up, and there is room."""
        ours = {line.get("reference") for line in self.order_lines} - {None}
        theirs = {line.get("reference") for line in lines}
        lines_fit = bool(theirs) and theirs <= ours and sum(line["total_amount"] for line in lines) == amount

        return lines_fit and self.refunded_amount + amount <= self.captured_amount


@dataclass(slots=True, kw_only=True)
class Refund:
    """Money given back."""

    refund_id: str
    refunded_amount: int
    refunded_at: datetime
    description: str | None = None
    reference: str | None = None
    order_lines: list[Json] = field(default_factory=list)

    def shown(self) -> Json:
        """Show the refund as a read does."""
        return _without_none(
            {
                "refund_id": self.refund_id,
                "refunded_amount": self.refunded_amount,
                "refunded_at": _iso(self.refunded_at),
                "description": self.description,
                "reference": self.reference,
                "order_lines": self.order_lines,
                "credit_invoice": False,
            }
        )


@dataclass(slots=True, kw_only=True)
class Order:
    """One order of the merchant, with the laws of its life.

    AUTHORIZED → PART_CAPTURED → CAPTURED → CLOSED by captures and a full refund; AUTHORIZED → CANCELLED by a cancel;
    AUTHORIZED → EXPIRED by time. What is captured when the time comes stays captured, and the rest is let go.
    """

    order_id: str
    klarna_reference: str
    purchase_currency: str
    order_amount: int
    original_order_amount: int
    remaining_authorized_amount: int
    created_at: datetime
    expires_at: datetime
    status: str = "AUTHORIZED"
    fraud_status: str = "ACCEPTED"
    fraud_verdict: str = "ACCEPTED"
    fraud_verdict_at: datetime | None = None
    merchant_reference1: str | None = None
    merchant_reference2: str | None = None
    order_lines: list[Json] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    shipping_info: list[Json] = field(default_factory=list)
    shipping_address: Json | None = None
    reuses_id: bool = False
    """The next capture or refund gets the id of the last one."""

    @classmethod
    def opened(cls, order_id: str, *, amount: int, currency: str, number: int, now: datetime) -> Self:
        """Make an order as a buyer's purchase leaves it: authorized, nothing captured."""
        return cls(
            order_id=order_id,
            klarna_reference=f"S{number:06d}",
            purchase_currency=currency,
            order_amount=amount,
            original_order_amount=amount,
            remaining_authorized_amount=amount,
            created_at=now,
            expires_at=now + AUTHORIZATION_LIFE,
        )

    @property
    def captured_amount(self) -> int:
        """All that was captured."""
        return sum(capture.captured_amount for capture in self.captures)

    @property
    def refunded_amount(self) -> int:
        """All that was given back."""
        return sum(refund.refunded_amount for refund in self.refunds)

    def bring_to(self, status: str, *, now: datetime) -> None:
        """Take a fresh order through a life that ends in a status, so that a test may start there."""
        match status:
            case "AUTHORIZED":
                pass
            case "PART_CAPTURED":
                self.capture({"captured_amount": self.order_amount - self.order_amount // 2}, now=now)
            case "CAPTURED":
                self.capture({"captured_amount": self.order_amount}, now=now)
            case "CLOSED":
                self.capture({"captured_amount": self.order_amount}, now=now)
                self.refund({"refunded_amount": self.order_amount}, now=now)
            case "CANCELLED":
                self.cancel()
            case "EXPIRED":
                self.expires_at = min(self.expires_at, now)
                self.catch_up(now)
            case _:
                msg = f"status must be one of {', '.join(STATUSES)}, got {status!r}"
                raise SandboxError(msg)
        if self.status != status:
            msg = f"an amount of {self.order_amount} is too small for the status {status}"
            raise SandboxError(msg)

    def catch_up(self, now: datetime) -> None:
        """Let happen what time alone brings about."""
        if self.status in _OPEN and now >= self.expires_at:
            self.remaining_authorized_amount = 0
            self._settle(otherwise="EXPIRED")
        if self.fraud_verdict_at is not None and now >= self.fraud_verdict_at:
            self.fraud_status = self.fraud_verdict

    def copied(self) -> Self:
        """Make a copy that later changes leave alone."""
        return replace(
            self,
            captures=[capture.copied() for capture in self.captures],
            refunds=list(self.refunds),
            shipping_info=list(self.shipping_info),
        )

    def review(self, *, until: datetime, verdict: str, now: datetime) -> None:
        """Let the fraud check be pending until a moment, and then come to its verdict."""
        self.fraud_status, self.fraud_verdict, self.fraud_verdict_at = "PENDING", verdict, until
        self.catch_up(now)

    def capture(self, body: Mapping[str, Any], *, now: datetime) -> Capture:
        """Take money from what is still authorized."""
        amount: int = body["captured_amount"]
        if self.status not in _OPEN:
            raise Refusal("CAPTURE_NOT_ALLOWED", f"Capture is not allowed on an order that is {self.status}")
        if self.fraud_status == "PENDING":
            raise Refusal("CAPTURE_NOT_ALLOWED", "Capture is not allowed while the fraud check is pending")
        if self._is_rejected_for_good(now):
            raise Refusal("CAPTURE_NOT_ALLOWED", "Capture is not allowed on an order that was rejected as fraud")
        if amount > self.remaining_authorized_amount:
            raise Refusal("CAPTURE_NOT_ALLOWED", "The captured amount is above the remaining authorized amount")
        capture = Capture(
            capture_id=self._new_id("capture", among=[capture.capture_id for capture in self.captures]),
            klarna_reference=f"{self.klarna_reference}-{len(self.captures) + 1}",
            captured_amount=amount,
            captured_at=now,
            description=body.get("description"),
            reference=body.get("reference"),
            order_lines=body.get("order_lines") or [],
            shipping_info=list(body.get("shipping_info") or []),
            shipping_address=self.shipping_address,
        )
        self.captures.append(capture)
        self.remaining_authorized_amount -= amount
        self._settle(otherwise=self.status)

        return capture

    def refund(self, body: Mapping[str, Any], *, now: datetime) -> Refund:
        """Give back money that was captured."""
        amount: int = body["refunded_amount"]
        lines: list[Json] = body.get("order_lines") or []
        if not self.captures:
            raise Refusal("REFUND_NOT_ALLOWED", "Nothing has been captured on this order yet")
        if self.refunded_amount + amount > self.captured_amount:
            raise Refusal("REFUND_NOT_ALLOWED", "The refunded amount is above what is captured and not yet refunded")
        refund = Refund(
            refund_id=self._new_id("refund", among=[refund.refund_id for refund in self.refunds]),
            refunded_amount=amount,
            refunded_at=now,
            description=body.get("description"),
            reference=body.get("reference"),
            order_lines=lines,
        )
        self.refunds.append(refund)
        booked = next((capture for capture in self.captures if capture.takes(amount, lines)), None)
        if booked is not None:
            booked.refunded_amount += amount
        self._settle(otherwise=self.status)

        return refund

    def cancel(self) -> None:
        """Give up an order of which nothing was captured."""
        if self.captures:
            raise Refusal("CANCEL_NOT_ALLOWED", "The order has captures")
        if self.status != "AUTHORIZED":
            raise Refusal("CANCEL_NOT_ALLOWED", f"Cancel is not allowed on an order that is {self.status}")
        self.remaining_authorized_amount = 0
        self.status = "CANCELLED"

    def release_remaining_authorization(self) -> None:
        """Let go of what will not be captured any more."""
        if not self.captures:
            raise Refusal("NOT_ALLOWED", "The order has no captures; cancel it instead")
        if self.status not in _OPEN:
            raise Refusal("NOT_ALLOWED", f"There is nothing to release on an order that is {self.status}")
        self.remaining_authorized_amount = 0
        self._settle(otherwise=self.status)

    def update_authorization(self, body: Mapping[str, Any]) -> None:
        """Set a new amount and replace all lines; sending no lines removes them."""
        amount: int = body["order_amount"]
        self._demand_open()
        if amount < self.captured_amount:
            raise Refusal("NOT_ALLOWED", "The order amount may not fall below what is captured")
        self.order_amount = amount
        self.order_lines = body.get("order_lines") or []
        self.remaining_authorized_amount = amount - self.captured_amount
        self._settle(otherwise=self.status)

    def extend_authorization_time(self, *, now: datetime) -> None:
        """Count the life of the authorization from today; so a repeat on the same day changes nothing."""
        self._demand_open()
        today = datetime.combine(now.date(), datetime.min.time(), tzinfo=UTC)
        wished = min(today + AUTHORIZATION_LIFE, self.created_at + LONGEST_AUTHORIZATION)
        self.expires_at = max(self.expires_at, wished)

    def acknowledge(self) -> None:
        """Take note that the merchant has the order; no read shows it."""
        if self.status in ("CANCELLED", "EXPIRED"):
            raise Refusal("NOT_ALLOWED", f"An order that is {self.status} cannot be acknowledged")

    def update_customer_details(self, body: Mapping[str, Any]) -> None:
        """Replace the shipping address, which makes sense until everything is on its way."""
        self._demand_open()
        if body.get("shipping_address") is not None:
            self.shipping_address = body["shipping_address"]

    def update_merchant_references(self, body: Mapping[str, Any]) -> None:
        """Set the references that are given; an absent one stays as it was."""
        if self.status == "CANCELLED":
            raise Refusal("NOT_ALLOWED", "A cancelled order cannot be updated")
        if body.get("merchant_reference1") is not None:
            self.merchant_reference1 = body["merchant_reference1"]
        if body.get("merchant_reference2") is not None:
            self.merchant_reference2 = body["merchant_reference2"]

    def add_shipping_info(self, body: Mapping[str, Any], *, capture_id: str | None = None) -> None:
        """Append shipments to those of the order, or of one capture."""
        shipped = self if capture_id is None else self.find_capture(capture_id)
        shipped.shipping_info.extend(body["shipping_info"])

    def trigger_send_out(self, capture_id: str) -> None:
        """Write to the buyer about a capture once more; no read shows it."""
        if not self.captures:
            raise Refusal("NOT_ALLOWED", "The order has no captures")
        self.find_capture(capture_id)

    def extend_due_date(self, capture_id: str) -> None:
        """Give the buyer more days for a capture; no read shows it."""
        self.find_capture(capture_id)
        if self.status == "CLOSED":
            raise Refusal("NOT_ALLOWED", "There is nothing left to pay on an order that is CLOSED")

    def find_capture(self, capture_id: str) -> Capture:
        """Find one capture of this order."""
        for capture in self.captures:
            if capture.capture_id == capture_id:
                return capture
        raise Refusal("NO_SUCH_CAPTURE", "There is no such capture on this order", status=404)

    def find_refund(self, refund_id: str) -> Refund:
        """Find one refund of this order."""
        for refund in self.refunds:
            if refund.refund_id == refund_id:
                return refund
        raise Refusal("NOT_FOUND", "There is no such refund on this order", status=404)

    def due_date_options(self, capture_id: str) -> Json:
        """Offer the buyer more days for a capture, for a fee."""
        self.find_capture(capture_id)
        options = [{"amount": fee, "number_of_days": days} for days, fee in _FEE_BY_DAYS.items()]

        return {"currency": self.purchase_currency, "options": options}

    def shown(self) -> Json:
        """Show the order as a read does, captures and refunds included."""
        return _without_none(
            {
                "order_id": self.order_id,
                "status": self.status,
                "fraud_status": self.fraud_status,
                "order_amount": self.order_amount,
                "original_order_amount": self.original_order_amount,
                "captured_amount": self.captured_amount,
                "refunded_amount": self.refunded_amount,
                "remaining_authorized_amount": self.remaining_authorized_amount,
                "purchase_currency": self.purchase_currency,
                "purchase_country": "SE",
                "locale": "en-SE",
                "klarna_reference": self.klarna_reference,
                "merchant_reference1": self.merchant_reference1,
                "merchant_reference2": self.merchant_reference2,
                "created_at": _iso(self.created_at),
                "expires_at": _iso(self.expires_at),
                "order_lines": self.order_lines,
                "captures": [capture.shown() for capture in self.captures],
                "refunds": [refund.shown() for refund in self.refunds],
                "shipping_info": self.shipping_info,
                "shipping_address": self.shipping_address,
                "initial_payment_method": {"type": "INVOICE", "description": "Pay later"},
            }
        )

    def _new_id(self, what: str, *, among: list[str]) -> str:
        """Give what belongs to this order an id that follows from it, so that a script can name it beforehand."""
        reuses_id, self.reuses_id = self.reuses_id, False
        if reuses_id and among:
            return among[-1]

        return str(uuid5(_IDS, f"{self.order_id} {what} {len(among) + 1}"))

    def _is_rejected_for_good(self, now: datetime) -> bool:
        return (
            self.fraud_status == "REJECTED"
            and self.fraud_verdict_at is not None
            and now >= self.fraud_verdict_at + _GRACE_AFTER_REJECTION
        )

    def _demand_open(self) -> None:
        if self.status not in _OPEN:
            raise Refusal("NOT_ALLOWED", f"Update is not allowed on an order that is {self.status}")

    def _settle(self, *, otherwise: str) -> None:
        """Give the order the status that its amounts say."""
        captured, refunded = self.captured_amount, self.refunded_amount
        if not captured:
            self.status = otherwise
        elif self.remaining_authorized_amount:
            self.status = "PART_CAPTURED"
        else:
            self.status = "CLOSED" if refunded == captured else "CAPTURED"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_none(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
