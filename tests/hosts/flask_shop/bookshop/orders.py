"""What the bookshop does when somebody orders, and when the parcel leaves."""

from __future__ import annotations

from flask import Blueprint, request

from worker import Capture

from .extensions import db, post_purchase
from .mails import thank
from .models import Order

orders = Blueprint("orders", __name__)


@orders.post("/orders")
def create():
    order = Order(klarna_id=request.json["klarna_id"], amount=request.json["amount"])
    db.session.add(order)
    db.session.commit()
    return {"order": order.id}


@orders.post("/orders/<int:number>/ship")
def ship(number):
    order = db.get_or_404(Order, number)
    order.is_shipped = True
    command = post_purchase.enqueue(
        Capture(account="klarna-eu", order_id=order.klarna_id, amount=order.amount, reference=f"parcel-{order.id}")
    )
    db.session.commit()

    thank.delay(order.id)
    return {"command": str(command.id), "state": command.state}
