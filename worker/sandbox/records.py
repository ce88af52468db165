"""Keeps what a merchant has at BlueSnap beside card transactions: shoppers, plans, vendors and the like.

They are simple stores: what was put in is shown again. Which path and method is which verb is `bluesnap.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """How one sort of record is kept."""

    noun: str
    """What the ledger calls it."""
    id_field: str
    is_replaced: bool = False
    """An update brings the whole record, otherwise the fields to change."""


SHELF_BY_COLLECTION: Mapping[str, Shelf] = {
    "alt-transactions": Shelf(noun="alt_transaction", id_field="transactionId"),
    "batch/order-placement": Shelf(noun="batch_order", id_field="batchId"),
    "recurring/ondemand": Shelf(noun="on_demand_subscription", id_field="subscriptionId"),
    "recurring/ondemand/*": Shelf(noun="on_demand_charge", id_field="transactionId"),
    "recurring/plans": Shelf(noun="plan", id_field="planId"),
    "recurring/subscriptions": Shelf(noun="subscription", id_field="subscriptionId"),
    "subscriptions/*/subscription-charges": Shelf(noun="subscription_charge", id_field="transactionId"),
    "vaulted-shoppers": Shelf(noun="vaulted_shopper", id_field="vaultedShopperId", is_replaced=True),
    "vendors": Shelf(noun="vendor", id_field="vendorId", is_replaced=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, as it was put in."""

    record_id: str
    parent_id: str
    """The subscription that a charge belongs to; empty for what belongs to none."""
    fields: Json

    def copied(self) -> Self:
        """Make a copy that later changes leave alone; a record is never changed, only replaced."""
        return self

    def changed(self, fields: Json, *, shelf: Shelf) -> Self:
        """Make the record that an update leaves."""
        return replace(self, fields=dict(fields) if shelf.is_replaced else {**self.fields, **fields})

    def shown(self, shelf: Shelf) -> Json:
        """Show the record as a read does."""
        return {**self.fields, shelf.id_field: int(self.record_id)}
