"""Decides what a card transaction at BlueSnap allows in which state, and what each change does to its amounts.

Whether a request reaches a transaction at all, and as which HTTP answer a refusal leaves, is `bluesnap.py`.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from .money import written

Json = dict[str, Any]

#: An authorization holds 3 to 10 days, depending on the bank; here the longest.
AUTHORIZATION_LIFE = timedelta(days=10)

#: After so long an authorization cannot be reversed any more.
REVERSAL_LIFE = timedelta(days=8)

#: A sale older than two years cannot be refunded.
REFUND_LIFE = timedelta(days=730)

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One entry in the list of what is wrong with a request."""

    name: str | None
    description: str
    property: str | None = None


class Refusal(Exception):
    """The request is refused: a business answer with a list of problems, never a fault."""

    def __init__(self, *problems: Problem, status: int = 400) -> None:
        super().__init__(f"{status} {', '.join(str(problem.name) for problem in problems)}")
        self.status, self.problems = status, problems

    @classmethod
    def of(cls, name: str, description: str, *, property: str | None = None) -> Self:  # noqa: A002  # BlueSnap's word
        """Refuse for one reason."""
        return cls(Problem(name=name, description=description, property=property))


@dataclass(slots=True, kw_only=True)
class Refund:
    """Money given back, or about to be."""

    refund_id: str
    currency: str
    amount: Decimal
    refunded_at: datetime
    status: str
    settles_at: datetime | None
    """When a PENDING refund comes to its end, and"""
    settles_as: str
    """what it is then."""
    tells_status: bool = True
    reason: str | None = None
    metadata: list[Json] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Tell whether the money is gone or going."""
        return self.status in ("SUCCESS", "PENDING")

    def catch_up(self, now: datetime) -> None:
        """Let happen what time alone brings about."""
        if self.status == "PENDING" and self.settles_at is not None and now >= self.settles_at:
            self.status = self.settles_as

    def entry(self, *, has_details: bool) -> Json:
        """Show the refund as one of its transaction's."""
        content: Json = {
            "refundTransactionId": _number(self.refund_id),
            "amount": written(self.amount, self.currency),
            "currency": self.currency,
            "date": _date(self.refunded_at),
        }
        if self.tells_status:
            content["refundStatus"] = self.status

        return {**content, **self._details()} if has_details else content

    def shown(self) -> Json:
        """Show the refund as its own read does."""
        return {
            "cardTransactionType": "REFUND",
            "transactionId": self.refund_id,
            "amount": written(self.amount, self.currency),
            "currency": self.currency,
            "processingInfo": {"processingStatus": self.status},
            **self._details(),
            "refunds": {"refund": [self.entry(has_details=True)]},
        }

    def _details(self) -> Json:
        reason = {} if self.reason is None else {"reason": self.reason}

        return {**reason, **shown_metadata(self.metadata)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRefund:
    """That the next refund of a transaction is pending for so long, and what becomes of it then."""

    seconds: float
    ends: str


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One card transaction, with the laws of its life.

    AUTH_ONLY → CAPTURE by captures of parts or the whole, AUTH_ONLY → AUTH_REVERSAL by a reversal; AUTH_CAPTURE is a
    sale, captured from its beginning. What is captured may be refunded. What is not captured in time is let go.
    """

    transaction_id: str
    currency: str
    amount: Decimal
    """What was authorized."""
    created_at: datetime
    expires_at: datetime
    is_sale: bool = False
    open_to_capture: Decimal = _ZERO
    captured: Decimal = _ZERO
    is_reversed: bool = False
    is_expired: bool = False
    processing_status: str = "SUCCESS"
    verdict: str = "ACCEPTED"
    verdict_at: datetime | None = None
    merchant_transaction_id: str | None = None
    vaulted_shopper_id: object = None
    soft_descriptor: str | None = None
    metadata: list[Json] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    held_refund: HeldRefund | None = None

    @classmethod
    def opened(
        cls, transaction_id: str, *, amount: Decimal, currency: str, is_sale: bool, now: datetime, body: Json
    ) -> Self:
        """Make a transaction as a purchase leaves it: authorized, and captured too if it is a sale."""
        return cls(
            transaction_id=transaction_id,
            currency=currency,
            amount=amount,
            created_at=now,
            expires_at=now + AUTHORIZATION_LIFE,
            is_sale=is_sale,
            open_to_capture=_ZERO if is_sale else amount,
            captured=amount if is_sale else _ZERO,
            merchant_transaction_id=body.get("merchantTransactionId"),
            vaulted_shopper_id=body.get("vaultedShopperId"),
            soft_descriptor=body.get("softDescriptor"),
            metadata=metadata_in(body),
        )

    @property
    def card_transaction_type(self) -> str:
        """Say what the transaction is now."""
        if self.is_sale:
            return "AUTH_CAPTURE"
        if self.captured:
            return "CAPTURE"
        return "AUTH_REVERSAL" if self.is_reversed else "AUTH_ONLY"

    @property
    def balance(self) -> Decimal:
        """What can still be refunded."""
        return self.captured - sum((refund.amount for refund in self.refunds if refund.counts), _ZERO)

    def copied(self) -> Self:
        """Make a copy that later changes leave alone."""
        return replace(self, metadata=list(self.metadata), refunds=[replace(refund) for refund in self.refunds])

    def catch_up(self, now: datetime) -> None:
        """Let happen what time alone brings about."""
        if self.open_to_capture and now >= self.expires_at:
            self.open_to_capture = _ZERO
            self.is_expired = True
        if self.verdict_at is not None and now >= self.verdict_at:
            self.processing_status = "SUCCESS" if self.verdict == "ACCEPTED" else "FAIL"
        for refund in self.refunds:
            refund.catch_up(now)

    def review(self, *, until: datetime, verdict: str, now: datetime) -> None:
        """Let the merchant's review be pending until a moment, and then come to its verdict."""
        self.processing_status, self.verdict, self.verdict_at = "PENDING_MERCHANT_REVIEW", verdict, until
        self.catch_up(now)

    def capture(self, amount: Decimal | None, *, metadata: list[Json]) -> Decimal:
        """Take money from what is still authorized: all of it if no amount is given."""
        self._demand_authorization()
        if self.processing_status == "PENDING_MERCHANT_REVIEW":
            raise Refusal.of("TRANSACTION_LOCKED", "The transaction is under review")
        if self.processing_status == "FAIL":
            raise Refusal.of("FRAUD_DETECTED", "The transaction was rejected as fraud")
        taken = self.open_to_capture if amount is None else amount
        if not taken:
            raise Refusal.of("VALIDATION_GENERAL_FAILURE", "amount must be above 0", property="amount")
        if taken > self.open_to_capture:
            raise Refusal.of(
                "VALIDATION_GENERAL_FAILURE", "amount must not be above what is open to capture", property="amount"
            )
        self.open_to_capture -= taken
        self.captured += taken
        self._add(metadata)

        return taken

    def reverse(self, *, now: datetime, metadata: list[Json]) -> None:
        """Let the whole authorization go; it must not have been captured from."""
        if self.captured:
            raise Refusal.of("TRANSACTION_ALREADY_CAPTURED", "Transaction was already captured")
        self._demand_authorization()
        if now >= self.created_at + REVERSAL_LIFE:
            raise Refusal.of("AUTHORIZATION_EXPIRED", "The authorization is too old to be reversed")
        self.open_to_capture = _ZERO
        self.is_reversed = True
        self._add(metadata)

    def refund(self, refund: Refund, *, now: datetime) -> None:
        """Give back money that was captured."""
        if not self.captured:
            raise Refusal.of("REFUND_GENERAL_FAILURE", "The transaction has not been cleared yet")
        if now >= self.created_at + REFUND_LIFE:
            raise Refusal.of("REFUND_PERIOD_EXPIRED", "The period in which a refund is allowed has ended")
        if any(earlier.status == "PENDING" for earlier in self.refunds):
            raise Refusal.of("REFUND_IN_PROCESS", "Another refund of this transaction is in process")
        if not self.balance:
            whole = [earlier for earlier in self.refunds if earlier.counts and earlier.amount == self.captured]
            name = "INVOICE_ALREADY_REFUNDED" if whole else "INVOICE_ALREADY_FULLY_REFUNDED"
            raise Refusal.of(name, "The transaction was already refunded")
        if not refund.amount:
            raise Refusal.of("REFUND_MIN_AMOUNT_FAILURE", "The refund is below the minimum", property="amount")
        if refund.amount > self.balance:
            raise Refusal.of("REFUND_MAX_AMOUNT_FAILURE", "The refund is above the maximum", property="amount")
        self.refunds.append(refund)

    def cancel_pending_refund(self, refund_id: str | None) -> Refund:
        """Call back a refund that is still pending: a certain one, or the one that there is."""
        for refund in self.refunds:
            if refund.status == "PENDING" and refund_id in (None, refund.refund_id):
                refund.status = "CANCELLED"
                return refund
        raise Refusal.of("REFUND_GENERAL_FAILURE", "There is no pending refund")

    def shown(self, *, has_refund_details: bool = False) -> Json:
        """Show the transaction as a read does."""
        total = self.captured or self.amount
        optional = {
            "merchantTransactionId": self.merchant_transaction_id,
            "vaultedShopperId": self.vaulted_shopper_id,
            "softDescriptor": self.soft_descriptor,
        }
        content: Json = {
            "cardTransactionType": self.card_transaction_type,
            "transactionId": self.transaction_id,
            "amount": written(total, self.currency),
            "currency": self.currency,
            "openToCapture": written(self.open_to_capture, self.currency),
            "transactionApprovalDate": _date(self.created_at),
            "transactionApprovalTime": self.created_at.astimezone(UTC).strftime("%H:%M:%S"),
            "processingInfo": {"processingStatus": self.processing_status, "authorizationCode": "000000"},
            **{name: value for name, value in optional.items() if value is not None},
            **shown_metadata(self.metadata),
        }
        if self.refunds:
            content["refunds"] = {
                "refund": [refund.entry(has_details=has_refund_details) for refund in self.refunds],
                "balanceAmount": written(self.balance, self.currency),
            }

        return content

    def _demand_authorization(self) -> None:
        if self.is_reversed:
            raise Refusal.of("AUTHORIZATION_AMOUNT_ALREADY_REVERSED", "The authorization was already reversed")
        if self.is_expired:
            raise Refusal.of("AUTHORIZATION_EXPIRED", "The authorization has expired")
        if not self.open_to_capture:
            raise Refusal.of("TRANSACTION_ALREADY_CAPTURED", "Transaction was already captured")

    def _add(self, metadata: list[Json]) -> None:
        """Keep the metadata of a change beside the earlier one; the same key is replaced."""
        names = {entry["metaKey"] for entry in metadata}
        self.metadata = [entry for entry in self.metadata if entry["metaKey"] not in names] + metadata


def metadata_in(body: Json) -> list[Json]:
    """Take the metadata out of a body that was found in order."""
    return list((body.get("transactionMetaData") or {}).get("metaData") or [])


def shown_metadata(entries: list[Json]) -> Json:
    """Show metadata, if there is any."""
    return {"transactionMetaData": {"metaData": entries}} if entries else {}


def _number(text: str) -> int | str:
    """Show an id as the number that BlueSnap's are, unless a driver made up another."""
    return int(text) if text.isascii() and text.isdigit() else text


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%m/%d/%Y")
