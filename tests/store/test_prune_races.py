"""An enqueue that meets the pruning of its own key on PostgreSQL, at every moment between the first and the last."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from worker.domain.state import State
from worker.ports import PrunedCommand
from worker.service.prune import Pruner
from worker.store.engine import SqlStore
from worker.store.schema import command, kept_key

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
LONG_AFTER = timedelta(days=36_500)
PUBLISHED_FOR = timedelta(seconds=10)
PATIENCE_SECONDS = 20.0
SERIALIZATION_FAILURE = "40001"
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
def database(on_postgresql):
    return on_postgresql


@pytest.fixture
def pruner(store):
    return Pruner(store=store, retention=timedelta(days=1), limit=100, archive=None)


@pytest.fixture
def ended(given, clock):
    """A command that ended long ago, under the key `key`."""
    command_id = given.now(State.SUCCEEDED, idempotency_key="key")
    clock.advance(LONG_AFTER)

    return command_id


@pytest.fixture(params=LEVELS)
def host(request, database, clock):
    """A host's transaction that has read something and goes on; at each level of isolation."""
    with database.connect().execution_options(isolation_level=request.param) as connection:
        connection.execute(text("SELECT count(*) FROM pg_class"))
        yield SqlStore(database, clock=clock).borrow(connection)


def repeat(transaction, given):
    """Enqueue the key again; what was stored, and what is known of the key."""
    again = given.new(idempotency_key="key")
    stored = transaction.insert_commands([again], published_for=PUBLISHED_FOR)

    return stored, list(transaction.find_by_key([("klarna-eu", "key")]).values())


def ids(database, table):
    with database.connect() as connection:
        return list(connection.scalars(select(table.c.id)))


def test_a_transaction_older_than_the_keys_keeps_the_rows(database, given, pruner, ended, host):
    """It cannot see the narrow table as it is now, so it must find the row."""
    held_up = pruner.run_once()

    stored, (known,) = repeat(host, given)
    host._connection.rollback()
    removed = pruner.run_once()

    assert (0, 1) == (held_up["commands"], held_up["waiting"])
    assert (set(), ended) == (stored, known.id)
    assert (1, 0) == (removed["commands"], removed["waiting"])
    assert ([], [ended]) == (ids(database, command), ids(database, kept_key))


@pytest.mark.parametrize("level", LEVELS)
def test_a_transaction_that_began_between_key_and_removal_sees_the_key(database, store, given, clock, ended, level):
    """It finds the row gone, in the middle of its own transaction, and must not take the key for free."""
    with store.begin() as transaction:
        transaction.keep_keys([ended])
    with database.connect().execution_options(isolation_level=level) as connection:
        connection.execute(text("SELECT count(*) FROM pg_class"))
        with store.begin() as transaction:
            transaction.prune(transaction.lock_prunable([ended], before=clock.now))

        stored, (known,) = repeat(store.borrow(connection), given)

    assert set() == stored
    assert ended == known.id


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_an_enqueue_that_waits_for_the_removal_finds_the_key(database, store, given, clock, ended, level, committed):
    """Its statement began while the row was there; when the wait is over the index says that the key is free."""
    with store.begin() as transaction:
        transaction.keep_keys([ended])

    with (
        ThreadPoolExecutor(1) as pool,
        database.connect().execution_options(isolation_level=level) as connection,
        store.begin() as removing,
    ):
        connection.execute(text("SELECT count(*) FROM pg_class"))
        removing.prune(removing.lock_prunable([ended], before=clock.now))
        answer = pool.submit(repeat, store.borrow(connection), given)
        until_it_waits(database, answer)
        if committed:
            removing._connection.commit()
        else:
            removing._connection.rollback()
        stored, (known,) = answer.result()
        connection.rollback()

    assert set() == stored
    assert (ended, not committed or level != LEVELS[0]) == (known.id, not isinstance(known, PrunedCommand))


def until_it_waits(database, answer):
    gives_up = time.monotonic() + PATIENCE_SECONDS
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(WAITING):
            assert not answer.done(), answer.result()
            assert time.monotonic() < gives_up
            time.sleep(0.005)


def test_an_open_transaction_is_seen_by_whom_the_server_shows_little(database, store):
    """The worker's own user is often no owner of the shop's sessions."""
    role = f"pp_{uuid4().hex[:12]}"
    with database.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role}"))
    with database.connect() as open_one, database.connect() as looking:
        before = store.borrow(looking).open_transactions()
        open_one.execute(text("SELECT count(*) FROM pg_class"))
        looking.execute(text(f"SET LOCAL ROLE {role}"))
        looking.execute(text("SELECT pg_stat_clear_snapshot()"))

        seen = store.borrow(looking).open_transactions()

    with database.begin() as connection:
        connection.execute(text(f"DROP ROLE {role}"))
    assert (0, 1) == (len(before), len(seen))


def test_two_pruners_at_once_remove_each_command_once(database, store, given, clock, at_once):
    """Every worker carries one."""
    made = {given.now(State.SUCCEEDED) for _ in range(60)}
    clock.advance(LONG_AFTER)
    pruners = [Pruner(store=store, retention=timedelta(days=1), limit=7, archive=None) for _ in range(4)]

    def work(turn):
        removed = 0
        while ids(database, command):
            removed += pruners[turn].run_once()["commands"]
        return removed

    answers = at_once(4, work)

    assert 60 == sum(answers)
    assert made == set(ids(database, kept_key))


@pytest.mark.parametrize("level", LEVELS)
def test_no_key_is_stored_twice_in_a_storm_of_repeats(database, store, given, clock, at_once, level):
    """Whatever the moment, a late duplicate finds the row or the key."""
    rounds, keys = 6, [f"key-{number}" for number in range(20)]
    twice = []

    def repeated_until_done(name):
        while True:
            with database.connect().execution_options(isolation_level=level) as connection:
                try:
                    again = given.new(idempotency_key=name)
                    stored = store.borrow(connection).insert_commands([again], published_for=PUBLISHED_FOR)
                    connection.commit()
                except OperationalError as error:
                    if error.orig.sqlstate != SERIALIZATION_FAILURE:  # as any write may meet at such a level
                        raise
                else:
                    return stored

    for number in range(rounds):
        names = [f"{number}-{key}" for key in keys]
        made = {name: given.now(State.SUCCEEDED, idempotency_key=name) for name in names}
        clock.advance(LONG_AFTER)
        pruner = Pruner(store=store, retention=timedelta(days=1), limit=5, archive=None)

        def work(turn, names=names, pruner=pruner):
            if turn == 0:
                removed = 0
                while removed < len(names):
                    removed += pruner.run_once()["commands"]
                return set()
            stored = set()
            for name in names[turn:] + names[:turn]:
                stored |= repeated_until_done(name)
            return stored

        answers = at_once(4, work)
        twice += [each for each in answers if each != set()]
        assert set(made.values()) <= set(ids(database, kept_key))

    assert [] == twice
