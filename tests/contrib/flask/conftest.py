"""The bookshop of `tests/hosts/flask_shop`, in this process and in processes of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

import worker
from worker.contrib.flask import EXTENSION
from worker.ports import Filter
from worker.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "tests" / "hosts" / "flask_shop"
CHECKOUT = Path(worker.__file__).parent.parent


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and {"start", "postgresql_url"} & {*item.fixturenames}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def project():
    return PROJECT


@pytest.fixture(scope="session")
def until():
    def until(fact, *, within=30.0, tell=str):
        deadline = time.monotonic() + within
        while not (found := fact()):
            assert time.monotonic() < deadline, f"it did not come true within {within} s\n{tell()}"
            time.sleep(0.05)

        return found

    return until


# --- in this process ---------------------------------------------------------------------------------------


@pytest.fixture
def bookshop(monkeypatch):
    """The bookshop's package, and what its modules hold for the whole process."""
    monkeypatch.syspath_prepend(str(PROJECT))
    import bookshop  # noqa: PLC0415  # found from now on
    from bookshop import extensions, models  # noqa: PLC0415  # the same

    return SimpleNamespace(
        create_app=bookshop.create_app,
        db=extensions.db,
        post_purchase=extensions.post_purchase,
        Order=models.Order,
    )


@pytest.fixture
def new_app(bookshop):
    """Makes an application on a database, with its own table in it, and a broker that nobody else reaches."""
    made = []

    def new_app(url, **config):
        app = bookshop.create_app(
            SQLALCHEMY_DATABASE_URI=url,
            CELERY={"broker_url": "memory://"},
            **{"POST_PURCHASE_PROFILE": "test", **config},
        )
        made.append(app)
        with app.app_context():
            bookshop.db.create_all()

        return app

    yield new_app
    for app in made:
        app.extensions[EXTENSION].host.services().close()
        with app.app_context():
            for engine in bookshop.db.engines.values():
                engine.dispose()


@dataclass(slots=True)
class NotedPublisher:
    """Notes what it is asked to publish, and what others could see of it at that moment."""

    app: object
    published: list[uuid.UUID] = field(default_factory=list)

    def reserve(self):
        return True

    def execute(self, ids, *, label, countdown=None):
        assert set(ids) <= {each.id for each in stored(self.app)}, "published before others can see it"
        self.published += ids

        return True


def stored(app):
    """The commands of an application's database as anybody else sees them, oldest first."""
    with app.extensions[EXTENSION].host.services().store.read() as transaction:
        return list(transaction.listed(Filter(), limit=100))[::-1]


@pytest.fixture
def stored_by():
    return stored


@pytest.fixture
def published_by():
    """From now on, what an application publishes goes here."""

    def published_by(app):
        publisher = NotedPublisher(app)
        app.extensions[EXTENSION].host.services().__dict__["publisher"] = publisher

        return publisher.published

    return published_by


@pytest.fixture
def app(new_app, database_url):
    """The bookshop, once on each kind of database."""
    return new_app(database_url)


@pytest.fixture
def run(sqlite_url, new_app):
    """Runs a line of `flask` in this process, on a database with the worker's schema in it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    runner = new_app(sqlite_url).test_cli_runner()

    yield lambda *words: runner.invoke(args=words)

    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


# --- in processes of its own -------------------------------------------------------------------------------


@dataclass
class Started:
    """A process of the bookshop, in a session of its own."""

    process: subprocess.Popen
    log_file: Path

    def log(self):
        return self.log_file.read_text(errors="replace")

    def said(self, text):
        assert self.process.poll() is None, self.log()

        return text in self.log()

    def close(self):
        """End it, and whatever it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)


@pytest.fixture
def sandbox():
    """The provider, where every order there may be is waiting to be captured."""
    with Sandbox(create_orders=100_000) as sandbox:
        yield sandbox


@pytest.fixture
def folder(tmp_path):
    """A copy of the bookshop, in which its processes may write."""
    shutil.copytree(PROJECT, tmp_path / "flask_shop", ignore=shutil.ignore_patterns("__pycache__", "instance"))

    return tmp_path / "flask_shop"


@pytest.fixture
def environment(folder, broker_server, request):
    """What the bookshop's processes are told: a broker that is theirs by its prefix, and perhaps a PostgreSQL."""
    paths = [CHECKOUT, folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    told = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "FLASK_CELERY__broker_url": broker_server,
        "FLASK_CELERY__broker_transport_options": f'{{"global_keyprefix": "bookshop-{uuid.uuid4().hex}:"}}',
    }
    if "postgresql_url" in request.fixturenames:
        told["FLASK_SQLALCHEMY_DATABASE_URI"] = request.getfixturevalue("postgresql_url")

    return told


@pytest.fixture
def test_settings(sandbox):
    """Short waits, and the provider of this test."""
    return {
        "POST_PURCHASE_PROFILE": "test",
        "POST_PURCHASE_ACCOUNTS__KLARNA_EU__BASE_URL": sandbox.base_url,
        "POST_PURCHASE_LOG__LEVEL": "info",
    }


@pytest.fixture
def start(folder, tmp_path):
    """Starts a process, which ends with the test."""
    started = []

    def start(*words, environment: Mapping[str, str]):
        log_file = tmp_path / f"process-{len(started)}.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                words,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(Started(process, log_file))

        return started[-1]

    yield start
    for each in started[::-1]:
        each.close()


@pytest.fixture
def call(folder):
    """Runs a process to its end."""

    def call(*words, environment: Mapping[str, str]):
        return subprocess.run(
            words, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )

    return call
