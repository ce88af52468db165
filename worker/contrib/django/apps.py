"""Our place in a Django project: the label, the settings it brings, the checks, and the schema at `migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed
from django.db.models.signals import post_migrate

from ... import config
from ...resources import migrations_dir
from ...store import migrate


class PostPurchaseConfig(AppConfig):
    """The post-purchase worker as a Django app."""

    name = "worker.contrib.django"
    label = "post_purchase"
    verbose_name = "Post-purchase commands"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have this process follow the project's settings; opens nothing."""
        from . import checks, conf  # noqa: PLC0415  # both need the settings, which are there only now

        config.follow(conf.layer)
        setting_changed.connect(conf.forget)
        checks.register()
        post_migrate.connect(_upgrade, sender=self)


def _upgrade(*, using: str, verbosity: int = 0, stdout: Any = None, **_: Any) -> None:
    """Bring our tables up with the project's own: Alembic owns them, `manage.py migrate` has it do its work."""
    from django.db import connections, transaction  # noqa: PLC0415  # importing an app config must not need a database

    from . import conf  # noqa: PLC0415  # the same
    from .lending import engine_on  # noqa: PLC0415  # the same

    if using != conf.using():
        return
    vendor = connections[using].vendor
    on_django = engine_on(using, vendor)
    if migrate.current(on_django) == migrate.newest(migrations_dir()):
        return
    if verbosity and stdout is not None:
        stdout.write("  Upgrading the tables of the post-purchase worker\n")
    if vendor == "sqlite":
        # On Django's connection: another would wait for it, and does not see a database that is in memory.
        with transaction.atomic(using=using):
            migrate.upgrade(on_django, migrations_dir())
    else:
        # On one of its own, because it holds a lock that ends with the connection.
        services = conf.own_services()
        try:
            migrate.upgrade(services.store.engine, migrations_dir())
        finally:
            services.close()
