from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

PATIENCE_SECONDS = 20.0
SERIALIZATION_FAILURE = "40001"
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


def repeat_meanwhile(host, isolation_level):
    """Enqueue the same command in two transactions at once; the second comes while the first is not yet committed."""
    second = create_engine(host.engine.url, isolation_level=isolation_level)
    try:
        with ThreadPoolExecutor(1) as pool, second.connect() as connection, host.engine.connect() as first:
            connection.execute(text("SELECT count(*) FROM shop_parcel"))
            first_id = host.enqueue(first, host.capture(reference="parcel-1"))[0].id
            answer = pool.submit(host.enqueue, connection, host.capture(reference="parcel-1"))
            gives_up = time.monotonic() + PATIENCE_SECONDS
            while not waits(host) and not answer.done():
                assert time.monotonic() < gives_up
                time.sleep(0.005)
            first.commit()
            return first_id, answer.result()[0]
    finally:
        second.dispose()


def waits(host):
    with host.engine.connect() as connection:
        return connection.scalar(WAITING)


def test_a_concurrent_repeat_waits_and_gets_the_stored_command(host_on_postgresql):
    """Under READ COMMITTED, which is what PostgreSQL does unless told otherwise, nobody sees an error."""
    first_id, again = repeat_meanwhile(host_on_postgresql, "READ COMMITTED")

    assert (first_id, False) == (again.id, again.was_stored)


@pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_concurrent_repeat_fails_as_every_write_does_there(host_on_postgresql, isolation_level):
    """Such a host repeats its transactions anyway; a row it may not see cannot be answered with."""
    with pytest.raises(OperationalError) as raised:
        repeat_meanwhile(host_on_postgresql, isolation_level)

    assert SERIALIZATION_FAILURE == raised.value.orig.sqlstate
    assert 1 == len(host_on_postgresql.commands())


@pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_later_repeat_is_recognised_at_every_level(host_on_postgresql, isolation_level):
    """The transaction that is repeated after such a failure finds the command."""
    host = host_on_postgresql
    with host.engine.begin() as connection:
        (first,) = host.enqueue(connection, host.capture(reference="parcel-1"))
    strict = create_engine(host.engine.url, isolation_level=isolation_level)

    with strict.begin() as connection:
        (again,) = host.enqueue(connection, host.capture(reference="parcel-1"))

    strict.dispose()
    assert (first.id, False) == (again.id, again.was_stored)


def test_a_plain_sqlite_engine_is_rolled_back_cleanly(host_on, sqlite_url):
    """Python's own driver begins transactions by itself, and only before some statements."""
    host = host_on(sqlite_url)

    with host.engine.connect() as connection:
        host.enqueue(connection, host.capture(order_id="o-1"), host.capture(order_id="o-2"))
        connection.rollback()
        host.ship(connection)
        connection.rollback()

    assert ([], []) == (host.parcels(), host.commands())


def test_a_plain_sqlite_engine_is_free_for_others_after_its_commit(host_on, sqlite_url):
    """A transaction that stays open by mistake would lock the worker out of the file."""
    host = host_on(sqlite_url)

    with host.engine.connect() as connection:
        (enqueued,) = host.enqueue(connection, host.capture())
        connection.commit()
        with host.services.store.begin() as transaction:
            assert transaction.lock_command(enqueued.id) is not None
