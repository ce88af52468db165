from __future__ import annotations

import socket
import sqlite3
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from worker.ports import Filter, StoreUnavailable
from worker.store.engine import SqlStore, build_engine

LEASE = timedelta(seconds=90)


@pytest.fixture
def built():
    """Build engines that are impatient, and dispose of them."""
    engines = []

    def build(url, **over):
        limits = {
            "pool_size": 1,
            "busy_timeout": timedelta(seconds=0.2),
            "connect_timeout": timedelta(seconds=1),
            "statement_timeout": timedelta(seconds=1),
            **over,
        }
        engines.append(build_engine(url, **limits))
        return engines[-1]

    yield build
    for engine in engines:
        engine.dispose()


@pytest.fixture
def on_postgresql_impatient(on_postgresql, built):
    return built(on_postgresql.url)


@pytest.fixture
def on_sqlite_impatient(on_sqlite, built):
    return built(on_sqlite.url)


@pytest.fixture
def nobody():
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_database_that_is_away_is_told_as_such(built, nobody):
    """It comes back; a worker waits for it and says so, instead of dying of a foreign error."""
    store = SqlStore(built(f"postgresql+psycopg://user:secret-word@127.0.0.1:{nobody}/shop"))

    with pytest.raises(StoreUnavailable, match="refused") as raised:
        store.claim(None, limit=1, lease=LEASE)

    assert "secret-word" not in str(raised.value)


def test_a_connection_that_was_cut_is_told_as_such_and_replaced(on_postgresql):
    """The database restarts in the middle of a transaction; the next one must find it again."""
    store = SqlStore(on_postgresql)
    kill = text("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(StoreUnavailable), store.begin() as transaction:
        transaction._connection.execute(kill)

    with store.begin() as transaction:
        assert [] == transaction.listed(Filter(), limit=1)


def test_a_pooled_connection_that_died_is_noticed_before_it_is_used(on_postgresql, on_postgresql_impatient):
    """A worker idles through the database's maintenance; its first claim afterwards must not fail."""
    store = SqlStore(on_postgresql_impatient)
    with store.begin() as transaction:
        pid = transaction._connection.scalar(text("SELECT pg_backend_pid()"))
    with on_postgresql.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    assert [] == store.claim(None, limit=1, lease=LEASE)


def test_a_server_that_has_become_a_standby_is_left(on_postgresql_impatient):
    """After a fail-over the old server still answers, and refuses every write; the new one is a connection away."""
    store = SqlStore(on_postgresql_impatient)
    with store.read() as transaction:
        transaction._connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        transaction._connection.commit()

    with pytest.raises(StoreUnavailable, match="read-only"):
        store.claim(None, limit=1, lease=LEASE)

    assert [] == store.claim(None, limit=1, lease=LEASE)


def test_an_error_of_the_database_shows_no_payload(given):
    """Errors go to a log, and a payload is somebody's address."""
    asked = given.new(payload=b"Kungsgatan")
    given.store_all([asked])

    with pytest.raises(IntegrityError) as raised:
        given.store_all([given.new(id=asked.id, payload=b"Kungsgatan")])

    assert "Kungsgatan" not in str(raised.value)


def test_a_statement_that_takes_too_long_is_given_up(on_postgresql_impatient):
    """A worker that hangs in the database holds leases and does nothing for them."""
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="statement timeout"), SqlStore(on_postgresql_impatient).begin() as taken:
        taken._connection.execute(text("SELECT pg_sleep(20)"))

    assert time.monotonic() - began < 10


def test_a_lock_that_is_held_too_long_is_told_as_such(on_postgresql_impatient, on_postgresql):
    """Somebody at a console forgot to commit; the worker must go on with the rest."""
    with SqlStore(on_postgresql).begin() as holder:
        holder._connection.execute(text("LOCK TABLE post_purchase_command"))

        with pytest.raises(StoreUnavailable), SqlStore(on_postgresql_impatient).begin() as transaction:
            transaction.listed(Filter(), limit=1)


def test_a_pool_that_is_used_up_is_told_as_such(on_postgresql_impatient):
    """More threads than connections is a setting to mend, not a reason to die."""
    store = SqlStore(on_postgresql_impatient)

    with (
        store.begin(),
        store.begin(),
        store.begin(),
        pytest.raises(StoreUnavailable, match="QueuePool limit"),
        store.begin(),
    ):
        pass


def test_a_file_that_another_writes_to_is_told_as_such(on_sqlite, on_sqlite_impatient):
    """SQLite has one writer at a time; the second waits for a while and then tries later."""
    with SqlStore(on_sqlite).begin(), pytest.raises(StoreUnavailable, match="locked"):
        SqlStore(on_sqlite_impatient).claim(None, limit=1, lease=LEASE)


def test_a_writer_waits_its_turn(on_sqlite, built):
    """Two processes on one file are slow, not broken."""
    patient = SqlStore(built(on_sqlite.url, busy_timeout=timedelta(seconds=20)))
    answers = []
    with SqlStore(on_sqlite).begin():
        second = threading.Thread(target=lambda: answers.append(patient.claim(None, limit=1, lease=LEASE)))
        second.start()
        second.join(0.1)
        assert [] == answers

    second.join()
    assert [[]] == answers


def test_a_look_does_not_wait_for_writers(on_sqlite, on_sqlite_impatient):
    """`list` and `show` must answer while the worker writes."""
    with SqlStore(on_sqlite).begin(), SqlStore(on_sqlite_impatient).read() as transaction:
        assert [] == transaction.listed(Filter(), limit=1)


def test_a_look_after_a_write_is_not_taken_for_another_write(on_sqlite_impatient, on_sqlite):
    """The same pooled connection serves both, and neither may inherit the other's way of beginning."""
    store = SqlStore(on_sqlite_impatient)
    with store.begin() as transaction:
        transaction.listed(Filter(), limit=1)

    with SqlStore(on_sqlite).begin():
        with store.read() as transaction:
            assert [] == transaction.listed(Filter(), limit=1)
        with pytest.raises(StoreUnavailable, match="locked"), store.begin():
            pass


def test_a_file_database_survives_power_loss_and_keeps_its_references(built, tmp_path):
    """Each of these is off in SQLite by default, and each has cost somebody data."""
    with built(f"sqlite:///{tmp_path}/post-purchase.db").connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }

    assert {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1} == found


def test_a_new_file_that_another_process_writes_to_is_waited_for(built, tmp_path):
    """The first start of an installation starts everything together, and at this one step SQLite does not wait."""
    file = tmp_path / "new.db"
    engine = built(f"sqlite:///{file}", busy_timeout=timedelta(seconds=20))
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE other (number INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    leaves = threading.Timer(0.2, other.execute, ["COMMIT"])
    leaves.start()

    with engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()

    leaves.join()
    other.close()
    assert "wal" == mode


def test_the_folder_of_a_file_database_is_made(built, tmp_path):
    """The first run of a new checkout has no `var` folder yet."""
    engine = built(f"sqlite:///{tmp_path}/var/deep/post-purchase.db")

    with engine.connect() as connection:
        assert 1 == connection.exec_driver_sql("SELECT 1").scalar()


def test_a_bug_stays_a_bug(store, given):
    """An error that no waiting mends must not be retried for ever as an outage."""
    command_id = given.one()

    with pytest.raises(IntegrityError), store.begin() as transaction:
        transaction.insert_commands([given.new(id=command_id)], published_for=LEASE)


def test_building_an_engine_connects_to_nothing(built, nobody, tmp_path):
    """A host builds it in a process that may fork, or never enqueue."""
    built(f"postgresql+psycopg://127.0.0.1:{nobody}/shop")
    built(f"sqlite:///{tmp_path}/none.db")

    assert not (tmp_path / "none.db").exists()
