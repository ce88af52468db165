"""The bookshop's own Celery app, and the mail that it sends from there."""

from __future__ import annotations

from celery import Celery, Task, shared_task

from .extensions import db
from .models import Order


def make_celery(app):
    class InApplication(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery = Celery(app.name, task_cls=InApplication)
    celery.config_from_object(app.config["CELERY"])
    celery.set_default()
    app.extensions["celery"] = celery
    return celery


@shared_task(bind=True)
def thank(self, number):
    order = db.session.get(Order, number)
    order.mailed_from = self.request.delivery_info["routing_key"]  # the queue that it came through
    db.session.commit()
