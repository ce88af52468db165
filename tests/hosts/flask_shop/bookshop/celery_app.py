"""What `celery --app bookshop.celery_app worker` starts."""

from . import create_app

app = create_app().extensions["celery"]
