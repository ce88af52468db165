from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, event, insert, inspect, make_url, select, text
from sqlalchemy.exc import IntegrityError

from worker.domain.errors import SchemaMismatch
from worker.ports import StoreUnavailable
from worker.resources import migrations_dir
from worker.store import migrate
from worker.store.engine import build_engine
from worker.store.schema import metadata

#: A version that may be laid beside ours: what `upgrade` and `downgrade` do is put in.
VERSION = '''
"""A later version."""
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{newest}"

def upgrade():
    {upgrade}

def downgrade():
    pass
'''


NEWEST = migrate.newest(migrations_dir())


def built(url, *, statement_timeout=timedelta(seconds=20)):
    return build_engine(
        url,
        pool_size=2,
        busy_timeout=timedelta(seconds=20),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=statement_timeout,
    )


@pytest.fixture
def empty_postgresql(postgresql_server):
    admin = create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    name = f"pp_empty_{uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine = built(make_url(postgresql_server).set(database=name))
    yield engine
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture
def empty_sqlite(tmp_path):
    engine = built(f"sqlite:///{tmp_path}/empty.db")
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request):
    """An engine on a database with nothing in it, once on each kind."""
    return request.getfixturevalue(f"empty_{request.param}")


@pytest.fixture
def host_tables(empty):
    """A host's own tables, as its own Alembic left them."""
    theirs = MetaData()
    for name in ("alembic_version", "shop_order", "post_purchases"):
        Table(name, theirs, Column("version", Integer))
    theirs.create_all(empty)
    with empty.begin() as connection:
        for table in theirs.sorted_tables:
            connection.execute(insert(table), {"version": 7})

    return theirs


@pytest.fixture
def later(tmp_path):
    """A folder of migrations that is one version further than ours, with the given body."""

    def make(upgrade):
        # Per cent and blank mean something in Alembic's own configuration.
        folder = tmp_path / "100% later" / "migrations"
        shutil.copytree(migrations_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "later.py").write_text(VERSION.format(newest=NEWEST, upgrade=upgrade))
        return folder

    return make


def tables(engine):
    return set(inspect(engine).get_table_names())


@pytest.fixture
def filled(empty):
    """A database of the first version with a command in an incident, one that was refused, and one that is done."""
    migrate.upgrade(empty, migrations_dir(), to="0001")
    tables = metadata.tables
    escalated, refused, done = (uuid4() for _ in range(3))
    incident, own, closed = (uuid4() for _ in range(3))
    with empty.begin() as connection:
        for number, command_id in enumerate((escalated, refused, done)):
            connection.execute(insert(tables["post_purchase_command"]).values(a_command(command_id, number)))
        for ticket_id, reason, state in (
            (incident, "ladder_exhausted", "open"),
            (own, "refused", "open"),
            (closed, "ladder_exhausted", "closed"),
        ):
            connection.execute(insert(tables["post_purchase_ticket"]).values(a_ticket(ticket_id, reason, state)))
        for ticket_id, command_id in ((incident, escalated), (own, refused), (closed, done)):
            link = {"ticket_id": ticket_id, "command_id": command_id, "linked_at": NOON}
            connection.execute(insert(tables["post_purchase_ticket_command"]).values(link))

    return empty


def a_command(command_id, number):
    return {
        "id": command_id,
        "account": "klarna-eu",
        "kind": "capture",
        "order_id": f"order-{number}",
        "keyed": True,
        "payload": b"{}",
        "fingerprint": "f",
        "idempotency_key": f"k-{number}",
        "created_at": NOON,
        "state": "pending",
        "claims": 0,
        "attempts": 0,
        "failures": 0,
        "throttles": 0,
        "in_doubt": False,
        "due_at": NOON,
        "problem": {"code": "no_answer"},
    }


def a_ticket(ticket_id, reason, state):
    return {
        "id": ticket_id,
        "account": "klarna-eu",
        "reason": reason,
        "state": state,
        "desk": "log",
        "external_ref": "T-1",
        "opened_at": NOON,
        "due_at": NOON,
        "published_until": NOON,
        "lease_until": NOON,
        "tries": 2,
        "problem": "away",
        "closed_at": NOON if state == "closed" else None,
    }


def rows_of(engine, *, without=()):
    """Everything that is stored, table by table, as it is stored."""
    found = {}
    for name in ("post_purchase_command", "post_purchase_ticket", "post_purchase_ticket_command"):
        with engine.connect() as connection:
            stored = connection.execute(text(f"SELECT * FROM {name}")).mappings().all()  # noqa: S608  # names of ours
        found[name] = sorted(
            tuple(sorted((key, str(value)) for key, value in row.items() if key not in without)) for row in stored
        )

    return found


NEW_COLUMNS = {"turn", "absent_at", "read_back", "is_incident", "tell_at", "told_at", "throttled_at"}

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

OURS = {table.name for table in metadata.sorted_tables}
CHANGES = ("SET", "CREATE", "ALTER", "DROP", "UPDATE", "INSERT", "DELETE")


def test_the_newest_version_is_what_the_code_works_with(empty):
    """Tables that only almost fit show it in the middle of a payment."""
    migrate.upgrade(empty, migrations_dir())

    assert [] == migrate.differences(empty)
    assert OURS | {migrate.VERSION_TABLE} == tables(empty)
    assert migrate.newest(migrations_dir()) == migrate.current(empty)
    migrate.require(empty, migrations_dir())


def test_the_comparison_sees_a_difference(empty):
    """A comparison that has gone blind passes on everything."""
    migrate.upgrade(empty, migrations_dir())
    with empty.begin() as connection:
        connection.execute(text("DROP INDEX ix_post_purchase_command_due"))
        connection.execute(text("ALTER TABLE post_purchase_ticket ADD COLUMN colour VARCHAR(10)"))

    found = "\n".join(migrate.differences(empty))

    assert "ix_post_purchase_command_due" in found
    assert "colour" in found


@pytest.mark.parametrize("kind", ["check", "index"])
def test_migrations_and_tables_agree_on_what_no_comparison_shows(empty, kind):
    """Alembic compares neither checks nor the conditions of partial indexes, and both are the law here."""
    migrate.upgrade(empty, migrations_dir())
    migrated = laws(empty, kind)
    migrate.downgrade(empty, migrations_dir(), to="base")

    metadata.create_all(empty)

    assert migrated
    assert laws(empty, kind) == migrated


def laws(engine, kind):
    found = inspect(engine)
    if kind == "check":
        return {
            (table, check["name"], check["sqltext"]) for table in OURS for check in found.get_check_constraints(table)
        }
    return {
        (table, index["name"], index["unique"], str(index["column_names"]), condition(index))
        for table in OURS
        for index in found.get_indexes(table)
    }


def condition(index):
    options = index.get("dialect_options", {})

    return str(options.get("postgresql_where", options.get("sqlite_where")))


def test_the_schema_goes_down_and_up_again(empty):
    """A release that must be taken back is taken back with its schema."""
    migrate.upgrade(empty, migrations_dir())

    migrate.downgrade(empty, migrations_dir(), to="base")
    down = tables(empty), migrate.current(empty)
    migrate.upgrade(empty, migrations_dir())

    assert ({migrate.VERSION_TABLE}, None) == down
    assert [] == migrate.differences(empty)


def test_a_new_version_keeps_what_is_stored_both_ways(filled):
    """Open tickets are somebody's work, and their links are all that says about which commands they are."""
    before = rows_of(filled)

    migrate.upgrade(filled, migrations_dir())
    up = rows_of(filled, without=NEW_COLUMNS)
    migrate.downgrade(filled, migrations_dir(), to="0001")
    down = rows_of(filled)

    assert 3 == len(before["post_purchase_ticket_command"])
    assert before == up == down


def test_a_new_version_knows_which_stored_tickets_are_incidents(filled):
    """The next command of the same cause must join the one that is open, not open another."""
    migrate.upgrade(filled, migrations_dir())

    ticket = metadata.tables["post_purchase_ticket"]
    with filled.connect() as connection:
        found = {tuple(row) for row in connection.execute(select(ticket.c.reason, ticket.c.is_incident))}
    assert {("ladder_exhausted", True), ("refused", False)} == found


@pytest.mark.parametrize("version", ["head", "0001"])
def test_no_version_loosens_what_tables_demand_of_each_other(filled, version):
    """A link without its ticket, or a second incident of one cause, would be found by nobody."""
    migrate.upgrade(filled, migrations_dir())
    if version != "head":
        migrate.downgrade(filled, migrations_dir(), to=version)
    incident = {"is_incident": True} if version == "head" else {}
    ticket = metadata.tables["post_purchase_ticket"]

    with pytest.raises(IntegrityError), filled.begin() as connection:
        connection.execute(text("DELETE FROM post_purchase_ticket"))
    with pytest.raises(IntegrityError), filled.begin() as connection:
        connection.execute(insert(ticket).values(a_ticket(uuid4(), "ladder_exhausted", "open") | incident))


def test_a_reason_of_this_version_keeps_the_schema_from_going_back(filled):
    """The old code would not know what to do with it; and refused halfway, nothing may be lost."""
    migrate.upgrade(filled, migrations_dir())
    migrate.downgrade(filled, migrations_dir(), to="0002")
    with filled.begin() as connection:
        connection.execute(text("UPDATE post_purchase_ticket SET reason = 'not_settled' WHERE state = 'closed'"))
    before = rows_of(filled)

    with pytest.raises(IntegrityError):
        migrate.downgrade(filled, migrations_dir(), to="0001")

    assert ("0002", before) == (migrate.current(filled), rows_of(filled))


def test_a_read_back_that_goes_on_keeps_the_schema_from_going_back(filled):
    """The old code would send what was only to be read about."""
    migrate.upgrade(filled, migrations_dir())
    migrate.downgrade(filled, migrations_dir(), to="0002")
    with filled.begin() as connection:
        reading = text(
            "UPDATE post_purchase_command SET read_back = '{\"purpose\": \"ticket\"}' WHERE order_id = 'order-0'"
        )
        connection.execute(reading)
    before = rows_of(filled)

    with pytest.raises(CommandError, match="commands being read back: 1"):
        migrate.downgrade(filled, migrations_dir(), to="0001")

    assert ("0002", before) == (migrate.current(filled), rows_of(filled))


def test_upgrading_twice_changes_nothing(empty):
    """Every release runs it, and so does every container that starts."""
    migrate.upgrade(empty, migrations_dir())

    with statements(empty) as seen:
        migrate.upgrade(empty, migrations_dir())

    assert [] == [each for each in seen if each.startswith(CHANGES)]
    assert [] == migrate.differences(empty)


def test_a_host_keeps_its_own_tables_and_versions(empty, host_tables):
    """We are guests in its database: its Alembic must find everything as it left it."""
    migrate.upgrade(empty, migrations_dir())
    assert [] == migrate.differences(empty)
    migrate.downgrade(empty, migrations_dir(), to="base")

    assert {*host_tables.tables, migrate.VERSION_TABLE} == tables(empty)
    with empty.begin() as connection:
        for table in host_tables.sorted_tables:
            assert [7] == list(connection.scalars(select(table.c.version)))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("post_purchase_command", True),
        (migrate.VERSION_TABLE, False),
        ("post_purchases", False),
        ("alembic_version", False),
        (None, False),
    ],
)
def test_our_tables_are_known_by_their_prefix(name, ours):
    """What is not ours is neither compared nor touched; the version table is Alembic's business."""
    assert ours is migrate.is_ours(name)


def test_a_missing_schema_is_refused_with_the_command_that_makes_it(empty):
    """The first start of a new installation is where everybody meets this."""
    with pytest.raises(SchemaMismatch, match=r"found none, expected .*post-purchase db upgrade") as raised:
        migrate.require(empty, migrations_dir())

    assert (None, migrate.newest(migrations_dir())) == (raised.value.found, raised.value.expected)


def test_a_schema_that_is_behind_is_refused_with_the_command_that_mends_it(empty, later):
    """New code was started before its release step ran."""
    migrate.upgrade(empty, migrations_dir())

    with pytest.raises(SchemaMismatch, match=rf"found {NEWEST}, expected later.*post-purchase db upgrade"):
        migrate.require(empty, later("pass"))


def test_a_schema_that_is_ahead_is_refused_without_a_step_back(empty, later):
    """Old code on a newer schema: upgrading cannot help, and downgrading would lose what the newer tables hold."""
    migrate.upgrade(empty, later("pass"))

    with pytest.raises(
        SchemaMismatch, match=rf"found later, expected {NEWEST}.*install the version that made it"
    ) as raised:
        migrate.require(empty, migrations_dir())

    assert "db upgrade" not in str(raised.value)


def test_a_database_that_is_away_is_not_taken_for_one_without_schema(tmp_path):
    """One is waited for, the other is mended by hand."""
    away = built("postgresql+psycopg://127.0.0.1:1/shop")

    with pytest.raises(StoreUnavailable):
        migrate.require(away, migrations_dir())


def test_a_version_that_fails_leaves_the_schema_as_it_was(empty, later):
    """Half a migration fits neither the old code nor the new, and nobody can run it again."""
    migrate.upgrade(empty, migrations_dir())
    folder = later('op.create_table("post_purchase_half", sa.Column("id", sa.Integer)); op.drop_table("no_such_table")')

    with pytest.raises(Exception, match="no_such_table"):
        migrate.upgrade(empty, folder)

    assert "post_purchase_half" not in tables(empty)
    assert migrate.current(empty) == NEWEST
    migrate.upgrade(empty, migrations_dir())
    assert [] == migrate.differences(empty)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_no_version_waits_long_for_a_lock(empty_postgresql, direction):
    """Behind a migration that waits for a lock, every worker of every process queues up."""
    versions = [each.revision for each in ScriptDirectory(str(migrations_dir())).walk_revisions()][::-1]
    if direction == "down":
        migrate.upgrade(empty_postgresql, migrations_dir())

    for number, version in enumerate(versions):
        with statements(empty_postgresql) as seen:
            if direction == "up":
                migrate.upgrade(empty_postgresql, migrations_dir(), to=version)
            else:
                migrate.downgrade(empty_postgresql, migrations_dir(), to=[*versions[::-1], "base"][number + 1])

        changes = [each for each in seen if migrate.VERSION_TABLE not in each]
        first = next(each for each in changes if each.startswith(CHANGES))
        assert first.startswith("SET LOCAL lock_timeout"), version


class statements:  # noqa: N801  # reads as a verb
    """Listens to what an engine is asked."""

    def __init__(self, engine):
        self._engine, self._seen = engine, []

    def __enter__(self):
        event.listen(self._engine, "before_cursor_execute", self._listen)
        return self._seen

    def __exit__(self, *_raised):
        event.remove(self._engine, "before_cursor_execute", self._listen)

    def _listen(self, _connection, _cursor, statement, _parameters, _context, _many):
        self._seen.append(statement.strip())


def test_upgrades_at_once_make_one_schema(empty, at_once):
    """Every container of a deployment runs the release step, all in the same second."""
    engines = [built(empty.url) for _ in range(4)]

    answers = at_once(4, lambda turn: migrate.upgrade(engines[turn], migrations_dir()))

    for engine in engines:
        engine.dispose()
    assert [None] * 4 == answers
    assert [] == migrate.differences(empty)


def test_an_upgrade_waits_for_anothers_longer_than_a_statement_may_take(empty_postgresql):
    """The first of several containers builds an index for minutes; the others must not fail and hold up the release."""
    impatient, answers = built(empty_postgresql.url, statement_timeout=timedelta(seconds=0.2)), []
    upgrade = threading.Thread(target=lambda: answers.append(migrate.upgrade(impatient, migrations_dir())))

    with empty_postgresql.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": migrate._LOCK})
        upgrade.start()
        upgrade.join(1)
        is_waiting = upgrade.is_alive()
        other.execute(text("SELECT pg_advisory_unlock_all()"))
    upgrade.join()
    impatient.dispose()

    assert is_waiting
    assert [None] == answers


def test_an_engine_works_on_after_a_migration(empty):
    """`make run` migrates and then works with the same process and the same pool."""
    migrate.upgrade(empty, migrations_dir())
    table = metadata.tables["post_purchase_action"]

    with empty.connect() as connection:
        connection.execute(text("CREATE TABLE shop (number INTEGER)"))
        connection.execute(text("INSERT INTO shop VALUES (1)"))
        connection.rollback()

    assert "shop" not in tables(empty)
    assert table.name in tables(empty)
