"""A bookshop: orders in its own database, mails through its own Celery app, payments through the worker."""

from __future__ import annotations

from flask import Flask

from . import mails
from .extensions import db, migrate, post_purchase
from .orders import orders


def leave_payments_alone(name, kind, _parent_names):
    """Keep the worker's tables out of `flask db migrate`, which would propose to drop them."""
    return kind != "table" or not name.startswith("post_purchase_")


def create_app(**config):
    app = Flask(__name__)
    app.config.from_object("bookshop.settings")
    app.config.from_prefixed_env()
    app.config.update(config)

    db.init_app(app)
    migrate.init_app(app, db, include_name=leave_payments_alone)
    celery = mails.make_celery(app)
    post_purchase.init_app(app, db, celery=celery)
    app.register_blueprint(orders)
    return app
