"""The shop's own Celery app, with its own queue; the worker's runs beside it."""

from celery import Celery

app = Celery("shop", broker="memory://")
app.conf.task_default_queue = "shop"


@app.task
def thank(number):
    """Send a letter of thanks."""
    return number
