"""What the bookshop keeps."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from .extensions import db


class Order(db.Model):
    __tablename__ = "bookshop_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    klarna_id: Mapped[str]
    amount: Mapped[int]
    is_shipped: Mapped[bool] = mapped_column(default=False)
    mailed_from: Mapped[str | None]
