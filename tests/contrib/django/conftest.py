"""The little shop of `tests/hosts/django_shop`, set up once in this process, on a database of each test's own.

The connection `default` is pointed at another database for each test, once on each kind. The publisher only notes what
it is given, and whether others could see the command at that moment.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import column as column_of, create_engine, make_url, select, table as table_of, text

from worker import config

HOST = Path(__file__).resolve().parents[2] / "hosts" / "django_shop"


def _set_up_django() -> None:
    import django  # noqa: PLC0415  # set up once, and only where a test of this folder is collected
    from django.apps import apps  # noqa: PLC0415  # as above, only where it is needed

    if apps.ready:
        return
    sys.path.append(str(HOST))
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = ""
    django.setup()
    config.follow(None)
    # Names that another host may own as well, and an environment that another test may look at.
    sys.modules.pop("settings", None)
    del os.environ["DJANGO_SETTINGS_MODULE"], os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


_set_up_django()

from django.db import connections  # noqa: E402  # only after the set-up above
from django.test import utils  # noqa: E402  # only after the set-up above

from worker.contrib.django import conf  # noqa: E402  # only after the set-up above


@dataclass(slots=True)
class NotedPublisher:
    """Notes what it is asked to publish."""

    visible: Callable[[UUID], bool]
    published: list[UUID] = field(default_factory=list)
    fails: bool = False

    def reserve(self) -> bool:
        return True

    def may_hold(self) -> bool:
        return True

    def execute(self, ids: list[UUID], *, label: str, countdown: float | None = None) -> bool:
        if self.fails:
            raise RuntimeError("the broker is on fire")
        assert all(map(self.visible, ids)), "published before others can see it"
        self.published += ids

        return True

    def escalate(self, ticket_id: UUID, *, label: str) -> bool:
        return True


@pytest.fixture(scope="session", autouse=True)
def _test_environment():
    utils.setup_test_environment()
    yield
    utils.teardown_test_environment()


@pytest.fixture(autouse=True)
def _follow():
    """Have this process follow Django's settings while a test of this folder runs, and no longer."""
    config.follow(conf.layer)
    conf._services.clear()
    yield
    config.follow(None)
    conf._services.clear()


def _close(*aliases: str) -> None:
    for alias in aliases:
        if hasattr(connections._connections, alias):
            connections[alias].close()
            connections[alias].close_pool() if hasattr(connections[alias], "close_pool") else None
            del connections[alias]


def point(**databases: dict[str, Any]) -> None:
    """Have Django's connections lead to these databases."""
    _close(*connections)
    connections.settings = connections.configure_settings(databases)


def django_database(url: str, **options: Any) -> dict[str, Any]:
    """Return the entry of DATABASES for one of the tests' URLs."""
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.database,
            "OPTIONS": {"transaction_mode": "IMMEDIATE", **options},
        }
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.database,
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.host or parts.query.get("host", ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }


def _migrate() -> None:
    from django.core.management import call_command  # noqa: PLC0415  # only after the set-up

    before = config._host
    config.follow(conf.layer)
    call_command("migrate", verbosity=0, skip_checks=True)
    config.follow(before)
    _close(*connections)


@pytest.fixture(scope="session")
def _sqlite_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "shop.sqlite3"
    point(default=django_database(f"sqlite:///{file}"))
    _migrate()

    return file


@pytest.fixture(scope="session")
def _postgresql_shop(postgresql_server: str) -> Iterator[str]:
    name = f"pp_shop_{uuid4().hex[:12]}"
    admin = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    point(default=django_database(make_url(postgresql_server).set(database=name).render_as_string(hide_password=False)))
    _migrate()
    yield name
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture
def sqlite_url(_sqlite_shop: Path, tmp_path: Path) -> str:
    file = tmp_path / "shop.sqlite3"
    shutil.copy(_sqlite_shop, file)

    return f"sqlite:///{file}"


@pytest.fixture
def postgresql_url(postgresql_server: str, _postgresql_shop: str) -> Iterator[str]:
    name = f"pp_{uuid4().hex[:12]}"
    admin = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{_postgresql_shop}"'))
    yield make_url(postgresql_server).set(database=name).render_as_string(hide_password=False)
    _close(*connections)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


class Shop:
    """The shop with its database, as a test acts on it and looks at it from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.publisher = NotedPublisher(visible=self.is_visible)
        self.services.__dict__["publisher"] = self.publisher

    @property
    def services(self) -> Any:
        return conf.services()

    def order(self, number: str = "1", **fields: Any) -> Any:
        from shop.models import Order  # noqa: PLC0415  # only after the set-up

        return Order.objects.create(**{"number": number, "klarna_id": f"order-{number}", "amount": 1000, **fields})

    def is_visible(self, command_id: UUID) -> bool:
        """Whether somebody else, on a connection of their own, sees the command."""
        return command_id in self.seen("id", kind=UUID)

    def seen(self, column: str, kind: Callable[[Any], Any] = str, table: str = "post_purchase_command") -> list[Any]:
        """A column of a table, as somebody else sees it."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            found = [
                kind(str(each)) for each in connection.scalars(select(column_of(column)).select_from(table_of(table)))
            ]
        engine.dispose()

        return found

    def execute(self, statement: str, **values: Any) -> None:
        """Change rows behind everybody's back, as a worker would."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(text(statement), values)
        engine.dispose()

    def finish(self, state: str = "succeeded") -> None:
        """Have every command end, as a worker would record it."""
        self.execute(
            "UPDATE post_purchase_command SET state = :state, lease_until = NULL, in_doubt = false, "
            "finalized_at = created_at",
            state=state,
        )

    def escalate(self) -> None:
        """Have every command escalate."""
        self.execute("UPDATE post_purchase_command SET state = 'escalated', failures = 4")


@pytest.fixture
def shop_on() -> Iterator[Callable[..., Shop]]:
    def make(url: str, **options: Any) -> Shop:
        point(default=django_database(url, **options))
        return Shop(url)

    yield make
    _close(*connections)


@pytest.fixture
def shop_with() -> Iterator[Callable[..., list[Shop]]]:
    """The shop with several databases: by alias either one of the tests' URLs or an entry of DATABASES."""

    def make(**databases: Any) -> list[Shop]:
        urls = [each for each in databases.values() if isinstance(each, str)]
        point(**{alias: django_database(each) if isinstance(each, str) else each for alias, each in databases.items()})
        return [Shop(url) for url in urls]

    yield make
    _close(*connections)


@pytest.fixture
def shop(shop_on: Callable[..., Shop], database_url: str) -> Shop:
    """The shop, once on each kind of database."""
    return shop_on(database_url)


@pytest.fixture
def shop_on_sqlite(shop_on: Callable[..., Shop], sqlite_url: str) -> Shop:
    return shop_on(sqlite_url)


@pytest.fixture
def shop_on_postgresql(shop_on: Callable[..., Shop], postgresql_url: str) -> Shop:
    return shop_on(postgresql_url)


@pytest.fixture
def settings_of() -> Iterator[Callable[..., None]]:
    """Change `POST_PURCHASE` for the rest of the test."""
    entered: list[Any] = []

    def change(**changes: Any) -> None:
        from django.conf import settings  # noqa: PLC0415  # only after the set-up

        override = utils.override_settings(POST_PURCHASE={**settings.POST_PURCHASE, **changes})
        override.enable()
        entered.append(override)

    yield change
    for each in reversed(entered):
        each.disable()
