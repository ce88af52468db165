"""The commands of Klarna's Order Management API v1: 13 changes and 5 reads.

Decides what each kind carries, Klarna's limits on it and Klarna's names for it. Leaves to `commands` what all kinds
have in common, and to the provider which method, path and headers a kind becomes and what the answers mean.

Two limits are ours: an amount of 0 is refused, for Klarna's schema admits it and no capture or refund of 0 exists;
and amounts of an order line that may be negative go as far down as Klarna lets amounts go up.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StrictInt, StrictStr, model_validator

from .commands import Change, Command, Part, PathId, PlainChange, Read, Reference, from_list, matching, not_empty
from .errors import FieldProblem, InvalidCommand

#: The largest amount in minor units, of a command as of an order line.
MAX_AMOUNT = 200_000_000

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

#: What a command moves or sets, in minor units.
Amount = Annotated[StrictInt, Field(ge=1, le=MAX_AMOUNT)]

#: An amount of an order line, in minor units. Discounts and return fees are negative.
LineAmount = Annotated[StrictInt, Field(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]

Country = Annotated[StrictStr, matching(r"[A-Za-z]{2}", words="must be the two letters of ISO 3166-1, such as SE")]

LineType = Literal[
    "physical",
    "discount",
    "shipping_fee",
    "sales_tax",
    "store_credit",
    "gift_card",
    "digital",
    "surcharge",
    "return_fee",
]

ShippingMethod = Literal[
    "PickUpStore",
    "Home",
    "BoxReg",
    "BoxUnreg",
    "PickUpPoint",
    "Own",
    "Postal",
    "DHLPackstation",
    "Digital",
    "Undefined",
    "PickUpWarehouse",
    "ClickCollect",
    "PalletDelivery",
]


class ProductIdentifiers(Part):
    """What identifies the product of an order line beyond the shop."""

    brand: StrictStr | None = Field(default=None, max_length=70)
    category_path: StrictStr | None = Field(default=None, max_length=750)
    color: StrictStr | None = Field(default=None, max_length=64)
    global_trade_item_number: StrictStr | None = Field(default=None, max_length=50)
    manufacturer_part_number: StrictStr | None = Field(default=None, max_length=70)
    size: StrictStr | None = Field(default=None, max_length=64)


class Subscription(Part):
    """The subscription an order line belongs to: every `interval_count` intervals."""

    name: StrictStr = Field(max_length=255)
    interval: Literal["DAY", "WEEK", "MONTH", "YEAR"]
    interval_count: StrictInt = Field(ge=1, le=INT32_MAX)


class OrderLine(Part):
    """One line of an order, capture or refund. Amounts include tax; `tax_rate` has two implied decimals.

    Klarna books a refund against a capture only when its lines carry the same `reference` as that capture's lines.
    """

    name: StrictStr = Field(max_length=255)
    quantity: StrictInt = Field(ge=0, le=INT64_MAX)
    unit_price: LineAmount
    total_amount: LineAmount
    type: LineType | None = None
    reference: StrictStr | None = Field(default=None, max_length=255)
    quantity_unit: StrictStr | None = Field(default=None, max_length=10)
    tax_rate: StrictInt | None = Field(default=None, ge=0, le=INT32_MAX)
    total_discount_amount: StrictInt | None = Field(default=None, ge=0, le=MAX_AMOUNT)
    total_tax_amount: LineAmount | None = None
    merchant_data: StrictStr | None = Field(default=None, max_length=1024)
    product_url: StrictStr | None = Field(default=None, max_length=1024)
    image_url: StrictStr | None = Field(default=None, max_length=1024)
    product_identifiers: ProductIdentifiers | None = None
    subscription: Subscription | None = None


class ShippingInfo(Part):
    """How one parcel travels, and how it would travel back."""

    shipping_company: StrictStr | None = Field(default=None, max_length=100)
    shipping_method: ShippingMethod | None = None
    tracking_number: StrictStr | None = Field(default=None, max_length=100)
    tracking_uri: StrictStr | None = Field(default=None, max_length=1024)
    return_shipping_company: StrictStr | None = Field(default=None, max_length=100)
    return_tracking_number: StrictStr | None = Field(default=None, max_length=100)
    return_tracking_uri: StrictStr | None = Field(default=None, max_length=1024)


class Address(Part):
    """Where an order is shipped to."""

    organization_name: StrictStr | None = Field(default=None, max_length=255)
    attention: StrictStr | None = Field(default=None, max_length=255)
    title: StrictStr | None = Field(default=None, max_length=20)
    given_name: StrictStr | None = Field(default=None, max_length=100)
    family_name: StrictStr | None = Field(default=None, max_length=100)
    street_address: StrictStr | None = Field(default=None, max_length=100)
    street_address2: StrictStr | None = Field(default=None, max_length=100)
    postal_code: StrictStr | None = Field(default=None, max_length=10)
    city: StrictStr | None = Field(default=None, max_length=200)
    region: StrictStr | None = Field(default=None, max_length=200)
    country: Country | None = None
    email: StrictStr | None = Field(default=None, max_length=100)
    phone: StrictStr | None = Field(default=None, max_length=100)


OrderLines = Annotated[tuple[OrderLine, ...], Field(strict=True, max_length=1000), from_list]
ShippingInfos = Annotated[tuple[ShippingInfo, ...], Field(strict=True, max_length=500), from_list]
SomeShippingInfos = Annotated[ShippingInfos, not_empty]


class Acknowledge(PlainChange):
    """Tell Klarna that the order has arrived in the shop."""

    kind: ClassVar[str] = "acknowledge"


class Capture(Change):
    """Take the money for what was shipped.

    Attributes:
        amount: In minor units, at most what is still authorised.
        description: Shown to the customer.
        order_lines: What was shipped, shown to the customer.
        shipping_info: How it travels.
        shipping_delay: Delay until shipping; above 0 only where Klarna has enabled it for the account.
        provider_reference: Stands in the settlement files; the idempotency key when absent.
    """

    kind: ClassVar[str] = "capture"
    wire_names: ClassVar[Mapping[str, str]] = {
        "amount": "captured_amount",
        "description": "description",
        "order_lines": "order_lines",
        "shipping_info": "shipping_info",
        "shipping_delay": "shipping_delay",
        "provider_reference": "reference",
    }

    amount: Amount
    description: StrictStr | None = Field(default=None, max_length=255)
    order_lines: OrderLines | None = None
    shipping_info: ShippingInfos | None = None
    shipping_delay: StrictInt | None = Field(default=None, ge=0, le=INT64_MAX)
    provider_reference: Reference | None = None


class Refund(Change):
    """Give money back.

    Attributes:
        amount: In minor units, at most what is captured and not yet refunded.
        description: Shown to the customer.
        order_lines: What came back. Without lines that match a capture's the refund stays unallocated.
        provider_reference: Stands in the settlement files; the idempotency key when absent.
    """

    kind: ClassVar[str] = "refund"
    wire_names: ClassVar[Mapping[str, str]] = {
        "amount": "refunded_amount",
        "description": "description",
        "order_lines": "order_lines",
        "provider_reference": "reference",
    }

    amount: Amount
    description: StrictStr | None = Field(default=None, max_length=255)
    order_lines: OrderLines | None = None
    provider_reference: Reference | None = None


class Cancel(PlainChange):
    """Give up an order of which nothing is captured."""

    kind: ClassVar[str] = "cancel"


class ReleaseRemainingAuthorization(PlainChange):
    """Give up what is still authorised of an order of which something is captured."""

    kind: ClassVar[str] = "release_remaining_authorization"


class UpdateAuthorization(Change):
    """Set the order's amount and lines anew. Raising the amount runs a new risk check at Klarna.

    Attributes:
        amount: The new total in minor units, not below what is captured.
        description: Why it changes.
        order_lines: All lines of the order from now on. Klarna replaces the lines by what it is sent: when none are
            given, the order has no lines afterwards.
    """

    kind: ClassVar[str] = "update_authorization"
    wire_names: ClassVar[Mapping[str, str]] = {
        "amount": "order_amount",
        "description": "description",
        "order_lines": "order_lines",
    }

    amount: Amount
    description: StrictStr | None = Field(default=None, max_length=255)
    order_lines: OrderLines | None = None


class ExtendAuthorizationTime(PlainChange):
    """Prolong the authorisation by the account's number of days, counted from the day of the call."""

    kind: ClassVar[str] = "extend_authorization_time"


class UpdateCustomerDetails(PlainChange):
    """Change where the order is shipped to.

    Attributes:
        shipping_address: The new address. Klarna's schema lets it be absent; we do not, for then nothing is asked.
    """

    kind: ClassVar[str] = "update_customer_details"
    wire_names: ClassVar[Mapping[str, str]] = {"shipping_address": "shipping_address"}

    shipping_address: Address


class UpdateMerchantReferences(PlainChange):
    """Change the shop's own references of the order; one that is not given stays as it was.

    Attributes:
        merchant_reference1: The order number the customer knows.
        merchant_reference2: The shop's internal reference.
    """

    kind: ClassVar[str] = "update_merchant_references"
    wire_names: ClassVar[Mapping[str, str]] = {
        "merchant_reference1": "merchant_reference1",
        "merchant_reference2": "merchant_reference2",
    }

    merchant_reference1: StrictStr | None = Field(default=None, max_length=255)
    merchant_reference2: StrictStr | None = Field(default=None, max_length=255)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.merchant_reference1 is None and self.merchant_reference2 is None:
            message = "needs merchant_reference1, merchant_reference2 or both"
            raise InvalidCommand(self.kind, [FieldProblem(field="", message=message)])
        return self


class AddOrderShippingInfo(PlainChange):
    """Add to the order how it travels."""

    kind: ClassVar[str] = "add_order_shipping_info"
    wire_names: ClassVar[Mapping[str, str]] = {"shipping_info": "shipping_info"}

    shipping_info: SomeShippingInfos


class AddCaptureShippingInfo(PlainChange):
    """Add to one capture how it travels."""

    kind: ClassVar[str] = "add_capture_shipping_info"
    wire_names: ClassVar[Mapping[str, str]] = {"shipping_info": "shipping_info"}
    target_field: ClassVar[str | None] = "capture_id"

    capture_id: PathId
    shipping_info: SomeShippingInfos


class TriggerSendOut(PlainChange):
    """Have Klarna send the customer the papers of one capture again."""

    kind: ClassVar[str] = "trigger_send_out"
    target_field: ClassVar[str | None] = "capture_id"

    capture_id: PathId


class ExtendDueDate(PlainChange):
    """Give the customer longer to pay one capture.

    Attributes:
        capture_id: The capture.
        number_of_days: By how many days, one of those that `read_due_date_options` tells.
    """

    kind: ClassVar[str] = "extend_due_date"
    wire_names: ClassVar[Mapping[str, str]] = {"number_of_days": "number_of_days"}
    target_field: ClassVar[str | None] = "capture_id"

    capture_id: PathId
    number_of_days: StrictInt = Field(ge=1, le=INT32_MAX)


class ReadOrder(Read):
    """Read the order with its captures and refunds."""

    kind: ClassVar[str] = "read_order"


class ReadCapture(Read):
    """Read one capture."""

    kind: ClassVar[str] = "read_capture"
    target_field: ClassVar[str | None] = "capture_id"

    capture_id: PathId


class ReadCaptures(Read):
    """Read all captures of the order."""

    kind: ClassVar[str] = "read_captures"


class ReadRefund(Read):
    """Read one refund."""

    kind: ClassVar[str] = "read_refund"
    target_field: ClassVar[str | None] = "refund_id"

    refund_id: PathId


class ReadDueDateOptions(Read):
    """Read by how many days, and at which fee, the due date of one capture may be extended."""

    kind: ClassVar[str] = "read_due_date_options"
    target_field: ClassVar[str | None] = "capture_id"

    capture_id: PathId


#: Every kind of command Klarna knows. The strings are stored and never change.
KLARNA_COMMANDS: Mapping[str, type[Command]] = MappingProxyType(
    {
        "acknowledge": Acknowledge,
        "capture": Capture,
        "refund": Refund,
        "cancel": Cancel,
        "release_remaining_authorization": ReleaseRemainingAuthorization,
        "update_authorization": UpdateAuthorization,
        "extend_authorization_time": ExtendAuthorizationTime,
        "update_customer_details": UpdateCustomerDetails,
        "update_merchant_references": UpdateMerchantReferences,
        "add_order_shipping_info": AddOrderShippingInfo,
        "add_capture_shipping_info": AddCaptureShippingInfo,
        "trigger_send_out": TriggerSendOut,
        "extend_due_date": ExtendDueDate,
        "read_order": ReadOrder,
        "read_capture": ReadCapture,
        "read_captures": ReadCaptures,
        "read_refund": ReadRefund,
        "read_due_date_options": ReadDueDateOptions,
    }
)
