"""A host: its own engine on the database that also holds the worker's tables, a table of its own, and what it enqueues.

The publisher only notes what it is given, and whether others could see the command at that moment. On PostgreSQL the
tests share one database, which is emptied after each: making one for each would take longer than all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, delete, inspect, make_url, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.schema import DropTable

from worker import Capture, Command
from worker.config import load
from worker.ports import Filter, StoredCommand
from worker.resources import migrations_dir
from worker.service.enqueue import Enqueued
from worker.store import migrate
from worker.store.schema import metadata
from worker.wiring import Services


@dataclass(slots=True)
class NotedPublisher:
    """Notes what it is asked to publish; grants every reservation until told otherwise."""

    visible: Callable[[UUID], bool]
    published: list[UUID] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    grants: bool = True

    def reserve(self) -> bool:
        return self.grants

    def execute(self, ids: list[UUID], *, label: str, countdown: float | None = None) -> bool:
        assert countdown is None
        assert all(map(self.visible, ids)), "published before others can see it"
        self.published += ids
        self.labels.append(label)

        return True


@dataclass(frozen=True, slots=True)
class Host:
    """A shop with its own engine and parcels, and our services beside it."""

    engine: Engine
    services: Services
    publisher: NotedPublisher

    def enqueue(self, transaction: Any, *commands: Command) -> list[Enqueued]:
        return self.services.enqueue(transaction, commands)

    def capture(self, **fields: Any) -> Capture:
        return Capture(**{"account": "klarna-eu", "order_id": "order-1", "amount": 1000, **fields})

    def commands(self) -> list[StoredCommand]:
        """What is stored, oldest first, as anybody else sees it."""
        with self.services.store.read() as transaction:
            return list(transaction.listed(Filter(), limit=1_000))[::-1]

    def parcels(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.scalars(text("SELECT number FROM shop_parcel ORDER BY number")))

    def ship(self, transaction: Any, number: int = 1) -> None:
        """The host's own change, to which a command belongs."""
        transaction.execute(text("INSERT INTO shop_parcel VALUES (:number)"), {"number": number})


#: Ends what a test has left open, before its rows are waited for.
END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="session")
def _shared(postgresql_server: str) -> Iterator[Engine]:
    admin = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    name = f"pp_hosting_{uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
        # Nobody pulls the plug on a test: waiting for the disk would only cost time.
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit TO off'))
    engine = create_engine(make_url(postgresql_server).set(database=name))
    migrate.upgrade(engine, migrations_dir())
    yield engine
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture
def postgresql_url(_shared: Engine) -> Iterator[str]:
    """The URL of a PostgreSQL database that holds the worker's tables, empty, and nothing else."""
    yield _shared.url.render_as_string(hide_password=False)
    with _shared.begin() as connection:
        connection.execute(text(END_OTHERS))
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
        for name in inspect(connection).get_table_names():
            if not name.startswith(migrate.PREFIX):
                connection.execute(DropTable(Table(name, MetaData())))


@pytest.fixture
def services_on() -> Iterator[Callable[..., Services]]:
    made: list[Services] = []

    def make(url: str, **overrides: object) -> Services:
        made.append(Services(load(profile="test", environ={}, overrides={"database.url": url, **overrides})))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def host_on(services_on: Callable[..., Services]) -> Iterator[Callable[..., Host]]:
    engines: list[Engine] = []

    def make(url: str, **engine_options: Any) -> Host:
        engine = create_engine(url, **engine_options)
        engines.append(engine)
        services = services_on(url)
        publisher = NotedPublisher(visible=lambda command_id: _is_stored(services, command_id))
        services.__dict__["publisher"] = publisher
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE shop_parcel (number INTEGER PRIMARY KEY)"))
        return Host(engine, services, publisher)

    yield make
    for each in engines:
        each.dispose()


def _is_stored(services: Services, command_id: UUID) -> bool:
    with services.store.read() as transaction:
        return transaction.find(command_id) is not None


@pytest.fixture
def host(host_on: Callable[..., Host], database_url: str) -> Host:
    """A host with a plain engine, once on each kind of database."""
    return host_on(database_url)


@pytest.fixture
def host_on_postgresql(host_on: Callable[..., Host], postgresql_url: str) -> Host:
    return host_on(postgresql_url)


@pytest.fixture(params=["connection", "session", "scoped session"])
def transaction(request: pytest.FixtureRequest, host: Host) -> Iterator[Connection | Session | scoped_session[Session]]:
    """What a host may hold its transaction by; each begins by itself, commits, rolls back and closes."""
    match request.param:
        case "connection":
            held = host.engine.connect()
        case "session":
            held = Session(host.engine)
        case _:
            held = scoped_session(sessionmaker(host.engine))
    yield held
    held.close()
