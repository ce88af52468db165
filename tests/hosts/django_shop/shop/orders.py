"""What happens to an order after the purchase."""

from django.db import transaction

from worker import Capture
from worker.contrib.django import enqueue

from .models import Order


def ship(number):
    """Mark the parcel as sent and have its money captured: both, or neither."""
    with transaction.atomic():
        order = Order.objects.select_for_update().get(number=number)
        order.state = "shipped"
        order.save()
        enqueue(
            Capture(
                account="klarna-eu",
                order_id=order.klarna_id,
                amount=order.amount,
                reference=f"parcel-{order.number}",
            )
        )


def settle(finished):
    """Called with every command that is final, in the transaction that remembers that it was called."""
    if finished.kind == "capture" and finished.state == "succeeded":
        Order.objects.filter(klarna_id=finished.order_id).update(state="paid")
