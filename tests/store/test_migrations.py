from __future__ import annotations

import shutil
from datetime import timedelta
from uuid import uuid4

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, event, insert, inspect, make_url, select, text

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

revision = "9999"
down_revision = "0004"

def upgrade():
    {upgrade}

def downgrade():
    pass
'''


def built(url):
    return build_engine(
        url,
        pool_size=2,
        busy_timeout=timedelta(seconds=20),
        connect_timeout=timedelta(seconds=5),
        statement_timeout=timedelta(seconds=20),
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
        (folder / "versions" / "9999_later.py").write_text(VERSION.format(upgrade=upgrade))
        return folder

    return make


def tables(engine):
    return set(inspect(engine).get_table_names())


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

    with pytest.raises(SchemaMismatch, match=r"found 0004, expected 9999.*post-purchase db upgrade"):
        migrate.require(empty, later("pass"))


def test_a_schema_that_is_ahead_is_refused_without_a_step_back(empty, later):
    """Old code on a newer schema: upgrading cannot help, and downgrading would lose what the newer tables hold."""
    migrate.upgrade(empty, later("pass"))

    with pytest.raises(SchemaMismatch, match=r"found 9999, expected 0004.*install the version that made it") as raised:
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
    assert "0004" == migrate.current(empty)
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
