"""Applications made by a factory, several in one process, and what each of them is told."""

import pytest
from celery import Celery
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import make_url

from worker import Capture, UnknownAccount
from worker.config import ConfigurationError
from worker.contrib.flask import (
    EXTENSION,
    AlreadyInitialised,
    NotInitialised,
    PostPurchase,
    UnusableConfiguration,
)


def settings_of(app):
    return app.extensions[EXTENSION].host.services().settings


@pytest.fixture
def make():
    """Makes an application with nothing in it but the extension, and what it is told."""
    made = []

    def make(*, url="sqlite://", celery=None, **config):
        app, db = Flask("shop"), SQLAlchemy()
        app.config.update(
            {"SQLALCHEMY_DATABASE_URI": url, "POST_PURCHASE_PROFILE": "test"},
            **{f"POST_PURCHASE_{name}": value for name, value in config.items()},
        )
        db.init_app(app)
        made.append((app, db))
        PostPurchase(app, db, celery=celery)

        return app

    yield make
    for app, db in made:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def test_two_applications_in_one_process_have_each_their_own(new_app, bookshop, tmp_path, sqlite_url, stored_by):
    """A shop in two countries has two databases and two merchant accounts, and one web server."""
    other_url = f"sqlite:///{tmp_path / 'other.db'}"
    (tmp_path / "other.db").write_bytes((tmp_path / "post-purchase.db").read_bytes())
    sweden = new_app(sqlite_url)
    norway = new_app(
        other_url,
        POST_PURCHASE_ACCOUNTS__KLARNA_NO__PROVIDER="klarna",
        POST_PURCHASE_ACCOUNTS__KLARNA_NO__BASE_URL="http://127.0.0.1:8090",
    )

    for app, account in ((sweden, "klarna-eu"), (norway, "klarna-no")):
        with app.app_context():
            bookshop.post_purchase.enqueue(Capture(account=account, order_id=app.name, amount=1000))
            bookshop.db.session.commit()
    with sweden.app_context(), pytest.raises(UnknownAccount):
        bookshop.post_purchase.enqueue(Capture(account="klarna-no", order_id="k-1", amount=1000))

    assert ["klarna-eu"] == [each.account for each in stored_by(sweden)]
    assert ["klarna-no"] == [each.account for each in stored_by(norway)]


def test_an_application_that_was_not_initialised_is_told_so():
    """The name of the missing call is worth more than a KeyError."""
    app = Flask("forgotten")

    with app.app_context(), pytest.raises(NotInitialised, match=r"init_app\(app, db\) where 'forgotten' is made"):
        PostPurchase().enqueue(Capture(account="klarna-eu", order_id="k-1", amount=1000))


def test_an_application_is_initialised_once(make):
    """Two sets of services for one application would take turns by chance."""
    app = make()

    with pytest.raises(AlreadyInitialised, match="'shop'"):
        PostPurchase(app, SQLAlchemy())


def test_without_a_session_to_join_nothing_is_initialised():
    """A forgotten `db` would otherwise show in the first order."""
    with pytest.raises(NotInitialised, match="Flask-SQLAlchemy object of 'shop'"):
        PostPurchase(Flask("shop"))


def test_the_database_is_the_one_of_the_session(make):
    """Commands are stored there, so it is there that they must be looked for."""
    app = make(url="postgresql+psycopg://shop:a%40b@db.internal/shop?application_name=web")

    found = make_url(settings_of(app).database.url)

    assert ("postgresql+psycopg", "db.internal", "shop", "a@b") == (
        *(found.drivername, found.host, found.database, found.password),
    )


def test_an_application_without_a_default_database_is_told_so():
    """Commands are stored in the database of `db.session`, and there must be one."""
    app, db = Flask("shop"), SQLAlchemy()
    app.config["SQLALCHEMY_BINDS"] = {"meta": "sqlite://"}
    db.init_app(app)

    with pytest.raises(UnusableConfiguration, match="SQLALCHEMY_DATABASE_URI"):
        PostPurchase(app, db)


@pytest.mark.parametrize(
    ("name", "value", "read", "expected"),
    [
        ("DATABASE__POOL_SIZE", 7, lambda s: s.database.pool_size, 7),
        ("BROKER__PUBLISH_TIMEOUT_SECONDS", 0.25, lambda s: s.broker.publish_timeout_seconds, 0.25),
        ("RETRY__LADDER_SECONDS", [1, 2.5, 3], lambda s: s.retry.ladder_seconds, (1, 2.5, 3)),
        ("RETRY__LADDER_SECONDS", "1,2,3", lambda s: s.retry.ladder_seconds, (1, 2, 3)),
        ("ACCOUNTS__KLARNA_EU__KEYED", False, lambda s: s.accounts["klarna-eu"].keyed, False),
        ("BROKER__KEY_PREFIX", None, lambda s: s.broker.key_prefix, None),
        ("BROKER__KEY_PREFIX", "", lambda s: s.broker.key_prefix, None),
    ],
)
def test_a_setting_may_be_written_as_python_has_it(make, name, value, read, expected):
    """`app.config` comes from files, from the environment and from code; a number is a number in each."""
    assert expected == read(settings_of(make(**{name: value})))


def test_the_application_wins_over_the_environment(make, monkeypatch):
    """What a program says of itself is the last word, as everywhere in Flask."""
    monkeypatch.setenv("POST_PURCHASE_DATABASE__POOL_SIZE", "3")
    monkeypatch.setenv("POST_PURCHASE_LOG__LEVEL", "error")

    settings = settings_of(make(DATABASE__POOL_SIZE=4))

    assert (4, "error") == (settings.database.pool_size, settings.log.level)


def test_the_broker_is_the_one_of_the_applications_celery(make, monkeypatch):
    """Their workers take commands from there; a second place to write it down would be a second place to forget."""
    celery = Celery("shop", broker="redis://127.0.0.1:6390/4", set_as_current=False)
    celery.conf.broker_transport_options = {"global_keyprefix": "shop:"}

    broker = settings_of(make(celery=celery)).broker

    assert ("redis://127.0.0.1:6390/4", "shop:") == (broker.url, broker.key_prefix)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        pytest.param({"DATABSE__URL": "x"}, "did you mean POST_PURCHASE_DATABASE__URL", id="unknown"),
        pytest.param({"DATABASE__POOL_SIZE": "many"}, "POST_PURCHASE_DATABASE__POOL_SIZE must be a whole", id="wrong"),
        pytest.param({"PROFILE": "prod"}, "'prod' is not a profile", id="no such profile"),
    ],
)
def test_an_application_whose_settings_cannot_be_used_does_not_start(config, sentence, make):
    """The alternative is to learn of it from the first order."""
    with pytest.raises(ConfigurationError, match=sentence):
        make(**config)


def test_a_value_that_is_no_setting_is_refused_without_showing_it(make):
    """It may hold a password."""
    with pytest.raises(UnusableConfiguration, match="POST_PURCHASE_ACCOUNTS is a dict") as raised:
        make(ACCOUNTS={"klarna-eu": {"password": "hunter2"}})

    assert "hunter2" not in str(raised.value)
