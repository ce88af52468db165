"""BlueSnap's commands, by the names that Klarna's have in `worker`.

    from worker import bluesnap, enqueue

    enqueue(connection, bluesnap.Capture(account="bluesnap-us", order_id="38486450", amount=1000, currency="USD"))

What each carries stands in `worker.domain.bluesnap_commands`.
"""

from __future__ import annotations

from .domain.bluesnap_commands import (
    Authorize,
    AuthReversal,
    CancelPendingRefund,
    Capture,
    ChargeOnDemandSubscription,
    ChargeSubscription,
    CreateAltTransaction,
    CreateOnDemandSubscription,
    CreatePlan,
    CreateShopper,
    CreateSubscription,
    CreateVendor,
    KeyedPost,
    PlaceBatchOrder,
    ReadPlan,
    ReadShopper,
    ReadSubscription,
    ReadTransaction,
    ReadVendor,
    Refund,
    Sale,
    UpdatePlan,
    UpdateShopper,
    UpdateSubscription,
    UpdateVendor,
)

__all__ = [
    "AuthReversal",
    "Authorize",
    "CancelPendingRefund",
    "Capture",
    "ChargeOnDemandSubscription",
    "ChargeSubscription",
    "CreateAltTransaction",
    "CreateOnDemandSubscription",
    "CreatePlan",
    "CreateShopper",
    "CreateSubscription",
    "CreateVendor",
    "KeyedPost",
    "PlaceBatchOrder",
    "ReadPlan",
    "ReadShopper",
    "ReadSubscription",
    "ReadTransaction",
    "ReadVendor",
    "Refund",
    "Sale",
    "UpdatePlan",
    "UpdateShopper",
    "UpdateSubscription",
    "UpdateVendor",
]
