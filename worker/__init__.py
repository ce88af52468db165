"""Post-purchase payment commands that have one effect at the provider, or a person knows about it.

    from worker import Capture, enqueue

    with engine.begin() as connection:
        mark_as_shipped(connection, order)
        enqueue(connection, Capture(account="klarna-eu", order_id=order.klarna_id, amount=1000, reference=parcel.id))

The command is stored in the caller's own transaction and published after its commit; a worker process
(`celery -A worker worker`) executes it. Nothing is read or connected to until the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from .domain.commands import Command
    from .domain.errors import (
        CommandClosed,
        CommandNotFound,
        FieldProblem,
        IdempotencyConflict,
        InvalidCommand,
        PostPurchaseError,
        UnknownAccount,
        UnknownKind,
        VerbRefused,
    )
    from .domain.klarna_commands import (
        Acknowledge,
        AddCaptureShippingInfo,
        AddOrderShippingInfo,
        Address,
        Cancel,
        Capture,
        ExtendAuthorizationTime,
        ExtendDueDate,
        OrderLine,
        ProductIdentifiers,
        ReadCapture,
        ReadCaptures,
        ReadDueDateOptions,
        ReadOrder,
        ReadRefund,
        Refund,
        ReleaseRemainingAuthorization,
        ShippingInfo,
        Subscription,
        TriggerSendOut,
        UpdateAuthorization,
        UpdateCustomerDetails,
        UpdateMerchantReferences,
    )
    from .service.enqueue import Enqueued

__version__ = "0.1.0"

__all__ = [
    "Acknowledge",
    "AddCaptureShippingInfo",
    "AddOrderShippingInfo",
    "Address",
    "Cancel",
    "Capture",
    "Command",
    "CommandClosed",
    "CommandNotFound",
    "ExtendAuthorizationTime",
    "ExtendDueDate",
    "FieldProblem",
    "IdempotencyConflict",
    "InvalidCommand",
    "OrderLine",
    "PostPurchaseError",
    "ProductIdentifiers",
    "ReadCapture",
    "ReadCaptures",
    "ReadDueDateOptions",
    "ReadOrder",
    "ReadRefund",
    "Refund",
    "ReleaseRemainingAuthorization",
    "ShippingInfo",
    "Subscription",
    "TriggerSendOut",
    "UnknownAccount",
    "UnknownKind",
    "UpdateAuthorization",
    "UpdateCustomerDetails",
    "UpdateMerchantReferences",
    "VerbRefused",
    "enqueue",
    "enqueue_many",
]


#: Where the public names live.
_HOMES = ("commands", "errors", "klarna_commands")

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Find a public name where it lives; what only looks at this package builds no command."""
        if name in __all__:
            for home in _HOMES:
                found = vars(import_module(f".domain.{home}", __name__))
                if name in found:
                    return found[name]
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)


def enqueue(connection_or_session: Connection | Session | Any, command: Command) -> Enqueued:
    """Store one command in the caller's transaction; it is published after the outermost commit.

    The same key with the same payload returns the command that is stored already.

    Args:
        connection_or_session: A SQLAlchemy Connection or Session on the database that holds the worker's tables.
        command: What the provider shall be asked to do.

    Raises:
        IdempotencyConflict: The key is stored with another payload; the transaction can go on.
        CommandClosed: The key's command was rejected or cancelled; the transaction can go on.
        UnknownAccount: The command names an account that is not configured.
    """
    return enqueue_many(connection_or_session, [command])[0]


def enqueue_many(connection_or_session: Connection | Session | Any, commands: Sequence[Command]) -> list[Enqueued]:
    """Store several commands in the caller's transaction, in this order; all of them or none.

    Raises as `enqueue` does; on any error nothing of the call is left in the transaction. Where two transactions
    store the same keys in opposite order, or run under REPEATABLE READ or SERIALIZABLE, PostgreSQL ends one of them
    with a deadlock or serialization failure: repeat that transaction, as any other.
    """
    from .hosting import outbox  # noqa: PLC0415  # importing the package must connect to nothing

    return outbox().enqueue(connection_or_session, commands)
