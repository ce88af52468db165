"""The bookshop's own settings; the environment can lay `FLASK_…` over them."""

SQLALCHEMY_DATABASE_URI = "sqlite:///bookshop.db"

CELERY = {
    "broker_url": "redis://127.0.0.1:6390/0",
    "task_default_queue": "bookshop",
    "task_acks_late": True,
    "task_time_limit": 7,
    "task_ignore_result": True,
}
