"""The post-purchase worker in a Django project: enqueue in Django's own transaction, look and decide in its admin.

    INSTALLED_APPS = [..., "worker.contrib.django"]
    POST_PURCHASE = {"profile": "production", "accounts": {"klarna-eu": {...}}, "on_finished": "shop.orders.settle"}

    with transaction.atomic():
        order.mark_as_shipped()
        enqueue(Capture(account="klarna-eu", order_id=order.klarna_id, amount=1000, reference=parcel.id))

`celery -A worker.contrib.django worker` executes what is enqueued, with the settings of the Django project.
"""

from __future__ import annotations

from .finished import Finished, tell_finished
from .outbox import enqueue, enqueue_many

__all__ = ["Finished", "enqueue", "enqueue_many", "tell_finished"]
