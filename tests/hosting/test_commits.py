from __future__ import annotations

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool


def test_a_commit_stores_the_command_with_the_hosts_own_change(host, transaction):
    """Parcel and capture belong together: both are there, for everybody."""
    host.ship(transaction)
    (enqueued,) = host.enqueue(transaction, host.capture())
    assert [] == host.commands()

    transaction.commit()

    assert ([1], [enqueued.id]) == (host.parcels(), [row.id for row in host.commands()])


def test_a_rollback_leaves_nothing(host, transaction):
    """A parcel that was not shipped must not be paid for."""
    host.ship(transaction)
    host.enqueue(transaction, host.capture())

    transaction.rollback()
    transaction.close()

    assert ([], [], []) == (host.parcels(), host.commands(), host.publisher.published)


def test_a_transaction_that_is_only_closed_leaves_nothing(host, transaction):
    """Closing without a commit is a rollback, and the pool hands the connection to the next caller."""
    host.enqueue(transaction, host.capture())
    transaction.close()

    with host.engine.begin() as connection:
        host.ship(connection)

    assert ([1], [], []) == (host.parcels(), host.commands(), host.publisher.published)


def test_a_command_is_published_after_its_commit_and_not_before(host, transaction):
    """A worker that is faster than the commit would find nothing and go away."""
    (enqueued,) = host.enqueue(transaction, host.capture())
    assert [] == host.publisher.published

    transaction.commit()
    transaction.close()

    assert [enqueued.id] == host.publisher.published


def test_a_transaction_that_began_before_the_first_enqueue_is_followed_too(host):
    """The host's first enqueue of all comes in the middle of a transaction."""
    with host.engine.begin() as connection:
        host.ship(connection)
        (enqueued,) = host.enqueue(connection, host.capture())
        assert [] == host.publisher.published

    assert [enqueued.id] == host.publisher.published


def test_a_connection_that_commits_as_it_goes_publishes_with_its_next_transaction(host):
    """A script may keep one connection for hours; its commands must not wait for its end."""
    with host.engine.connect() as connection:
        (first,) = host.enqueue(connection, host.capture(order_id="o-1"))
        connection.commit()
        (second,) = host.enqueue(connection, host.capture(order_id="o-2"))
        assert [first.id] == host.publisher.published
        connection.rollback()
        host.ship(connection)
        connection.commit()

    assert [first.id] == host.publisher.published
    assert [first.id] == [row.id for row in host.commands()]
    assert second.id != first.id


def test_commands_of_one_transaction_are_published_in_their_order_with_readable_labels(host):
    """Flower shows what waits, and the first of an order should come first."""
    with host.engine.begin() as connection:
        one = host.enqueue(connection, host.capture(order_id="o-1"), host.capture(order_id="o-2"))
        two = host.enqueue(connection, host.capture(order_id="o-3"))

    assert [each.id for each in one + two] == host.publisher.published
    assert [True] * 3 == [label.startswith("capture klarna-eu o-") for label in host.publisher.labels]


def test_a_command_that_dispatch_is_to_hand_out_is_not_published(host):
    """Above the rate of single messages, and with a moment still to come, batches are cheaper."""
    with host.engine.begin() as connection:
        host.enqueue(connection, host.capture(order_id="o-1", due_at="2040-01-01T00:00:00Z"))
        host.publisher.grants = False
        host.enqueue(connection, host.capture(order_id="o-2"))

    assert [] == host.publisher.published
    assert [None, None] == [row.published_until for row in host.commands()]


def test_what_was_stored_before_is_not_published_again(host):
    """A repeat is recognised; its message has long been sent, or dispatch sends it."""
    with host.engine.begin() as connection:
        host.enqueue(connection, host.capture(reference="parcel-1"))
    published = list(host.publisher.published)

    with host.engine.begin() as connection:
        host.enqueue(connection, host.capture(reference="parcel-1"))

    assert 1 == len(published)
    assert published == host.publisher.published


# --- savepoints --------------------------------------------------------------------------------------------


def test_releasing_a_savepoint_publishes_nothing(host_on_postgresql):
    """The outer transaction can still be rolled back."""
    host = host_on_postgresql
    with host.engine.begin() as connection:
        with connection.begin_nested():
            (enqueued,) = host.enqueue(connection, host.capture())
        assert [] == host.publisher.published

    assert [enqueued.id] == host.publisher.published


def test_a_savepoint_that_is_rolled_back_takes_its_commands_with_it(host_on_postgresql):
    """The host tried something, gave it up, and went on."""
    host = host_on_postgresql
    with host.engine.begin() as connection:
        (before,) = host.enqueue(connection, host.capture(order_id="o-1"))
        savepoint = connection.begin_nested()
        host.enqueue(connection, host.capture(order_id="o-2"))
        with connection.begin_nested():
            host.enqueue(connection, host.capture(order_id="o-3"))
        savepoint.rollback()
        (after,) = host.enqueue(connection, host.capture(order_id="o-4"))

    assert [before.id, after.id] == [row.id for row in host.commands()]
    assert [before.id, after.id] == host.publisher.published


def test_a_savepoint_begun_before_the_first_enqueue_takes_its_commands_with_it(host_on_postgresql):
    """The host's first enqueue of all comes inside a savepoint."""
    host = host_on_postgresql
    with host.engine.begin() as connection:
        savepoint = connection.begin_nested()
        host.enqueue(connection, host.capture(order_id="o-1"))
        savepoint.rollback()
        (after,) = host.enqueue(connection, host.capture(order_id="o-2"))

    assert [after.id] == host.publisher.published


def test_a_nested_session_publishes_nothing_until_the_outermost_commit(host_on_postgresql):
    """A session announces the release of its savepoint as a commit."""
    host = host_on_postgresql
    with Session(host.engine) as session:
        with session.begin_nested():
            (one,) = host.enqueue(session, host.capture(order_id="o-1"))
        given_up = session.begin_nested()
        host.enqueue(session, host.capture(order_id="o-2"))
        given_up.rollback()
        assert [] == host.publisher.published
        session.commit()

    assert [one.id] == host.publisher.published


@pytest.mark.parametrize("mode", ["create_savepoint", "conditional_savepoint", "control_fully", "rollback_only"])
def test_a_session_inside_an_outer_transaction_publishes_after_that_one(host_on_postgresql, mode):
    """Test suites and frameworks wrap sessions in transactions of their own; only the outermost commit is one."""
    host = host_on_postgresql
    with host.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            (enqueued,) = host.enqueue(session, host.capture())
            session.commit()
        inside = list(host.publisher.published)
        if outer.is_active:
            outer.commit()

    assert [enqueued.id] == host.publisher.published
    assert [] == inside


def test_a_session_inside_an_outer_transaction_that_is_rolled_back_publishes_nothing(host_on_postgresql):
    """This is how hosts test: everything the test commits is rolled back in the end."""
    host = host_on_postgresql
    with host.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            host.enqueue(session, host.capture())
            session.commit()
        outer.rollback()

    assert ([], []) == (host.commands(), host.publisher.published)


# --- commits that fail -------------------------------------------------------------------------------------


@pytest.fixture
def refusing_commits(host_on_postgresql):
    """A host whose database notices only at the commit that a parcel was shipped twice."""
    with host_on_postgresql.engine.begin() as connection:
        connection.execute(text("ALTER TABLE shop_parcel ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED"))
        connection.execute(text("ALTER TABLE shop_parcel DROP CONSTRAINT shop_parcel_pkey"))

    return host_on_postgresql


def ship_twice(host):
    with host.engine.begin() as connection:
        host.ship(connection)
        host.ship(connection)
        host.enqueue(connection, host.capture())


def test_a_commit_that_the_database_refuses_publishes_nothing(refusing_commits):
    """A deferred constraint speaks up at the commit, when SQLAlchemy has already announced it."""
    host = refusing_commits

    with pytest.raises(IntegrityError):
        ship_twice(host)

    with host.engine.begin() as connection:
        host.ship(connection, 2)
    assert ([2], [], []) == (host.parcels(), host.commands(), host.publisher.published)


def test_a_commit_refused_in_a_session_publishes_nothing(refusing_commits):
    """The same by the other road; the session rolls back by itself."""
    host = refusing_commits

    with Session(host.engine) as session:
        host.ship(session)
        host.ship(session)
        host.enqueue(session, host.capture())
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        host.ship(session, 2)
        session.commit()

    assert ([2], [], []) == (host.parcels(), host.commands(), host.publisher.published)


KILL = text("SELECT pg_terminate_backend(pg_backend_pid())")


def die_within(host):
    with host.engine.begin() as connection:
        host.enqueue(connection, host.capture())
        connection.execute(KILL)


def test_a_connection_that_dies_shows_the_host_its_own_error(host_on_postgresql):
    """What broke is the database; the host's handling of that must meet the error it knows."""
    host = host_on_postgresql

    with pytest.raises(OperationalError):
        die_within(host)

    with host.engine.begin() as connection:
        host.ship(connection)
    assert ([1], [], []) == (host.parcels(), host.commands(), host.publisher.published)


def test_a_connection_that_dies_can_be_rolled_back_and_used_again(host_on_postgresql):
    """A long-lived connection of the host heals by a rollback, as it did before we were there."""
    host = host_on_postgresql
    with host.engine.connect() as connection:
        host.enqueue(connection, host.capture())
        with pytest.raises(OperationalError):
            connection.execute(KILL)

        connection.rollback()

        (enqueued,) = host.enqueue(connection, host.capture())
        connection.commit()

    assert [enqueued.id] == host.publisher.published == [row.id for row in host.commands()]


def test_a_connection_that_dies_at_the_commit_publishes_nothing(host_on_postgresql):
    """Whether it was stored nobody knows; dispatch finds the row if it was."""
    host = host_on_postgresql

    @event.listens_for(host.engine, "commit")
    def cut(connection):
        with create_engine(host.engine.url, poolclass=NullPool).begin() as other:
            pid = connection.connection.driver_connection.info.backend_pid
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    with pytest.raises(DBAPIError), host.engine.begin() as connection:
        host.enqueue(connection, host.capture())
    event.remove(host.engine, "commit", cut)

    with host.engine.begin() as connection:
        host.ship(connection)
    assert ([1], [], []) == (host.parcels(), host.commands(), host.publisher.published)


# --- engines of many kinds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"poolclass": NullPool}, id="no pool"),
        pytest.param({"isolation_level": "AUTOCOMMIT"}, id="autocommit"),
    ],
)
def test_commands_are_published_whatever_the_engine_is_like(host_on, database_url, options):
    """Behind a pooling proxy a host keeps no pool; some hosts commit statement by statement."""
    host = host_on(database_url, **options)

    with host.engine.begin() as connection:
        (enqueued,) = host.enqueue(connection, host.capture())

    assert [enqueued.id] == host.publisher.published


def test_engines_made_of_one_another_are_followed(host):
    """A host gives some of its work other options; SQLAlchemy makes a second face of the same engine for it."""
    other = host.engine.execution_options(logging_token="exports")
    with host.engine.begin() as connection:
        (one,) = host.enqueue(connection, host.capture(order_id="o-1"))
    with other.begin() as connection:
        (two,) = host.enqueue(connection, host.capture(order_id="o-2"))

    assert [one.id, two.id] == host.publisher.published


def test_transactions_without_a_command_are_none_of_our_business(host):
    """Listening must cost the rest of the host's work nothing and say nothing about it."""
    with host.engine.begin() as connection:
        host.enqueue(connection, host.capture())
    published = list(host.publisher.published)

    with Session(host.engine) as session:
        host.ship(session)
        session.commit()
        host.ship(session, 2)
        session.rollback()

    assert published == host.publisher.published


@pytest.mark.parametrize("not_a_transaction", [None, "sqlite://", 7], ids=repr)
def test_what_holds_no_transaction_is_refused(host, not_a_transaction):
    """A command stored by itself would be the very loss that this package prevents."""
    with pytest.raises(TypeError, match="Connection or Session in whose transaction"):
        host.enqueue(not_a_transaction, host.capture())


def test_an_engine_is_refused(host):
    """It holds no transaction; one of its own would commit without the host's change."""
    with pytest.raises(TypeError, match="got Engine"):
        host.enqueue(host.engine, host.capture())
