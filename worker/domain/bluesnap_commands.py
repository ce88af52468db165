"""The commands of BlueSnap's Payment API: 7 changes without a key, 13 with one, and 5 reads.

Decides what each kind carries, BlueSnap's limits on it and BlueSnap's names for it. Leaves to `commands` what all kinds
have in common, to `money` the spelling of amounts, and to the provider which method, path and headers a kind becomes
and what the answers mean.

`order_id` is BlueSnap's id of the one thing a command is about: of the transaction for a capture, a refund, a reversal;
of the subscription, plan, vendor or shopper for what concerns those. There is no second name for it, so two commands
about one transaction are always of one order, and never in flight together. What creates something has no such id yet:
there `order_id` is a name of the caller's own, such as the shop's order number.

Amounts are whole minor units with their currency, and are sent as decimal text. `fields` carries what else BlueSnap
documents for a call, under BlueSnap's names; a decimal number in it is text, for a float is not exact.

BlueSnap looks at a key on POST alone, so a capture, a reversal or an update is not protected by one. Where a call takes
`transactionMetaData` the command's idempotency key goes into it, so that the command can be found again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import quote

from pydantic import Field, PlainValidator, StrictBool, StrictInt, StrictStr, model_validator

from .commands import Change, Command, Read, UnkeyedChange, matching, refusal
from .errors import FieldProblem, InvalidCommand
from .money import DECIMALS, decimal_text

#: The name under which a command's idempotency key stands in its transaction's metadata. It never changes: a read
#: looks for it for as long as transactions are kept.
META_KEY = "post-purchase-key"

#: BlueSnap takes 20 entries of metadata; one is ours.
MAX_META_DATA = 19

#: Ours, BlueSnap names no limit: a billion of most currencies.
MAX_AMOUNT = 100_000_000_000

#: Ours as well: how deep `fields` may be nested.
MAX_DEPTH = 20

#: The column that keeps it is no longer.
MAX_TARGET = 255

INT64_MAX = 2**63 - 1

#: Paths of the published idempotency list that no kind here is made for, or that a kind is made for which adds nothing
#: to the call. What stands in braces is an id. `/transactions` and refunds are not here: their kinds write what must
#: never be forgotten.
KEYED_PATHS: tuple[str, ...] = (
    "/alt-transactions",
    "/vaulted-shoppers",
    "/recurring/plans",
    "/recurring/subscriptions",
    "/recurring/ondemand",
    "/recurring/ondemand/{id}",
    "/vendors",
    "/report/{id}",
    "/batch/order-placement",
    "/subscriptions/{id}/subscription-charges",
)

_SEGMENT = r"(?!\.\.?(?:/|\Z))[A-Za-z0-9._~:-]+"
_KEYED_PATH = "|".join(re.escape(path).replace(r"\{id\}", _SEGMENT) for path in KEYED_PATHS)
_QUERY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_PLAIN_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*")


# --- what a field may hold ---------------------------------------------------------------------------------


def _currency(value: object) -> str:
    if not isinstance(value, str) or value not in DECIMALS:
        raise refusal("must be a currency of ISO 4217 in three capital letters, such as EUR")
    return value


def _json_object(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refusal("must be an object of named fields")
    if not value:
        raise refusal("must not be empty")

    return _copied_object(value, depth=1)


def _copied_object(value: Mapping[Any, Any], *, depth: int) -> dict[str, Any]:
    return {_utf8(name): _copied(inner, depth=depth) for name, inner in value.items()}


def _copied(value: object, *, depth: int) -> Any:
    """Copy a value that is JSON, so that no one can change it once it was checked."""
    if depth > MAX_DEPTH:
        raise refusal(f"must not be nested deeper than {MAX_DEPTH} levels")
    match value:
        case None | bool():
            return value
        case int() if abs(value) <= INT64_MAX:
            return value
        case str():
            return _utf8(value)
        case list() | tuple():
            return [_copied(item, depth=depth + 1) for item in value]
        case Mapping():
            return _copied_object(value, depth=depth + 1)
        case float():
            raise refusal("holds a number with a fraction, which is not exact: write it as text, such as '12.34'")
        case _:
            raise refusal("may hold only text, whole numbers, true, false, null, lists and objects")


def _utf8(text: object) -> str:
    if not isinstance(text, str):
        raise refusal("has a field whose name is not text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refusal("holds text that UTF-8 cannot carry") from None

    return text


def _meta_data(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise refusal("must be an object of texts")
    if len(value) > MAX_META_DATA:
        raise refusal(f"must have at most {MAX_META_DATA} entries")
    for name, text in value.items():
        if not 1 <= len(name) <= 40 or len(text) > 500:  # noqa: PLR2004 - BlueSnap's limits, said in the next line
            raise refusal("may have names of 1 to 40 and values of at most 500 characters")
        if name == META_KEY:
            raise refusal(f"may not name {META_KEY}, under which the command's own key stands")

    return {_utf8(name): _utf8(text) for name, text in value.items()}


def _query(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise refusal("must be an object of texts")
    for name, text in value.items():
        if _QUERY_NAME.fullmatch(name) is None or _PLAIN_TEXT.fullmatch(text) is None:
            raise refusal(
                "may have names of letters, digits and _ . - that begin with a letter, and values without control "
                "characters"
            )

    return {name: _utf8(text) for name, text in value.items()}


#: What a command moves or sets, in minor units of its currency.
Amount = Annotated[StrictInt, Field(ge=1, le=MAX_AMOUNT)]

#: An authorisation of 0 asks whether a card is valid.
AuthorizedAmount = Annotated[StrictInt, Field(ge=0, le=MAX_AMOUNT)]

Currency = Annotated[str, PlainValidator(_currency)]
JsonObject = Annotated[dict[str, Any], PlainValidator(_json_object)]
MetaData = Annotated[dict[str, str], PlainValidator(_meta_data)]
Query = Annotated[dict[str, str], PlainValidator(_query)]

MerchantTransactionId = Annotated[
    StrictStr,
    Field(min_length=1, max_length=50),
    matching(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", words="may hold no control characters and no line breaks"),
]
ShopperId = Annotated[StrictInt, Field(ge=1, le=INT64_MAX)]
PaymentToken = Annotated[
    StrictStr,
    Field(min_length=1, max_length=255),
    matching(r"[A-Za-z0-9._~:=/+-]*", words="may hold only letters, digits and . _ ~ : = / + -"),
]
KeyedPath = Annotated[
    StrictStr,
    matching(
        _KEYED_PATH,
        words=f"must be one of {', '.join(KEYED_PATHS)}, with an id for {{id}}; transactions and refunds have kinds of "
        "their own",
    ),
]


# --- how a body is made ------------------------------------------------------------------------------------


class _BlueSnap(Command):
    """What the commands of BlueSnap that have a body share: how they write it."""

    #: What the body says in any case.
    says: ClassVar[Mapping[str, str]] = {}

    #: What BlueSnap calls `order_id` where it stands in the body.
    order_name: ClassVar[str | None] = None

    #: Fields that are written as decimal text of `currency`.
    money: ClassVar[frozenset[str]] = frozenset()

    #: Whether the call takes `transactionMetaData`, and so carries the command's key.
    takes_meta_data: ClassVar[bool] = False

    #: Names that `fields` may not have besides those the command writes itself, each with the reason.
    refuses: ClassVar[Mapping[str, str]] = {}

    def body(self, idempotency_key: str) -> dict[str, Any] | None:
        """Say what is sent, in BlueSnap's names.

        Args:
            idempotency_key: Goes into the metadata, where the call takes any.
        """
        given = self.model_dump(mode="json", include=set(self.wire_names), exclude_none=True)
        given_currency: str = getattr(self, "currency", "")
        body: dict[str, Any] = {**(getattr(self, "fields", None) or {}), **self.says}
        if self.order_name is not None:
            body[self.order_name] = self.order_id
        for field, value in given.items():
            is_amount = field in self.money
            body[self.wire_names[field]] = decimal_text(value, currency=given_currency) if is_amount else value
        if self.takes_meta_data:
            texts = {META_KEY: idempotency_key, **(getattr(self, "meta_data", None) or {})}
            body["transactionMetaData"] = {
                "metaData": [{"metaKey": name, "metaValue": text} for name, text in texts.items()]
            }

        return body

    @model_validator(mode="after")
    def _writes_nothing_twice(self) -> Self:
        problems = list(self._clashes(getattr(self, "fields", None) or {}))
        if problems:
            raise InvalidCommand(self.kind, problems)
        return self

    def _clashes(self, fields: Mapping[str, object]) -> Iterator[FieldProblem]:
        written = {wire_name: f"give it as {field}" for field, wire_name in self.wire_names.items()}
        written |= dict.fromkeys(self.says, "the command writes it itself")
        if self.order_name is not None:
            written[self.order_name] = "give it as order_id"
        if self.takes_meta_data:
            written["transactionMetaData"] = "give it as meta_data"
        written |= self.refuses
        for name in fields:
            if name in written:
                yield FieldProblem(field=f"fields.{name}", message=f"may not stand here: {written[name]}")


class _Put(_BlueSnap, UnkeyedChange):
    """A change by PUT: BlueSnap does not look at a key."""


class _Post(_BlueSnap, Change):
    """A change by POST, protected by its key where the account's keys are enabled."""


class _Record(_BlueSnap):
    """A command that sends a record as the caller has written it, and names no amount of its own.

    Attributes:
        fields: The record in BlueSnap's names.
    """

    fields: JsonObject

    @property
    def amount(self) -> int | None:
        """No amount is named."""
        return None


class _RecordUpdate(_Record, _Put):
    """A record that replaces what BlueSnap has, as a whole or in the fields that are given."""


class _NewRecord(_Record, _Post):
    """A record that is new to BlueSnap."""


# --- transactions ------------------------------------------------------------------------------------------


class Capture(_Put):
    """Take authorised money, all of it or a part. What BlueSnap would take without an amount is everything.

    Attributes:
        amount: In minor units, at most what is still open to capture.
        currency: The currency of the authorisation. Not sent, but it decides where the decimal point stands.
        fields: What else BlueSnap documents for the call, such as softDescriptor, vendorsInfo, level3Data.
        meta_data: Texts of the caller's that are kept with the transaction.
    """

    kind: ClassVar[str] = "capture"
    wire_names: ClassVar[Mapping[str, str]] = {"amount": "amount"}
    says: ClassVar[Mapping[str, str]] = {"cardTransactionType": "CAPTURE"}
    order_name: ClassVar[str | None] = "transactionId"
    money: ClassVar[frozenset[str]] = frozenset({"amount"})
    takes_meta_data: ClassVar[bool] = True

    amount: Amount
    currency: Currency
    fields: JsonObject | None = None
    meta_data: MetaData | None = None


class AuthReversal(_Put):
    """Give up an authorisation of which nothing is captured, within 8 days."""

    kind: ClassVar[str] = "auth_reversal"
    says: ClassVar[Mapping[str, str]] = {"cardTransactionType": "AUTH_REVERSAL"}
    order_name: ClassVar[str | None] = "transactionId"

    @property
    def amount(self) -> int | None:
        """No amount is named: the whole authorisation goes."""
        return None


class Refund(_Post):
    """Give money back: an amount, or all that is left.

    Attributes:
        amount: In minor units; all that is left when absent.
        currency: The currency of the transaction, needed with an amount. Not sent, but it decides where the decimal
            point stands.
        tax_amount: How much of the amount is tax.
        reason: Why, as the shopper may see it.
        cancel_subscriptions: Whether the subscription that was charged ends with the refund. BlueSnap ends it unless
            told otherwise, so it is always told.
        fields: What else BlueSnap documents for the call, such as vendorsRefundInfo.
        meta_data: Texts of the caller's that are kept with the refund.
    """

    kind: ClassVar[str] = "refund"
    wire_names: ClassVar[Mapping[str, str]] = {
        "amount": "amount",
        "tax_amount": "taxAmount",
        "reason": "reason",
        "cancel_subscriptions": "cancelSubscriptions",
    }
    money: ClassVar[frozenset[str]] = frozenset({"amount", "tax_amount"})
    takes_meta_data: ClassVar[bool] = True

    amount: Amount | None = None
    currency: Currency | None = None
    tax_amount: Amount | None = None
    reason: StrictStr | None = Field(default=None, min_length=1, max_length=4000)
    cancel_subscriptions: StrictBool = False
    fields: JsonObject | None = None
    meta_data: MetaData | None = None

    @model_validator(mode="after")
    def _says_which_money(self) -> Self:
        problems = []
        if self.amount is not None and self.currency is None:
            problems.append(FieldProblem(field="currency", message="is required with an amount"))
        if self.tax_amount is not None and (self.amount is None or self.tax_amount > self.amount):
            message = "is a part of amount, which must be given and not be smaller"
            problems.append(FieldProblem(field="tax_amount", message=message))
        if problems:
            raise InvalidCommand(self.kind, problems)
        return self


class CancelPendingRefund(UnkeyedChange):
    """Take back a refund that is still pending."""

    kind: ClassVar[str] = "cancel_pending_refund"

    @property
    def amount(self) -> int | None:
        """No amount is named."""
        return None


class _Payment(_Post):
    """A payment by a shopper whom BlueSnap knows, or by a payment token. Card data is never taken.

    Attributes:
        currency: In three capital letters.
        vaulted_shopper_id: The shopper whose stored card pays.
        payment_token: The token of hosted payment fields. Good for one hour, so it does not survive a wait of five.
        merchant_transaction_id: The caller's own id of the transaction, unique at BlueSnap.
        fields: What else BlueSnap documents for the call. Of several stored cards `creditCard` chooses one by
            cardLastFourDigits and cardType.
        meta_data: Texts of the caller's that are kept with the transaction.
    """

    wire_names: ClassVar[Mapping[str, str]] = {
        "amount": "amount",
        "currency": "currency",
        "vaulted_shopper_id": "vaultedShopperId",
        "payment_token": "pfToken",
        "merchant_transaction_id": "merchantTransactionId",
    }
    money: ClassVar[frozenset[str]] = frozenset({"amount"})
    takes_meta_data: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("paymentSource", "wallet", "walletId"), "only a vaulted shopper or a payment token pays"
    )

    currency: Currency
    vaulted_shopper_id: ShopperId | None = None
    payment_token: PaymentToken | None = None
    merchant_transaction_id: MerchantTransactionId | None = None
    fields: JsonObject | None = None
    meta_data: MetaData | None = None

    @model_validator(mode="after")
    def _says_who_pays(self) -> Self:
        if self.vaulted_shopper_id is None and self.payment_token is None:
            message = "needs vaulted_shopper_id, payment_token or both"
            raise InvalidCommand(self.kind, [FieldProblem(field="", message=message)])
        return self


class Authorize(_Payment):
    """Reserve money on a card, to be captured later. An amount of 0 asks whether the card is valid."""

    kind: ClassVar[str] = "authorize"
    says: ClassVar[Mapping[str, str]] = {"cardTransactionType": "AUTH_ONLY"}

    amount: AuthorizedAmount


class Sale(_Payment):
    """Reserve money on a card and take it at once."""

    kind: ClassVar[str] = "sale"
    says: ClassVar[Mapping[str, str]] = {"cardTransactionType": "AUTH_CAPTURE"}

    amount: Amount


class CreateAltTransaction(_Post):
    """Take money by a payment method other than a card, such as a direct debit.

    Attributes:
        amount: In minor units.
        currency: In three capital letters.
        vaulted_shopper_id: The shopper who pays.
        payment_token: The token of a payment form.
        merchant_transaction_id: The caller's own id of the transaction, unique at BlueSnap.
        fields: What else BlueSnap documents for the payment method, such as authorizedByShopper.
        meta_data: Texts of the caller's that are kept with the transaction.
    """

    kind: ClassVar[str] = "create_alt_transaction"
    wire_names: ClassVar[Mapping[str, str]] = _Payment.wire_names
    money: ClassVar[frozenset[str]] = frozenset({"amount"})
    takes_meta_data: ClassVar[bool] = True

    amount: Amount
    currency: Currency
    vaulted_shopper_id: ShopperId | None = None
    payment_token: PaymentToken | None = None
    merchant_transaction_id: MerchantTransactionId | None = None
    fields: JsonObject | None = None
    meta_data: MetaData | None = None


# --- subscriptions -----------------------------------------------------------------------------------------


class _OnDemand(_Post):
    """A charge within a subscription whose times and amounts the shop decides.

    Attributes:
        currency: In three capital letters.
        vaulted_shopper_id: The shopper who pays.
        merchant_transaction_id: The caller's own id of the charge, unique at BlueSnap.
        fields: What else BlueSnap documents for the call.
        meta_data: Texts of the caller's that are kept with the charge.
    """

    wire_names: ClassVar[Mapping[str, str]] = {
        "amount": "amount",
        "currency": "currency",
        "vaulted_shopper_id": "vaultedShopperId",
        "merchant_transaction_id": "merchantTransactionId",
    }
    money: ClassVar[frozenset[str]] = frozenset({"amount"})
    takes_meta_data: ClassVar[bool] = True

    currency: Currency
    vaulted_shopper_id: ShopperId | None = None
    merchant_transaction_id: MerchantTransactionId | None = None
    fields: JsonObject | None = None
    meta_data: MetaData | None = None


class CreateOnDemandSubscription(_OnDemand):
    """Begin a subscription whose charges the shop decides, with a first charge or without one."""

    kind: ClassVar[str] = "create_on_demand_subscription"

    amount: Amount | None = None


class ChargeOnDemandSubscription(_OnDemand):
    """Charge such a subscription once; `order_id` is its id."""

    kind: ClassVar[str] = "charge_on_demand_subscription"

    amount: Amount


class CreateSubscription(_NewRecord):
    """Begin a subscription to a plan, after which BlueSnap charges by itself."""

    kind: ClassVar[str] = "create_subscription"


class UpdateSubscription(_RecordUpdate):
    """Change a subscription; `order_id` is its id."""

    kind: ClassVar[str] = "update_subscription"


class ChargeSubscription(_NewRecord):
    """Charge a subscription of the older kind once; `order_id` is its id."""

    kind: ClassVar[str] = "charge_subscription"


class CreatePlan(_NewRecord):
    """Make a plan that shoppers can subscribe to."""

    kind: ClassVar[str] = "create_plan"


class UpdatePlan(_RecordUpdate):
    """Change a plan; `order_id` is its id."""

    kind: ClassVar[str] = "update_plan"


# --- shoppers, vendors and the rest ------------------------------------------------------------------------


class CreateShopper(_NewRecord):
    """Store a shopper at BlueSnap."""

    kind: ClassVar[str] = "create_shopper"


class UpdateShopper(_RecordUpdate):
    """Replace what BlueSnap knows of a shopper, as a whole; `order_id` is the vaulted shopper's id."""

    kind: ClassVar[str] = "update_shopper"


class CreateVendor(_NewRecord):
    """Make a vendor of a marketplace."""

    kind: ClassVar[str] = "create_vendor"


class UpdateVendor(_RecordUpdate):
    """Replace what BlueSnap knows of a vendor, as a whole; `order_id` is the vendor's id."""

    kind: ClassVar[str] = "update_vendor"


class PlaceBatchOrder(_NewRecord):
    """Make a shopper and place an order in one call."""

    kind: ClassVar[str] = "place_batch_order"


class KeyedPost(_Post):
    """A POST to another path of BlueSnap's list of calls that honour a key.

    Path and query say what the command is about, and so are part of its key: the same reference for another path or
    another query is another intention.

    Attributes:
        path: One of `KEYED_PATHS`, with an id in place of {id}.
        query: What stands behind the question mark.
        fields: The body, in BlueSnap's names.
    """

    kind: ClassVar[str] = "keyed_post"

    path: KeyedPath
    query: Query | None = None
    fields: JsonObject | None = None

    @property
    def amount(self) -> int | None:
        """No amount is named."""
        return None

    @property
    def target(self) -> str:
        """The path with its query, the same for the same entries in whichever order they were given."""
        pairs = sorted((self.query or {}).items())
        query = "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in pairs)

        return f"{self.path}?{query}" if query else self.path

    @model_validator(mode="after")
    def _fits_its_column(self) -> Self:
        if len(self.target) > MAX_TARGET:
            message = f"is together with path {len(self.target)} characters long when written; at most {MAX_TARGET} fit"
            raise InvalidCommand(self.kind, [FieldProblem(field="query", message=message)])
        return self


# --- reads -------------------------------------------------------------------------------------------------


class ReadTransaction(Read):
    """Read a transaction with its refunds, or a refund by its own id."""

    kind: ClassVar[str] = "read_transaction"


class ReadSubscription(Read):
    """Read a subscription."""

    kind: ClassVar[str] = "read_subscription"


class ReadPlan(Read):
    """Read a plan."""

    kind: ClassVar[str] = "read_plan"


class ReadVendor(Read):
    """Read a vendor."""

    kind: ClassVar[str] = "read_vendor"


class ReadShopper(Read):
    """Read a vaulted shopper."""

    kind: ClassVar[str] = "read_shopper"


#: Every kind of command BlueSnap knows. The strings are stored and never change.
BLUESNAP_COMMANDS: Mapping[str, type[Command]] = MappingProxyType(
    {
        "capture": Capture,
        "auth_reversal": AuthReversal,
        "refund": Refund,
        "cancel_pending_refund": CancelPendingRefund,
        "authorize": Authorize,
        "sale": Sale,
        "create_alt_transaction": CreateAltTransaction,
        "create_on_demand_subscription": CreateOnDemandSubscription,
        "charge_on_demand_subscription": ChargeOnDemandSubscription,
        "create_subscription": CreateSubscription,
        "update_subscription": UpdateSubscription,
        "charge_subscription": ChargeSubscription,
        "create_plan": CreatePlan,
        "update_plan": UpdatePlan,
        "create_shopper": CreateShopper,
        "update_shopper": UpdateShopper,
        "create_vendor": CreateVendor,
        "update_vendor": UpdateVendor,
        "place_batch_order": PlaceBatchOrder,
        "keyed_post": KeyedPost,
        "read_transaction": ReadTransaction,
        "read_subscription": ReadSubscription,
        "read_plan": ReadPlan,
        "read_vendor": ReadVendor,
        "read_shopper": ReadShopper,
    }
)
