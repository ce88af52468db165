"""The one setting as a layer of ours: what it lies above, and which database it means."""

from __future__ import annotations

import pytest
from django.db import connections
from sqlalchemy import create_engine, make_url

from worker import config
from worker.contrib.django import conf
from worker.contrib.django.conf import _url


def test_it_lies_above_the_environment_and_below_the_arguments(shop_on_sqlite, settings_of, monkeypatch):
    """Django's settings file is where the project looks; `--set` is for one call."""
    settings_of(retry={"throttle_base_seconds": 3.0})
    monkeypatch.setenv("POST_PURCHASE_RETRY__THROTTLE_BASE_SECONDS", "2")
    monkeypatch.setenv("POST_PURCHASE_RETRY__THROTTLE_CAP_SECONDS", "99")

    loaded = config.load(require_credentials=False)
    told = config.load(require_credentials=False, overrides={"retry.throttle_base_seconds": 4.0})

    assert (3.0, 99.0) == (loaded.retry.throttle_base_seconds, loaded.retry.throttle_cap_seconds)
    assert 4.0 == told.retry.throttle_base_seconds


def test_an_environment_that_stands_in_has_no_host(shop_on_sqlite):
    """Who gives an environment asks about that one, whatever this process is."""
    assert "sqlite:///var/test.db" == config.load("test", environ={}).database.url


def test_the_workers_own_engine_reaches_djangos_database(shop):
    """Nobody writes the address twice, so it must be the same place."""
    shop.order("1")
    engine = create_engine(conf.own_services().settings.database.url)

    with engine.connect() as connection:
        orders = connection.exec_driver_sql("SELECT count(*) FROM shop_order").scalar()
    engine.dispose()

    assert 1 == orders


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (
            {"NAME": "shop", "USER": "u@x", "PASSWORD": "p/w:?", "HOST": "db.internal", "PORT": "6432"},
            ("shop", "u@x", "p/w:?", "db.internal", 6432, {}),
        ),
        (
            {"NAME": "shop", "HOST": "/run/postgresql", "OPTIONS": {"pool": True, "sslmode": "verify-full"}},
            ("shop", None, None, None, None, {"host": "/run/postgresql", "sslmode": "verify-full"}),
        ),
        (
            {"NAME": "", "OPTIONS": {"service": "shop", "server_side_binding": True}},
            (None, None, None, None, None, {"service": "shop"}),
        ),
    ],
)
def test_every_way_to_name_a_postgresql_is_understood(shop_on_postgresql, given, address):
    """A password with a slash in it, a socket, a service file, and what is Django's alone."""
    settings = connections["default"].settings_dict
    empty = dict.fromkeys(("NAME", "USER", "PASSWORD", "HOST", "PORT"), "")
    before = dict(settings)
    settings.update({**empty, "OPTIONS": {}, **given})

    url = make_url(_url("default"))
    settings.update(before)

    assert address == (url.database, url.username, url.password, url.host, url.port, dict(url.query))


@pytest.mark.parametrize("name", ["file:memorydb_default?mode=memory&cache=shared", "file:shop.db"])
def test_an_sqlite_that_is_named_by_a_uri_stays_one(shop_on_sqlite, name):
    """Django's own tests run on such a name."""
    connections["default"].settings_dict["NAME"] = name

    assert make_url(_url("default")).query["uri"] == "true"
    assert make_url(_url("default")).database == name.partition("?")[0]
