"""The shop's settings. What stands here besides `POST_PURCHASE` is what any Django project has."""

import os
from pathlib import Path

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only for tests")
DEBUG = False
ALLOWED_HOSTS = ["testserver", "127.0.0.1"]
ROOT_URLCONF = "shop.urls"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "worker.contrib.django",
    "shop",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": os.environ.get("SHOP_DATABASE_NAME", ""),
    "HOST": os.environ.get("SHOP_DATABASE_HOST", ""),
    "USER": os.environ.get("SHOP_DATABASE_USER", ""),
    "PASSWORD": os.environ.get("SHOP_DATABASE_PASSWORD", ""),
    "PORT": os.environ.get("SHOP_DATABASE_PORT", ""),
}
SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ.get("SHOP_DATABASE_FILE", Path(__file__).parents[1] / "shop.sqlite3"),
    "OPTIONS": {"transaction_mode": "IMMEDIATE"},
}
DATABASES = {"default": POSTGRESQL if POSTGRESQL["NAME"] else SQLITE}

POST_PURCHASE = {
    "profile": "development",
    "broker": {
        "url": os.environ.get("SHOP_BROKER_URL", "redis://127.0.0.1:6390/0"),
        "key_prefix": os.environ.get("SHOP_KEY_PREFIX", "shop:"),
    },
    "accounts": {
        "klarna-eu": {
            "provider": "klarna",
            "base_url": os.environ.get("SHOP_KLARNA_URL", "http://127.0.0.1:8090"),
            "username": "sandbox",
            "password": "sandbox",
        },
    },
    "on_finished": "shop.orders.settle",
}
