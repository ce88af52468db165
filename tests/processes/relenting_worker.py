"""A worker whose Redis client connects anew behind kombu's back, so that a lost subscription hangs the main thread."""

from __future__ import annotations

from worker.celery import app

__all__ = ["app"]

app.conf.broker_transport_options["retry_on_timeout"] = True
